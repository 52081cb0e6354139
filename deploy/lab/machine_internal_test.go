package lab

import (
	"errors"
	"strings"
	"testing"

	"github.com/tandemd/tandem/deploy/lab/host"
)

func TestMachine_APanicIsTheEmulationsOnlyBeforeZFSIsLoaded(t *testing.T) {
	m := &Machine{lab: newLab(Options{Name: "panics"}, host.NewProgress(nil)), name: "n3"}
	const last = "[    3.1] Kernel panic - not syncing: IO-APIC + timer doesn't work!\n[    3.2] CPU: 0\n"
	for console, emulation := range map[string]bool{
		"[    0.5] MP-BIOS bug\n" + last:                     true,
		"[   28.5] spl: module verification failed\n" + last: false,
	} {
		err := m.panicked(console)
		if errors.Is(err, errEmulation) != emulation {
			t.Errorf("%q: %v", console, err)
		}
		for _, word := range []string{"n3", "IO-APIC", "CPU: 0", strings.SplitN(console, "\n", 2)[0]} {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("the error does not say %q: %v", word, err)
			}
		}
	}
}
