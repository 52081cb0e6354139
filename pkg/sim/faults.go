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

// hit is a fault with what it hits at the moment.
type hit struct {
	Fault
	m, other *machine
	all      []*machine
}

// inject lets one fault happen. Those that last end by themselves.
func (c *cluster) inject(f Fault) {
	h := hit{Fault: f, all: c.present()}
	h.m, h.other = h.all[f.Node%len(h.all)], h.all[f.Other%len(h.all)]
	if lead := c.leader(); f.Leader && lead != nil {
		h.m = lead.m
	}
	if (!f.Kind.ends() || !c.delicate()) && c.happens(h) {
		c.count(f.Kind)
	}
}

// happens says whether the fault could be injected.
func (c *cluster) happens(h hit) bool {
	switch h.Kind {
	case Loss:
		return c.weather(h, h.loss())
	case Delay:
		return c.weather(h, h.delay())
	case OneWay:
		return h.m != h.other && c.weather(h, []simnet.Weather{{From: h.one(), To: []guest.NodeID{h.other.id}, Cut: true}})
	case Isolate:
		return c.weather(h, h.isolation())
	case Partition:
		return c.weather(h, h.partition())
	case PowerCut:
		return c.powerCut(h)
	case Blackout:
		return c.blackout(h)
	case Kill:
		return c.kill(h)
	case Pause:
		return c.pause(h)
	case Clock:
		return h.m.jump(h.Amount)
	case DiskFull:
		return c.spoil(h, syscall.ENOSPC, 1)
	case DiskError:
		return c.spoil(h, errDisk, h.Amount)
	case DiskSlow:
		return c.slowDown(h)
	case DiskHang:
		c.after(h.For, h.m.disk.Hang())
		return true
	case Restore:
		return c.restore(h)
	case Rollback, Straggle, Unheard:
		return c.trapped(h)
	case Replace:
		return c.replace(h)
	case Join:
		return c.extend()
	case Force:
		c.repairs.Go(func() { c.forceOne(h) })
		return true
	case ForceTwo:
		if h.m != h.other {
			c.repairs.Go(func() { c.forceTwo(h) })
		}
		return h.m != h.other
	case Return:
		c.repairs.Go(func() { c.comeBack(h) })
		return true
	}
	return false
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

func (h hit) one() []guest.NodeID { return []guest.NodeID{h.m.id} }

// others are all nodes but the one that is hit.
func (h hit) others() []guest.NodeID {
	var out []guest.NodeID
	for _, m := range h.all {
		if m != h.m {
			out = append(out, m.id)
		}
	}
	return out
}

func (h hit) loss() []simnet.Weather {
	if h.Split%4 == 0 {
		return []simnet.Weather{{Loss: h.Amount / 2}}
	}
	return []simnet.Weather{{From: h.one(), Loss: h.Amount * 0.8}, {To: h.one(), Loss: h.Amount * 0.8}}
}

func (h hit) delay() []simnet.Weather {
	late := time.Duration(h.Amount * h.Amount * float64(24*time.Second))
	if h.Split%4 == 0 {
		return []simnet.Weather{{Delay: late / 4}}
	}
	return []simnet.Weather{{From: h.one(), Delay: late}}
}

func both(a, b []guest.NodeID) []simnet.Weather {
	return []simnet.Weather{{From: a, To: b, Cut: true}, {From: b, To: a, Cut: true}}
}

func (h hit) isolation() []simnet.Weather {
	w := both(h.one(), h.others())
	if h.Split%4 < 2 { // Only one of the two directions.
		return w[h.Split%4:][:1]
	}
	return w
}

func (h hit) partition() []simnet.Weather {
	var here, there []guest.NodeID
	for i, m := range h.all {
		if h.Split>>(i%64)&1 == 0 {
			here = append(here, m.id)
		} else {
			there = append(there, m.id)
		}
	}
	if len(here) == 0 || len(there) == 0 {
		return nil
	}
	return both(here, there)
}

func (c *cluster) weather(h hit, all []simnet.Weather) bool {
	for _, w := range all {
		c.after(h.For, c.net.Add(w))
	}
	return len(all) > 0
}

func (c *cluster) powerCut(h hit) bool {
	if !h.m.powerCut() {
		return false
	}
	c.after(h.For, h.m.turnOn)
	return true
}

func (c *cluster) blackout(h hit) bool {
	for i, one := range h.all {
		one.powerCut()
		c.after(h.For*time.Duration(1+h.Split>>(8*(i%8))&0xff)/256, one.turnOn)
	}
	return true
}

func (c *cluster) kill(h hit) bool {
	if !h.m.kill(h.m.running()) {
		return false
	}
	c.after(h.For/8, h.m.turnOn) // systemd starts it again soon.
	return true
}

func (c *cluster) pause(h hit) bool {
	p := h.m.running()
	if p == nil {
		return false
	}
	resume, thaw := h.m.disk.Hang(), p.host.Freeze()
	c.after(h.For, func() { resume(); thaw() })
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

// spoil lets a share of a disk's writes fail.
func (c *cluster) spoil(h hit, err error, share float64) bool {
	h.m.failing(err, share)
	c.after(h.For, func() { h.m.failing(nil, 0) })
	return true
}

func (c *cluster) slowDown(h hit) bool {
	h.m.disk.Delay(time.Duration(h.Amount * float64(2*time.Second)))
	c.after(h.For, func() { h.m.disk.Delay(writeTakes) })
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
func (c *cluster) restore(h hit) bool {
	if !c.whole() || !c.mayRestore() {
		return false
	}
	done := c.puttingBack(h.m)
	h.m.powerCut()
	h.m.restore(h.m.imageOf(imageAge))
	c.after(h.For/4, func() {
		h.m.turnOn()
		done()
	})
	return true
}

// mayRestore says whether the last disk was put back long enough ago.
func (c *cluster) mayRestore() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.removing > 0 {
		return false // It takes one of those who could bear the loss.
	}
	if c.restored != 0 && c.now()-c.restored < restoreEvery {
		return false
	}
	c.restored = c.now()
	return true
}

// whole says whether the cluster is one, with a majority without any one machine:
// then each has heard how far the others are. Otherwise nobody could tell that a
// disk is an older one, and no cluster can bear that.
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
			m.keeps(m.picture())
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
func (c *cluster) replace(h hit) bool {
	m := h.m
	p, via := m.running(), c.leader()
	if p == nil || via == nil || via == p || p.consensus() == nil || len(c.present()) <= minNodes {
		return false
	}
	view := via.cons.View()
	if _, listed := view.Members[m.id]; !listed || slices.ContainsFunc(view.GuestList(), func(g guest.Guest) bool { return g.Owner == m.id }) {
		return false
	}
	op := ledger.RemoveMember{ID: m.id, DropJobs: true, Force: view.Forced}
	if !c.mayRemove() {
		return false
	}
	c.repairs.Go(func() {
		verdict := c.remove(op)
		c.mu.Lock()
		c.removing--
		c.mu.Unlock()
		if verdict != Done {
			return
		}
		c.rest(h.For / 4) // It runs on for a while, removed.
		if h.Split%2 == 0 {
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

// mayRemove is called before a member is removed: not while a disk is put back.
func (c *cluster) mayRemove() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.putBack > 0 {
		return false
	}
	c.removing++
	return true
}

// remove is an operator who removes a member, and does not give up while faults go on.
func (c *cluster) remove(op ledger.RemoveMember) Verdict {
	w := want{op: op, tag: c.tag(operatorClient)}
	var entries []*Entry
	for id := firstGuest; id <= contested; id++ {
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
