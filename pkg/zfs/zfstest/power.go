package zfstest

import (
	"errors"

	"github.com/tandemd/tandem/pkg/zfs/zerr"
	"github.com/tandemd/tandem/pkg/zfs/zfstest/disk"
)

// power is what a power cut goes back to.
type power struct {
	life   int                      // counts the cuts and kills
	stable map[string]*disk.Dataset // by the last synced transaction group
}

// PowerCut is what a machine is after its power went: operations that run end and have no more effect, nothing is being sent,
// received or mounted, and, if Options.Volatile, what was in no synced transaction group is gone.
func (p *Pool) PowerCut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.power.life++
	if p.power.stable == nil {
		p.power.stable = p.datasets
	}
	p.datasets = disk.Clone(p.power.stable)
	for _, d := range p.datasets {
		canmount, _ := p.effective(d, "canmount")
		d.Busy, d.Mounted = false, d.Mounted && canmount == "on"
	}
}

// Kill is what a machine is after the daemon and all that it started were killed: operations that run end and have no more effect,
// and nothing is being received. What they did until then stays.
func (p *Pool) Kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.power.life++
	for _, d := range p.datasets {
		d.Receiving = false
	}
}

// Sync writes a transaction group, as `zpool sync` and a guest's fsync do.
func (p *Pool) Sync() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.synced()
}

// synced notes that all is on the disks. Locked.
func (p *Pool) synced() {
	if p.opt.Volatile {
		p.power.stable = disk.Clone(p.datasets)
	}
}

func (p *Pool) life() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.power.life
}

// alive refuses an operation that began before the power went, or before it was killed. Locked.
func (p *Pool) alive(life int, op, name string) error {
	if life == p.power.life {
		return nil
	}
	return &zerr.Error{Op: op, Dataset: name, Class: zerr.Canceled, Exit: -1, Err: errors.New("the process was killed")}
}
