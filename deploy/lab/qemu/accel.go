package qemu

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tandemd/tandem/deploy/lab/folder"
	"github.com/tandemd/tandem/deploy/lab/host"
	"github.com/tandemd/tandem/deploy/lab/image"
)

// probeTimeout is how long a probe machine may take to print its line; with working KVM it takes about a second.
const probeTimeout = 8 * time.Second

// probeLine is what the image's first stage prints.
const probeLine = "tandem-lab: probe"

// probeResult remembers which accelerator works on this host since it was booted.
type probeResult struct {
	Host  string `json:"host"` // what the result depends on
	Accel string `json:"accel"`
	Why   string `json:"why"`
}

// Choose tries KVM and falls back to emulation. A /dev/kvm that exists proves nothing: a machine has to run.
func Choose(ctx context.Context, cacheDir string, img image.Image, p *host.Progress) (string, error) {
	version, err := Version(ctx)
	if err != nil {
		return "", err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("tell this boot of the host: %w", err)
	}
	file := filepath.Join(cacheDir, "accel.json")
	id := fmt.Sprintf("%x", sha256.Sum256([]byte(img.Key()+version+string(boot))))
	var known probeResult
	if text, err := os.ReadFile(file); err == nil && json.Unmarshal(text, &known) == nil && known.Host == id {
		p.Say("accelerator: %s (%s)", known.Accel, known.Why)
		return known.Accel, nil
	}
	known = probeResult{Host: id, Accel: TCG}
	known.Why, err = probeKVM(ctx, img)
	switch {
	case ctx.Err() != nil:
		return "", context.Cause(ctx)
	case err != nil:
		known.Why = "no KVM: " + err.Error()
	default:
		known.Accel = KVM
	}
	p.Say("accelerator: %s (%s)", known.Accel, known.Why)
	return known.Accel, folder.WriteJSON(file, known)
}

// probeKVM starts a machine under KVM and returns how long it took to run, or why it did not.
func probeKVM(ctx context.Context, img image.Image) (string, error) {
	if _, err := os.Stat("/dev/kvm"); err != nil {
		return "", err
	}
	start := host.Now()
	limit, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	cmd := host.Command(limit, "qemu-system-x86_64", probeArgs(img, KVM)...)
	seen := &lineWatcher{want: probeLine, found: cancel}
	var stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = seen, &stderr
	err := host.RunBound(cmd)
	switch {
	case seen.matched:
		return fmt.Sprintf("a machine ran after %.1f s", host.Now().Sub(start).Seconds()), nil
	case limit.Err() != nil:
		return "", fmt.Errorf("a machine did not run within %s", probeTimeout)
	default:
		return "", fmt.Errorf("QEMU ended: %w: %s", err, host.Tail(stderr.String(), 2))
	}
}

// lineWatcher calls found when the wanted text goes by.
type lineWatcher struct {
	want    string
	found   func()
	text    []byte
	matched bool
}

var _ io.Writer = (*lineWatcher)(nil)

func (w *lineWatcher) Write(data []byte) (int, error) {
	w.text = append(w.text, data...)
	if !w.matched && bytes.Contains(w.text, []byte(w.want)) {
		w.matched = true
		w.found()
	}
	return len(data), nil
}

// Version is the first line of QEMU's own answer.
func Version(ctx context.Context) (string, error) {
	text, err := host.Run(ctx, "qemu-system-x86_64", "--version")
	if err != nil {
		return "", err
	}
	line, _, _ := strings.Cut(text, "\n")
	return line, nil
}

// HostCPU names the processor that machines see under KVM.
func HostCPU() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "model name") {
			return strings.TrimSpace(line)
		}
	}
	return ""
}
