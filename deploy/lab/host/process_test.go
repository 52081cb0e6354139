package host_test

import (
	"testing"

	"github.com/tandemd/tandem/deploy/lab/host"
)

func TestKillAll_KnowsOnlyTheLabsOwn(t *testing.T) {
	const word = "/run/tandem-lab/lab/"
	for name, tt := range map[string]struct {
		exe, cmdline string
		want         bool
	}{
		"machine":             {"/usr/bin/qemu-system-x86_64", "qemu-system-x86_64\x00-qmp\x00unix:/run/tandem-lab/lab/n1/qmp.sock", true},
		"connection":          {"/usr/bin/ssh", "ssh\x00-S\x00/run/tandem-lab/lab/n1/ssh.ctl\x00n1", true},
		"other lab's machine": {"/usr/bin/qemu-system-x86_64", "qemu-system-x86_64\x00unix:/run/tandem-lab/lab2/n1/qmp.sock", false},
		"somebody's machine":  {"/usr/bin/qemu-system-x86_64", "qemu-system-x86_64\x00-hda\x00disk.img", false},
		"somebody reading":    {"/usr/bin/less", "less\x00/run/tandem-lab/lab/n1/console.log", false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := host.IsLab(tt.exe, []byte(tt.cmdline), word); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}
