package sim

import (
	"context"
	"errors"
	"maps"
	"slices"
	"syscall"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/sim/simnet"
)

// inject lets one fault happen. Those that last end by themselves.
func (c *cluster) inject(f Fault) {
	all := c.present()
	m := all[f.Node%len(all)]
	if lead := c.leader(); f.Leader && lead != nil {
		m = lead.m
	}
	other := all[f.Other%len(all)]
	var happened bool
	switch f.Kind {
	case Loss, Delay, OneWay, Isolate, Partition:
		happened = c.weather(f, m.id, other.id, all)
	case PowerCut, Blackout, Kill, Pause:
		happened = c.stop(f, m, all)
	case Clock:
		happened = m.jump(f.Amount)
	case DiskFull, DiskError, DiskSlow, DiskHang:
		happened = c.spoil(f, m)
	case Restore:
		happened = c.restore(f, m)
	case Replace:
		happened = c.replace(f, m)
	case Join:
		happened = c.extend()
	case Force, ForceTwo, Return:
		happened = c.force(f, m, other, all)
	}
	if happened {
		c.count(f.Kind)
	}
}

func (c *cluster) count(k Kind) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults[k]++
}

// after calls end when the fault is over, or when all faults are.
func (c *cluster) after(d time.Duration, end func()) {
	c.repairs.Go(func() {
		c.rest(d)
		end()
	})
}

// rest sleeps; false if all faults were ended meanwhile.
func (c *cluster) rest(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-c.healing:
		return false
	}
}

// split says who is on which side.
func split(all []*machine, by uint64) (here, there []guest.NodeID) {
	for i, m := range all {
		if by>>(i%64)&1 == 0 {
			here = append(here, m.id)
		} else {
			there = append(there, m.id)
		}
	}
	return here, there
}

func others(all []*machine, but guest.NodeID) []guest.NodeID {
	var out []guest.NodeID
	for _, m := range all {
		if m.id != but {
			out = append(out, m.id)
		}
	}
	return out
}

func (c *cluster) weather(f Fault, node, other guest.NodeID, all []*machine) bool {
	var w []simnet.Weather
	one := []guest.NodeID{node}
	switch f.Kind {
	case Loss:
		w = []simnet.Weather{{From: one, Loss: f.Amount * 0.8}, {To: one, Loss: f.Amount * 0.8}}
		if f.Split%4 == 0 {
			w = []simnet.Weather{{Loss: f.Amount / 2}}
		}
	case Delay:
		late := time.Duration(f.Amount * f.Amount * float64(8*time.Second))
		w = []simnet.Weather{{From: one, Delay: late}}
		if f.Split%4 == 0 {
			w = []simnet.Weather{{Delay: late / 4}}
		}
	case OneWay:
		if node == other {
			return false
		}
		w = []simnet.Weather{{From: one, To: []guest.NodeID{other}, Cut: true}}
	case Isolate:
		rest := others(all, node)
		w = []simnet.Weather{{From: one, To: rest, Cut: true}, {From: rest, To: one, Cut: true}}
		if f.Split%4 < 2 { // Only one of the two directions.
			w = w[f.Split%4:][:1]
		}
	case Partition:
		here, there := split(all, f.Split)
		if len(here) == 0 || len(there) == 0 {
			return false
		}
		w = []simnet.Weather{{From: here, To: there, Cut: true}, {From: there, To: here, Cut: true}}
	default:
		return false
	}
	for _, one := range w {
		c.after(f.For, c.net.Add(one))
	}
	return true
}

func (c *cluster) stop(f Fault, m *machine, all []*machine) bool {
	switch f.Kind {
	case PowerCut:
		if !m.powerCut() {
			return false
		}
		c.after(f.For, m.turnOn)
	case Blackout:
		for i, one := range all {
			one.powerCut()
			c.after(f.For*time.Duration(1+f.Split>>(8*(i%8))&0xff)/256, one.turnOn)
		}
	case Kill:
		if !m.kill(m.running()) {
			return false
		}
		c.after(f.For/8, m.turnOn) // systemd starts it again soon.
	case Pause:
		p := m.running()
		if p == nil {
			return false
		}
		resume := m.disk.Hang()
		thaw := p.host.Freeze()
		c.after(f.For, func() { resume(); thaw() })
	default:
		return false
	}
	return true
}

// jump sets the wall clock wrong, or right again.
func (m *machine) jump(amount float64) bool {
	const years = 10 * 365 * 24 * time.Hour
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case amount < 0.3:
		m.clock = 0
	case amount < 0.6:
		m.clock = time.Duration((amount - 0.45) * float64(time.Hour))
	default:
		m.clock = time.Duration((amount - 0.8) * 5 * float64(years))
	}
	return true
}

// errDisk is what a failing disk answers.
var errDisk = errors.New("input/output error")

