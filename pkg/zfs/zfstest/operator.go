package zfstest

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/tandemd/tandem/pkg/zfs"
	"github.com/tandemd/tandem/pkg/zfs/zerr"
	"github.com/tandemd/tandem/pkg/zfs/zfstest/content"
	"github.com/tandemd/tandem/pkg/zfs/zfstest/disk"
)

// Create makes a dataset: a zvol of volsize bytes, or a filesystem if it is 0. Its parent must exist.
func (p *Pool) Create(name string, volsize uint64, props map[string]string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	parent := p.datasets[parentOf(name)]
	switch {
	case parent == nil:
		return zerr.New("create", name, 1, fmt.Sprintf("cannot create '%s': parent does not exist", name))
	case parent.Type != zfs.TypeFilesystem:
		return zerr.New("create", name, 1, fmt.Sprintf("cannot create '%s': parent is not a filesystem", name))
	case p.datasets[name] != nil:
		return zerr.New("create", name, 1, fmt.Sprintf("cannot create '%s': dataset already exists", name))
	}
	typ := zfs.TypeFilesystem
	if volsize > 0 {
		typ = zfs.TypeVolume
	}
	d := p.add(name, typ)
	d.Live.VolSize = volsize
	d.Mounted = typ == zfs.TypeFilesystem && props["canmount"] == ""
	maps.Copy(d.Props, props)
	return nil
}

// Write puts data into a dataset at an offset, both multiples of 4 KiB; zeroes are holes. As an operator's or guest's write
// does, it fails on a read-only dataset and on a full pool.
func (p *Pool) Write(name string, offset int64, data []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	d, err := p.open("write", name)
	if err != nil {
		return err
	}
	if offset%content.BlockSize != 0 || len(data)%content.BlockSize != 0 {
		return fmt.Errorf("write %s: offset %d and length %d: want multiples of %d", name, offset, len(data), content.BlockSize)
	}
	if value, _ := p.effective(d, "readonly"); value == "on" {
		return fmt.Errorf("write %s: read-only file system", name)
	}
	if why := p.room(name, uint64(len(data))); why != "" {
		return fmt.Errorf("write %s: no space left on device: %s", name, why)
	}
	p.txg++
	zero := make([]byte, content.BlockSize)
	for chunk := range slices.Chunk(data, content.BlockSize) {
		keep := slices.Clone(chunk)
		if slices.Equal(chunk, zero) {
			keep = nil
		}
		d.Live.Put(offset/content.BlockSize, keep, p.txg, d.Since())
		offset += content.BlockSize
	}
	return nil
}

// Read returns all that a dataset or snapshot holds: a zvol's whole size, a filesystem's bytes up to the last written.
func (p *Pool) Read(name string) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if d := p.datasets[name]; d != nil {
		return d.Live.Bytes(), nil
	}
	s, err := p.openSnap("read", name)
	if err != nil {
		return nil, err
	}
	return s.Content.Bytes(), nil
}

// Rollback does what an operator's `zfs rollback -r` does.
func (p *Pool) Rollback(snap string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	s, err := p.openSnap("rollback", snap)
	if err != nil {
		return err
	}
	s.Of.Snaps = slices.DeleteFunc(s.Of.Snaps, func(o *disk.Snapshot) bool { return o.CreateTXG > s.CreateTXG })
	maps.DeleteFunc(s.Of.Marks, func(_ string, m *disk.Snapshot) bool { return m.CreateTXG > s.CreateTXG })
	s.Of.Live = s.Content.Share()
	s.Of.Recount()
	return nil
}

// Destroy does what an operator's `zfs destroy -r` does.
func (p *Pool) Destroy(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for other := range p.datasets {
		if other == name || len(other) > len(name) && other[:len(name)+1] == name+"/" {
			delete(p.datasets, other)
		}
	}
}

// SetBusy makes a dataset one that somebody has open: it cannot be unmounted, renamed (filesystem) or destroyed.
func (p *Pool) SetBusy(name string, busy bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if d := p.datasets[name]; d != nil {
		d.Busy = busy
	}
}

// SetKey makes an encrypted dataset's key loaded or not.
func (p *Pool) SetKey(name string, loaded bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if d := p.datasets[name]; d != nil {
		if root := p.keyRoot(d); root != nil {
			d = root
		}
		d.Keyless = !loaded
	}
}

// PoolState is what [Pool.SetPool] sets.
type PoolState struct {
	// Exported: the pool is not imported. Suspended: its disks are gone.
	Exported, Suspended bool
	// ReadOnly: it is imported so, and takes no change.
	ReadOnly bool
	// Features are told instead of the usual ones; nil leaves them.
	Features map[string]string
	// Size in bytes; 0 leaves it.
	Size uint64
}

// SetPool changes a pool's state.
func (p *Pool) SetPool(pool string, state PoolState) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if v, ok := p.pools[pool]; ok {
		state.Size = cmp.Or(state.Size, v.Size)
		if state.Features == nil {
			state.Features = v.Features
		}
		p.pools[pool] = state
	}
}

func (p *Pool) effective(d *disk.Dataset, prop string) (value, source string) {
	var chain []*disk.Dataset
	for at := d.Name; at != ""; at = parentOf(at) {
		chain = append(chain, p.datasets[at])
	}
	return disk.Effective(prop, chain)
}

// All are the full names of all datasets and snapshots, with their GUIDs. It is no operation: nobody is asked and nothing counts it.
func (p *Pool) All() map[string]uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[string]uint64{}
	for name, d := range p.datasets {
		out[name] = d.GUID
		for _, s := range d.Snaps {
			out[s.Full()] = s.GUID
		}
	}
	return out
}
