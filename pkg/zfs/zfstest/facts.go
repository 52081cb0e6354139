package zfstest

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/tandemd/tandem/pkg/zfs"
	"github.com/tandemd/tandem/pkg/zfs/zerr"
	"github.com/tandemd/tandem/pkg/zfs/zfstest/disk"
	"github.com/tandemd/tandem/pkg/zfs/zname"
)

// native fills in what List tells of a dataset's native properties. Locked.
func (p *Pool) native(d *disk.Dataset, out *zfs.Dataset) {
	out.Native = map[string]zfs.Property{}
	for _, name := range append(zfs.NativeProps(), "readonly") {
		if value, source := p.effective(d, name); source != "-" {
			out.Native[name] = zfs.Property{Value: value, Source: source}
		}
	}
	out.ReadOnly = out.Native["readonly"].Value == "on" || p.pools[zname.PoolOf(d.Name)].ReadOnly
	out.CanMount, out.Mountpoint = out.Native["canmount"].Value, out.Native["mountpoint"].Value
}

// PoolFacts is [zfs.ZFS.PoolFacts], of the features that matter to streams.
func (p *Pool) PoolFacts(ctx context.Context, pool string) (zfs.PoolFacts, error) {
	var out zfs.PoolFacts
	err := p.do(ctx, "PoolFacts", []string{pool}, func() error {
		out = zfs.PoolFacts{ReadOnly: p.pools[pool].ReadOnly, Features: map[string]string{
			"bookmark_v2": "enabled", "large_blocks": "enabled", "embedded_data": "active", "encryption": "enabled", "lz4_compress": "active",
			"large_dnode": "enabled", "zstd_compress": "enabled",
		}}
		if own := p.pools[pool].Features; own != nil {
			out.Features = maps.Clone(own)
		}
		return nil
	})
	return out, err
}

// reads says that an operation changes nothing, so that a pool that is imported read-only has it.
func reads(op string) bool {
	return slices.Contains([]string{
		"list", "List", "Children", "Properties", "Version", "PoolFacts", "Storage", "EstimateSend", "TokenInfo", "Send", "Holds",
	}, op)
}

// PoolTrouble is [zfs.ZFS.PoolTrouble].
func (p *Pool) PoolTrouble(pool string) (zfs.PoolTrouble, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch v, ok := p.pools[pool]; {
	case !ok || v.Exported:
		return zfs.PoolNotImported, nil
	case v.Suspended:
		return zfs.PoolSuspended, nil
	}
	return "", nil
}

// limits says what zfs says of limits that are to be set; what it keeps is in the map afterwards.
func limits(op, name string, props map[string]string) error {
	for _, prop := range []string{"quota", "refquota"} {
		if props[prop] == "0" {
			return zerr.New(op, name, 1, fmt.Sprintf("cannot set property for '%s': use 'none' to disable quota/refquota", name))
		}
	}
	return nil
}

// inheritable says what zfs says of properties whose value is a dataset's alone: they are set and not inherited.
func inheritable(prop string) error {
	switch prop {
	case "canmount", "quota", "refquota", "reservation", "refreservation", "volsize":
		return zerr.New("inherit", "", 1, fmt.Sprintf("'%s' property cannot be inherited", prop))
	}
	return nil
}

// keep puts properties into a dataset's own in the form in which zfs shows them.
func keep(own, props map[string]string) {
	for name, value := range props {
		if value == "none" && slices.Contains([]string{"quota", "refquota", "reservation", "refreservation"}, name) {
			value = "0"
		}
		own[name] = value
	}
}

// SetVersion upgrades the tools and the kernel module.
func (p *Pool) SetVersion(v string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.opt.Version = v
}