func (c *cluster) spoil(f Fault, m *machine) bool {
	switch f.Kind {
	case DiskFull:
		m.failing(syscall.ENOSPC, 1)
		c.after(f.For, func() { m.failing(nil, 0) })
	case DiskError:
		m.failing(errDisk, f.Amount)
		c.after(f.For, func() { m.failing(nil, 0) })
	case DiskSlow:
		m.disk.Delay(time.Duration(f.Amount * float64(2*time.Second)))
		c.after(f.For, func() { m.disk.Delay(writeTakes) })
	case DiskHang:
		c.after(f.For, m.disk.Hang())
	default:
		return false
	}
	return true
}

// failing lets a share of the writes fail.
func (m *machine) failing(err error, share float64) {
	m.mu.Lock()
	m.fails = err
	m.mu.Unlock()
	if err == nil {
		m.disk.FailWith(nil)
		return
	}
	m.disk.FailWith(func() error {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.rng.Float64() < share {
			return err
		}
		return nil
	})
}

const (
	// writeTakes is how long a healthy disk takes for a write.
	writeTakes = 2 * time.Millisecond
	// imageAge is how old an image is at least that is put back; restoreEvery how
	// long the cluster has to get over one. Two disks put back at a time may take
	// what was confirmed with them: no cluster can bear that.
	imageAge     = 30 * time.Second
	restoreEvery = 3 * time.Minute
)

// restore puts a disk back to an older image while its machine is off.
func (c *cluster) restore(f Fault, m *machine) bool {
	c.mu.Lock()
	due := c.restored == 0 || c.now()-c.restored > restoreEvery
	c.mu.Unlock()
	if !due || !c.whole() || !m.powerCut() {
		return false
	}
	m.restore(imageAge)
	c.mu.Lock()
	c.restored = c.now()
	c.mu.Unlock()
	c.after(f.For/4, m.turnOn)
	return true
}

// whole says whether a cluster of one generation, with a majority without this
// machine, has heard of it how far it was: otherwise nobody can tell that its disk
// is an older one, and no cluster can bear that.
func (c *cluster) whole() bool {
	lead, up := c.leader(), c.ready()
	if lead == nil || len(up) < len(c.present()) {
		return false
	}
	for _, p := range up {
		if !p.cons.Quorate() || p.cons.Generation() != lead.cons.Generation() {
			return false
		}
	}
	servers, err := lead.cons.Servers()
	votes := 0
	for _, s := range servers {
		if s.Voter {
			votes++
		}
	}
	return err == nil && votes >= minNodes
}

// picturing keeps images of all disks while faults go on.
func (c *cluster) picturing() {
	for c.rest(imageAge) {
		for _, m := range c.present() {
			m.picture()
		}
	}
}

// extend takes a new machine in.
func (c *cluster) extend() bool {
	if len(c.present()) >= maxNodes {
		return false
	}
	m := c.addMachine()
	m.turnOn()
	c.repairs.Go(func() {
		if c.join(m) != nil {
			m.leave()
		}
	})
	return true
}

const (
	maxNodes = 7
	minNodes = 3
)

// leave takes a machine out of the simulation.
func (m *machine) leave() {
	m.powerCut()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.left = true
}

// replace removes a member that owns nothing, and lets its machine join again:
// with what it had, or as a new one.
func (c *cluster) replace(f Fault, m *machine) bool {
	p, via := m.running(), c.leader()
	if p == nil || via == nil || via == p || p.consensus() == nil || len(c.present()) <= minNodes {
		return false
	}
	view := via.cons.View()
	if _, listed := view.Members[m.id]; !listed || slices.ContainsFunc(view.GuestList(), func(g guest.Guest) bool { return g.Owner == m.id }) {
		return false
	}
	op := ledger.RemoveMember{ID: m.id, DropJobs: true, Force: view.Forced}
	c.repairs.Go(func() {
		if c.remove(op) != Done {
			return
		}
		c.rest(f.For / 4) // It runs on for a while, removed.
		if f.Split%2 == 0 {
			m.leave()
			m = c.addMachine()
			m.turnOn()
		} else {
			m.powerCut()
			m.forget()
			m.turnOn()
		}
		if c.join(m) != nil {
			m.leave()
		}
	})
	return true
}

// remove is an operator who removes a member, and does not give up while faults go on.
func (c *cluster) remove(op ledger.RemoveMember) Verdict {
	w := want{op: op, tag: c.tag(operatorClient)}
	var entries []*Entry
	for id := firstGuest; id < firstGuest+guests; id++ {
		w.id = id
		entries = append(entries, c.enter(operatorClient, w))
	}
	a := answer{verdict: NotSent}
	for a.verdict == NotSent || a.verdict == Unknown {
		if p, ok := pick(c.chance(), c.ready()); ok {
			if next := c.send(context.Background(), p, w); a.verdict != Unknown || next.verdict != NotSent {
				a = next
			}
		}
		if !c.rest(3 * time.Second) {
			break
		}
	}
	for _, e := range entries {
		c.history.end(e, a.verdict, a.reason, Shown{})
	}
	return a.verdict
}

// forget takes the machine out of the cluster; raft's folder, ID and key stay.
func (m *machine) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.files, func(name string, _ any) bool { return name == fileLedger })
}
