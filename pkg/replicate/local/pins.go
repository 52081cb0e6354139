package local

import (
	"slices"
	"sync"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
)

// Pins are snapshots that are being read: as long as they are, the owner has no
// node clean them. They are this process's alone, as the readings are.
type Pins struct {
	mu   sync.Mutex
	pins map[*pin]struct{}
	// kept are guests of which nothing is to be taken away until then.
	kept map[guest.ID]time.Time
}

type pin struct {
	guest guest.ID
	guids map[guest.Volume][]uint64
	// all: every snapshot of the guest on this node.
	all bool
}

// NewPins makes an empty set.
func NewPins() *Pins { return &Pins{pins: map[*pin]struct{}{}, kept: map[guest.ID]time.Time{}} }

// Pin keeps snapshots of a guest, by GUID, until it is released. Who pins has the
// guest's lock, or a pin that covers these.
func (p *Pins) Pin(id guest.ID, guids map[guest.Volume][]uint64) (release func()) {
	return p.add(&pin{guest: id, guids: guids})
}

// PinAll keeps all snapshots of a guest that this node has, until it is released:
// for the moment in which one of them is chosen.
func (p *Pins) PinAll(id guest.ID) (release func()) { return p.add(&pin{guest: id, all: true}) }

// All says that all snapshots of a guest are pinned now.
func (p *Pins) All(id guest.ID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for x := range p.pins {
		if x.guest == id && x.all {
			return true
		}
	}
	return false
}

func (p *Pins) add(x *pin) (release func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pins[x] = struct{}{}
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.pins, x)
	}
}

// Of are the snapshots of a guest that are pinned now.
func (p *Pins) Of(id guest.ID) map[guest.Volume][]uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[guest.Volume][]uint64{}
	for x := range p.pins {
		if x.guest != id {
			continue
		}
		for v, guids := range x.guids {
			out[v] = slices.Concat(out[v], guids)
		}
	}
	return out
}

// keepAfterMove is for how long after the last sign of a move its next try finds what
// this one has brought.
const keepAfterMove = time.Hour

// Moving says that a move of the guest, which need not have a job, has just given a sign of
// itself on this node.
func (p *Pins) Moving(id guest.ID, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.kept[id] = now.Add(keepAfterMove)
}

// Busy says that something of a guest is being read, or that it is moving or was lately:
// what this node has of it may be needed although no job says so.
func (p *Pins) Busy(id guest.ID, now time.Time) bool {
	if len(p.Of(id)) > 0 {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if now.Before(p.kept[id]) {
		return true
	}
	delete(p.kept, id)
	return false
}
