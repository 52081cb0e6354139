// Package launch runs guests: what the units tandem-vm@.service and
// tandem-ct@.service call. It makes the command line of QEMU or of systemd-nspawn
// from the guest's volumes and its configuration file, and becomes that program.
//
// It does not decide whether the guest may run here: the unit's ExecCondition has
// asked before. pkg/cli/guests has the commands.
package launch

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/tandemd/tandem/pkg/guest"
)

// VM is the configuration file of a virtual machine.
type VM struct {
	// Memory is in MiB.
	Memory int `toml:"memory"`
	Cores  int `toml:"cores"`
	// Args are further arguments of QEMU; DrillArgs stand in their place in a drill.
	Args      []string `toml:"args"`
	DrillArgs []string `toml:"drill_args"`
}

// CT is the configuration file of a container.
type CT struct {
	// Command runs instead of the init that the root has.
	Command []string `toml:"command"`
	// KillSignal is sent to the container's first process when it is to stop. Without, an init gets the signal on which systemd's
	// powers off (SIGRTMIN+3), and a Command is killed.
	KillSignal string `toml:"kill_signal"`
	// Mounts are places in the container for the volumes after the first, which is the root.
	Mounts map[guest.Volume]string `toml:"mounts"`
	// Args are further arguments of systemd-nspawn; DrillArgs stand in their place in a drill.
	Args      []string `toml:"args"`
	DrillArgs []string `toml:"drill_args"`
}

// The limits of a VM.
const (
	defaultMemory, minMemory, maxMemory = 1024, 16, 16 << 20
	defaultCores, maxCores              = 1, 1024
)

// ParseVM reads and checks the file of a virtual machine. An empty one is good.
func ParseVM(text []byte) (VM, error) {
	c := VM{Memory: defaultMemory, Cores: defaultCores}
	if err := decode(text, &c); err != nil {
		return c, err
	}
	if c.Memory < minMemory || c.Memory > maxMemory {
		return c, fmt.Errorf("memory = %d: must be from %d to %d (MiB)", c.Memory, minMemory, maxMemory)
	}
	if c.Cores < 1 || c.Cores > maxCores {
		return c, fmt.Errorf("cores = %d: must be from 1 to %d", c.Cores, maxCores)
	}
	return c, errors.Join(checkArgs(c.Args), checkArgs(c.DrillArgs))
}

// ParseCT reads and checks the file of a container. An empty one is good.
func ParseCT(text []byte) (CT, error) {
	var c CT
	if err := decode(text, &c); err != nil {
		return c, err
	}
	if c.KillSignal != "" && (!strings.HasPrefix(c.KillSignal, "SIG") || strings.ContainsFunc(c.KillSignal, notInSignal)) {
		return c, fmt.Errorf("kill_signal = %q: must be the name of a signal, like SIGTERM", c.KillSignal)
	}
	if len(c.Command) > 0 && !path.IsAbs(c.Command[0]) {
		return c, fmt.Errorf("command = %q: must begin with an absolute path in the container", c.Command[0])
	}
	for _, v := range slices.SortedFunc(maps.Keys(c.Mounts), guest.Volume.Compare) {
		if at := c.Mounts[v]; !path.IsAbs(at) || path.Clean(at) != at || at == "/" || strings.ContainsAny(at, ":\\\n") {
			return c, fmt.Errorf("mounts: %s = %q: must be an absolute path in the container other than /", v, at)
		}
	}
	return c, errors.Join(checkArgs(c.Args), checkArgs(c.DrillArgs), checkArgs(c.Command))
}

func notInSignal(r rune) bool {
	return (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '+' && r != '-'
}

func checkArgs(args []string) error {
	for _, a := range args {
		if a == "" || strings.ContainsRune(a, 0) {
			return fmt.Errorf("the argument %q cannot be given to a program", a)
		}
	}
	return nil
}

// decode refuses what it does not know: a word that was mistyped would be without effect.
func decode(text []byte, v any) error {
	d := toml.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if strict, ok := errors.AsType[*toml.StrictMissingError](err); ok {
		return fmt.Errorf("unknown key:\n%s", strict.String())
	}
	if bad, ok := errors.AsType[*toml.DecodeError](err); ok {
		return fmt.Errorf("%s", bad.String())
	}
	return err
}

// read gives the guest's configuration file; an absent one is empty.
func (e Env) read(id guest.ID) (text []byte, file string, err error) {
	file = path.Join(e.Configs, id.String()+".conf")
	text, err = os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return text, file, err
}
