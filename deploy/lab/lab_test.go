package lab_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tandemd/tandem/deploy/lab"
	"github.com/tandemd/tandem/deploy/lab/qemu"
)

func TestTemplateKey_TellsMachinesApart(t *testing.T) {
	base := qemu.Spec{Number: 1, MemoryMiB: 1024, CPUs: 2, Accel: qemu.TCG}
	key := lab.TemplateKey("QEMU 1", "cpu A", base, 8)
	other := base
	other.Number, other.Incoming, other.Run = 3, "/x", "/run/other"
	if got := lab.TemplateKey("QEMU 1", "cpu B", other, 8); got != key {
		t.Error("machines of one lab, or processors under emulation, must not differ in their key")
	}
	memory, kvm := base, base
	memory.MemoryMiB, kvm.Accel = 2048, qemu.KVM
	for name, got := range map[string]string{
		"memory": lab.TemplateKey("QEMU 1", "cpu A", memory, 8), "accelerator": lab.TemplateKey("QEMU 1", "cpu A", kvm, 8),
		"QEMU": lab.TemplateKey("QEMU 2", "cpu A", base, 8), "disk": lab.TemplateKey("QEMU 1", "cpu A", base, 9),
	} {
		if got == key {
			t.Errorf("another %s gives the same key", name)
		}
	}
	if lab.TemplateKey("QEMU 1", "cpu A", kvm, 8) == lab.TemplateKey("QEMU 1", "cpu B", kvm, 8) {
		t.Error("under KVM the host's processor is part of the machine")
	}
}

func TestOptions_Validate(t *testing.T) {
	if err := (lab.Options{}).Validate(); err != nil {
		t.Errorf("defaults: %v", err)
	}
	for want, opts := range map[string]lab.Options{
		"lab name":     {Name: "Bad_Name"},
		"machines":     {Nodes: 51},
		"memory":       {MemoryMiB: 100},
		"CPUs":         {CPUs: -1},
		"disk":         {DiskGiB: -1},
		"cache folder": {CacheDir: "/var/my cache"},
	} {
		if err := opts.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: got %v, want an error about %s", opts, err, want)
		}
	}
}

func TestMarkerFilter_FindsOnlyTheEnd(t *testing.T) {
	for name, tt := range map[string]struct {
		chunks []string
		out    string
		found  bool
	}{
		"none":         {[]string{"some ", "words"}, "some words", false},
		"at the end":   {[]string{"words", lab.Marker}, "words", true},
		"in pieces":    {[]string{"words" + lab.Marker[:7], lab.Marker[7:]}, "words", true},
		"alone":        {[]string{lab.Marker}, "", true},
		"in the midst": {[]string{lab.Marker, "more"}, lab.Marker + "more", false},
		"nothing":      {nil, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			found, err := lab.Filter(&out, tt.chunks...)
			if err != nil || found != tt.found || out.String() != tt.out {
				t.Errorf("got %q, %v, %v, want %q, %v", out.String(), found, err, tt.out, tt.found)
			}
		})
	}
}

func TestShellQuote_MakesOneWord(t *testing.T) {
	if got, want := lab.ShellQuote(`it's $HOME`), `'it'\''s $HOME'`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestSSHConfig_TrustsOnlyTheImagesKeys(t *testing.T) {
	got := lab.SSHConfig()
	for _, want := range []string{
		"Host n1\n\tHostName 10.88.0.11\n", "IdentityFile /cache/images/k/id_ed25519", "UserKnownHostsFile /cache/images/k/known_hosts",
		"StrictHostKeyChecking yes", "ServerAliveInterval 5",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("configuration lacks %q:\n%s", want, got)
		}
	}
}

func TestOpen_SaysThatTheLabIsDown(t *testing.T) {
	_, err := lab.Open("no-such-lab", lab.Options{})
	var down *lab.DownError
	if !errors.As(err, &down) || !strings.Contains(err.Error(), `"no-such-lab" is not up`) {
		t.Errorf("got %v, want a DownError that names the lab", err)
	}
}

func TestFindTree(t *testing.T) {
	tree := t.TempDir()
	deep := filepath.Join(tree, "a", "b")
	if err := os.MkdirAll(deep, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := lab.FindTree(deep); err == nil || !strings.Contains(err.Error(), "work tree") {
		t.Errorf("without go.mod: %v", err)
	}
	if err := os.WriteFile(filepath.Join(tree, "go.mod"), []byte("module github.com/tandemd/tandem\n\ngo 1.26\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := lab.FindTree(deep); err != nil || got != tree {
		t.Errorf("got %q, %v, want %q", got, err, tree)
	}
}
