package replica

import (
	"context"
	"io"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/plan"
	"github.com/tandemd/tandem/pkg/replicate/fault"
	"github.com/tandemd/tandem/pkg/replicate/local"
	"github.com/tandemd/tandem/pkg/replicate/wire"
	"github.com/tandemd/tandem/pkg/zfs"
)

// Receive takes one stream. A Read of r may still be under way when it returns:
// the caller then ends the stream.
func (t *Target) Receive(ctx context.Context, from guest.NodeID, h wire.ReceiveHeader, r io.Reader) (wire.ReceiveReply, error) {
	if err := h.Validate(); err != nil {
		return wire.ReceiveReply{}, err
	}
	view, g, err := t.admitJob(ctx, from, h.Request)
	if err != nil {
		return wire.ReceiveReply{}, err
	}
	if !g.Has(h.Volume) {
		return wire.ReceiveReply{}, fault.Never("", "guest %s has no volume %s", g.ID, h.Volume)
	}
	release, err := t.lockFor(ctx, from, h.Request, h.Volume)
	if err != nil {
		return wire.ReceiveReply{}, err
	}
	defer release()
	list, err := t.seen(ctx, []guest.Volume{h.Volume})
	if err != nil {
		return wire.ReceiveReply{}, err
	}
	l := list[0]
	if err := t.fits(view.Cluster, g, h, l); err != nil {
		return wire.ReceiveReply{}, err
	}
	origin, err := t.origin(ctx, view.Cluster, g, h, l)
	if err != nil {
		return wire.ReceiveReply{}, err
	}
	marks := local.Marks(view.Cluster, g, h.Volume, zfs.RoleReplica)
	if h.Move && begins(h.Verb) && !t.pointed(view, g.ID) {
		marks[zfs.PropLanding] = g.Term.String()
	}
	props, warning, err := t.prepare(ctx, marks, h, l)
	if err != nil {
		return wire.ReceiveReply{}, err
	}
	if err := t.begin(g.ID, h, l); err != nil {
		return wire.ReceiveReply{}, err
	}
	ctx, done := t.running(ctx, from, g)
	defer done()
	well := false
	came := t.arrives(h, l.name)
	defer func() { came(well) }()
	got, err := t.o.ZFS.Receive(ctx, zfs.ReceiveSpec{
		Dataset: l.name, Type: zfs.Type(h.Kind), Props: props, Origin: origin,
	}, r)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return wire.ReceiveReply{}, fault.WrapVolume(h.Volume, cause, "receive")
		}
		return wire.ReceiveReply{}, t.refused(ctx, g.ID, h.Volume, fault.WrapVolume(h.Volume, t.lift(ctx, l, err), "receive"))
	}
	// zfs ends at the last record; the sender's own end comes after it.
	if _, err := io.Copy(io.Discard, r); err != nil {
		return wire.ReceiveReply{}, fault.WrapVolume(h.Volume, err, "receive")
	}
	newest, err := t.received(ctx, view.Cluster, g, h, l)
	if err != nil {
		return wire.ReceiveReply{}, err
	}
	if _, err := t.owned(t.o.Ledger.View(), from, h.Request); err != nil {
		return wire.ReceiveReply{}, err
	}
	well = true
	return wire.ReceiveReply{Bytes: got.Bytes, Newest: newest, Warning: warning}, nil
}

// begin notes a receive that makes the replica: until it ends, nothing else says
// whose it is.
func (t *Target) begin(id guest.ID, h wire.ReceiveHeader, l found) error {
	if !begins(h.Verb) {
		return nil
	}
	return t.annotate(id, func(n *notes) { n.Begun[h.Volume] = begun{Dataset: l.name, To: h.To.GUID} })
}

// begins says that a stream makes the replica.
func begins(v plan.Verb) bool { return v == plan.Full || v == plan.Branch }

// running notes the receive, so that EndStale finds it.
func (t *Target) running(ctx context.Context, from guest.NodeID, g guest.Guest) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	r := &receiving{guest: g.ID, owner: from, term: g.Term, cancel: cancel}
	t.mu.Lock()
	t.receives[r] = struct{}{}
	t.mu.Unlock()
	t.EndStale() // What changed before the receive was noted.
	return ctx, func() {
		t.mu.Lock()
		delete(t.receives, r)
		t.mu.Unlock()
		cancel(nil)
	}
}

// fits says whether the stream may go into what this node has. ZFS checks the
// data; here it is about whose dataset it is.
func (t *Target) fits(cluster string, g guest.Guest, h wire.ReceiveHeader, l found) error {
	switch {
	case begins(h.Verb) && l.data.Exists():
		if !l.replica(cluster, g.ID) {
			return t.foreign(g, l)
		}
		return fault.Retry("", "volume %s: %s has a replica by now", h.Volume, t.o.Name)
	case begins(h.Verb):
		return nil
	case !l.data.Exists():
		return fault.Retry("", "volume %s: the replica on %s is gone", h.Volume, t.o.Name)
	case h.Verb == plan.Resume:
		// The token names the very transfer: it can only be gone on with.
		if l.data.ResumeToken != h.Token {
			return fault.Retry("", "volume %s: the interrupted receive is not the one that was seen", h.Volume)
		}
		if !l.replica(cluster, g.ID) && !l.unborn() {
			return t.foreign(g, l)
		}
		return nil
	case !l.replica(cluster, g.ID):
		return t.foreign(g, l)
	}
	if _, ok := l.snapshot(h.From); !ok {
		return fault.Retry("", "volume %s: the base of the stream is not on %s", h.Volume, t.o.Name)
	}
	return nil
}

// received is the newest snapshot now. An increment's commit looks at all that it
// brought; what a first or resumed stream made is looked at here: "trust GUIDs, not
// exit codes".
func (t *Target) received(ctx context.Context, cluster string, g guest.Guest, h wire.ReceiveHeader, before found) (plan.Ref, error) {
	if h.Verb == plan.Single || h.Verb == plan.Run {
		t.saw([]found{before.with(h.To)})
		return plan.Ref{Name: h.To.Name, GUID: h.To.GUID}, nil
	}
	l, err := t.one(ctx, h.Volume)
	if err != nil {
		return plan.Ref{}, err
	}
	if !l.replica(cluster, g.ID) {
		return plan.Ref{}, fault.Person(h.Volume, "", "after the receive, %s on %s is not marked as the replica: %s", l.name, t.o.Name, local.MarksOf(l.data))
	}
	s, ok := l.snapshot(h.To.GUID)
	if !ok {
		return plan.Ref{}, fault.Retry("", "volume %s: after the receive, %s has no snapshot with GUID %d", h.Volume, t.o.Name, h.To.GUID)
	}
	if err := t.guarded(ctx, l); err != nil {
		return plan.Ref{}, err
	}
	t.saw([]found{l})
	return plan.Ref{Name: s.Name, GUID: s.GUID}, t.settle(g.ID, []guest.Volume{h.Volume})
}
