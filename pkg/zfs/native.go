package zfs

import (
	"context"
	"strconv"
	"strings"

	"github.com/tandemd/tandem/pkg/plan/manifest"
	"github.com/tandemd/tandem/pkg/zfs/zname"
)

// NativeProps are the properties that [Dataset.Native] tells: those that go with a volume, and what its streams need. None is
// younger than OpenZFS 2.1: one unknown name makes zfs tell nothing at all.
func NativeProps() []string { return append(manifest.Properties(), "volblocksize") }

func (d *Dataset) addNative(name string, p Property) {
	if p.Value == "-" && p.Source == "-" {
		return // It does not apply.
	}
	if d.Native == nil {
		d.Native = make(map[string]Property)
	}
	d.Native[name] = p
	switch name {
	case "canmount":
		d.CanMount = p.Value
	case "mountpoint":
		d.Mountpoint = p.Value
	}
}

// Own are the values of [Dataset.Native] that were set on the dataset itself, or received.
func (d Dataset) Own() map[string]string {
	own := map[string]string{}
	for name, p := range d.Native {
		if p.Own() {
			own[name] = p.Value
		}
	}
	return own
}

// BlockSize is the recordsize of a filesystem, or the volblocksize of a zvol, in bytes; 0 where it is not known.
func (d Dataset) BlockSize() uint64 {
	name := "recordsize"
	if d.Type == TypeVolume {
		name = "volblocksize"
	}
	n, err := strconv.ParseUint(d.Native[name].Value, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// PoolFacts are what a pool can take.
type PoolFacts struct {
	// ReadOnly says that it is imported so.
	ReadOnly bool
	// Features are name (without "feature@") to disabled, enabled or active.
	Features map[string]string
}

// PoolFacts asks a pool: one process, and not for the path of every sync.
func (z *ZFS) PoolFacts(ctx context.Context, pool string) (PoolFacts, error) {
	if err := zname.Dataset(pool); err != nil {
		return PoolFacts{}, refuse("zpool get", pool, err)
	}
	out, _, err := z.outputs(ctx, call{
		op: "zpool get", bin: z.opt.ZPool, names: []string{pool}, timeout: z.opt.QueryTimeout,
		args: []string{"get", "-Hp", "-o", "property,value", "all", pool},
	})
	if err != nil {
		return PoolFacts{}, err
	}
	facts := PoolFacts{Features: make(map[string]string)}
	for line := range strings.Lines(out) {
		prop, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		if name, ok := strings.CutPrefix(prop, "feature@"); ok {
			facts.Features[name] = value
		}
		if prop == "readonly" {
			facts.ReadOnly = value == "on"
		}
	}
	return facts, nil
}
