package identity_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tandemd/tandem/pkg/identity"
	"github.com/tandemd/tandem/pkg/statefile"
)

func TestLoadOrCreate_StaysTheSame(t *testing.T) {
	dir := t.TempDir()
	if _, err := identity.Load(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("load of an empty folder: got %v, want fs.ErrNotExist", err)
	}
	made, err := identity.LoadOrCreate(dir)
	if err != nil {
		t.Fatal(err)
	}
	again, err := identity.LoadOrCreate(dir)
	if err != nil {
		t.Fatal(err)
	}
	if made.Node != again.Node || made.Fingerprint != again.Fingerprint {
		t.Errorf("a second start is %v %v, the first was %v %v", again.Node, again.Fingerprint, made.Node, made.Fingerprint)
	}
	if err := made.Node.Validate(); err != nil {
		t.Error(err)
	}
	key, ok := made.Certificate.PrivateKey.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		t.Errorf("key is %T, want ECDSA on P-256", made.Certificate.PrivateKey)
	}
	sum := sha256.Sum256(made.Certificate.Leaf.RawSubjectPublicKeyInfo)
	if want := hex.EncodeToString(sum[:]); made.Fingerprint != want {
		t.Errorf("fingerprint is %s, want %s", made.Fingerprint, want)
	}
	info, err := os.Stat(filepath.Join(dir, "node.json"))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the key is %v, want 0600", info.Mode().Perm())
	}
}

func TestLoadOrCreate_OtherFolderOtherNode(t *testing.T) {
	a, err := identity.LoadOrCreate(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b, err := identity.LoadOrCreate(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if a.Node == b.Node || a.Fingerprint == b.Fingerprint {
		t.Error("two nodes share an ID or a key")
	}
}

func TestLoadOrCreate_BrokenFileIsNeverOverwritten(t *testing.T) {
	dir := t.TempDir()
	if _, err := identity.LoadOrCreate(dir); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "node.json")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, damaged := range map[string][]byte{
		"empty":   {},
		"cut":     good[:len(good)/2],
		"flipped": append(append([]byte(nil), good[:200]...), append([]byte{good[200] ^ 1}, good[201:]...)...),
	} {
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := identity.LoadOrCreate(dir)
		var broken *statefile.BrokenError
		if !errors.As(err, &broken) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: got %v, want a BrokenError that names %s", name, err, path)
		}
		if after, _ := os.ReadFile(path); !cmp.Equal(damaged, after) {
			t.Errorf("%s: the file was overwritten", name)
		}
	}
}

// A file put together from two nodes has good checksums and must still be refused.
func TestLoad_KeyOfAnotherNode(t *testing.T) {
	type file struct {
		Node        string `json:"node"`
		Fingerprint string `json:"fingerprint"`
		Certificate string `json:"certificate"`
		Key         string `json:"key"`
	}
	var files [2]file
	var dirs [2]string
	for i := range files {
		dirs[i] = t.TempDir()
		if _, err := identity.LoadOrCreate(dirs[i]); err != nil {
			t.Fatal(err)
		}
		if err := statefile.Read(filepath.Join(dirs[i], "node.json"), &files[i]); err != nil {
			t.Fatal(err)
		}
	}
	mixed := map[string]file{
		"key":         {files[0].Node, files[0].Fingerprint, files[0].Certificate, files[1].Key},
		"certificate": {files[0].Node, files[0].Fingerprint, files[1].Certificate, files[1].Key},
		"no ID":       {"", files[0].Fingerprint, files[0].Certificate, files[0].Key},
		"no key":      {Node: files[0].Node},
	}
	for name, f := range mixed {
		path := filepath.Join(dirs[0], "node.json")
		if err := statefile.Write(path, f); err != nil {
			t.Fatal(err)
		}
		var broken *statefile.BrokenError
		if _, err := identity.Load(dirs[0]); !errors.As(err, &broken) || broken.Path != path {
			t.Errorf("%s: got %v, want a BrokenError", name, err)
		}
	}
}

// A state of an old node and a new identity do not fit to each other.
func TestLoadOrCreate_NotWhereAnotherFileTellsOfALostOne(t *testing.T) {
	dir := t.TempDir()
	other := filepath.Join(dir, "cluster.json")
	if err := os.WriteFile(other, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := identity.LoadOrCreate(dir, "cluster.json")
	lost, _ := errors.AsType[*identity.LostError](err)
	if lost == nil || !strings.Contains(err.Error(), other) || !strings.Contains(lost.Hint(), "backup") {
		t.Errorf("got %v, want a LostError that names %s and says what to do", err, other)
	}
	if _, err := identity.Load(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it made an identity: %v", err)
	}
}

// FuzzLoad: a file with a good checksum and anything in it.
func FuzzLoad(f *testing.F) {
	dir := f.TempDir()
	if _, err := identity.LoadOrCreate(dir); err != nil {
		f.Fatal(err)
	}
	path := filepath.Join(dir, "node.json")
	var good json.RawMessage
	if err := statefile.Read(path, &good); err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(good))
	f.Add([]byte(`{"node":"0123456789abcdef0123456789abcdef","certificate":"","key":""}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		if !json.Valid(body) {
			return
		}
		if err := statefile.Write(path, json.RawMessage(body)); err != nil {
			t.Fatal(err)
		}
		id, err := identity.Load(dir)
		if _, ok := errors.AsType[*statefile.BrokenError](err); err != nil && !ok {
			t.Errorf("got %v, want a BrokenError", err)
		}
		if err == nil && (id.Node.Validate() != nil || id.Certificate.PrivateKey == nil) {
			t.Errorf("accepted %+v", id)
		}
	})
}
