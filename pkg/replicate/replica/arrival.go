package replica

import (
	"time"

	"github.com/tandemd/tandem/pkg/replicate/local"
	"github.com/tandemd/tandem/pkg/replicate/wire"
)

// arrival is a point of which some volumes are being received, or have been. Its
// commit follows, and others may wait for that.
type arrival struct {
	near *local.Near
	// running is how many of its streams are under way; failed is set once one broke.
	running int
	failed  bool
	// ended is when the last one did.
	ended time.Time
}

// lost says that the commit will not come any more.
func (a *arrival) lost() bool {
	return a.running == 0 && (a.failed || time.Since(a.ended) > local.CommitGrace)
}

// arrives notes that a volume is being received, until came is called. What belongs
// to a move is on its own: its guest stands still.
func (t *Target) arrives(h wire.ReceiveHeader, dataset string) (came func(well bool)) {
	if h.Move {
		return func(bool) {}
	}
	id := h.Job.Guest
	t.mu.Lock()
	defer t.mu.Unlock()
	for other, a := range t.arriving {
		if a.lost() {
			a.near.Leave()
			delete(t.arriving, other)
		}
	}
	a := t.arriving[id]
	if a == nil {
		a = &arrival{near: t.o.Together.Near(local.StepCommit, dataset)}
		t.arriving[id] = a
	}
	a.near.Next(local.StepCommit)
	a.running++
	return func(well bool) { t.came(a, well) }
}

// came notes that a stream has ended.
func (t *Target) came(a *arrival, well bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	a.running--
	a.failed = a.failed || !well
	a.ended = time.Now()
	switch {
	case a.failed:
		a.near.Rest()
	case a.running == 0:
		a.near.Within(local.StepCommit, local.CommitGrace)
	}
}

// arrived hands over what is noted of a guest's point that is about to be committed;
// nil where nothing is, and for a move.
func (t *Target) arrived(req wire.Request) *local.Near {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := t.arriving[req.Job.Guest]
	if a == nil || req.Move {
		return nil
	}
	delete(t.arriving, req.Job.Guest)
	return a.near
}
