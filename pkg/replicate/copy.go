package replicate

import (
	"context"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/replicate/fault"
	"github.com/tandemd/tandem/pkg/replicate/local"
	"github.com/tandemd/tandem/pkg/replicate/wire"
	"github.com/tandemd/tandem/pkg/zfs"
)

// RemoveCopy has a node destroy its kept copy of a guest that this node owns: replicas to which no job points. Only with its
// owner's word a snapshot is known to be nowhere else: what this node does not have, and did not send, stays there and is
// named. Done again it goes on where it was cut.
func (s *Source) RemoveCopy(ctx context.Context, id guest.ID, node guest.NodeID) (RemoveResult, error) {
	out, err := s.removeCopy(ctx, id, node, wire.RemoveRequest{})
	return out, fault.Final(ctx, err)
}

// RemoveUnfinished is RemoveCopy for what a migration has brought that went back, and not lately: what was there before it stays.
func (s *Source) RemoveUnfinished(ctx context.Context, id guest.ID, node guest.NodeID) (RemoveResult, error) {
	if s.o.Pins.Busy(id, s.o.Now()) {
		return RemoveResult{}, fault.Final(ctx, fault.Busy("", "guest %s was moved lately, or its snapshots are being read", id))
	}
	out, err := s.removeCopy(ctx, id, node, wire.RemoveRequest{Unfinished: true})
	return out, fault.Final(ctx, err)
}

// settled keeps moves of a guest out until it is released, as what is removed next of its copies, and refuses where one goes on
// or is in doubt: whoever moves a guest has its lock from the last snapshot on until it is known who owns it.
func (s *Source) settled(ctx context.Context, id guest.ID) (release func(), err error) {
	wait, cancel := context.WithTimeout(ctx, s.o.LockWait)
	defer cancel()
	release, ok := s.removals(wait, id)
	if !ok {
		return nil, fault.Busy("", "another copy of guest %s is being removed", id)
	}
	if _, moving := s.handover(id); moving {
		release()
		return nil, fault.Busy("", "guest %s is being moved", id)
	}
	unlock, err := s.lockGuest(ctx, id)
	if err != nil {
		release()
		return nil, err
	}
	unlock()
	return release, nil
}

// removals lets one thing at a time remove copies of a guest, and no move begin meanwhile. It is false where ctx ends before.
func (s *Source) removals(ctx context.Context, id guest.ID) (release func(), ok bool) {
	turn := s.locks.Turn("removals-" + id.String())
	select {
	case turn <- struct{}{}:
		return func() { <-turn }, true
	case <-ctx.Done():
		return nil, false
	}
}

func (s *Source) removeCopy(ctx context.Context, id guest.ID, node guest.NodeID, req wire.RemoveRequest) (RemoveResult, error) {
	h := &Handover{s: s, guest: id, to: node}
	r, err := h.begin(Transfer{})
	if err != nil {
		return RemoveResult{}, err
	}
	for _, j := range r.view.JobsOf(id) {
		if j.Target == node {
			return RemoveResult{}, fault.Never("`tandem delete "+j.ID.String()+"` removes it with its job",
				"job %s replicates guest %s to %s: it has no kept copy there", j.ID, id, r.target)
		}
	}
	release, err := s.settled(ctx, id)
	if err != nil {
		return RemoveResult{}, err
	}
	defer release()
	if err := r.list(ctx); err != nil {
		return RemoveResult{}, err
	}
	req.Request, req.Volumes = r.request(), r.has()
	for i, d := range r.own {
		v := r.guest.Volumes[i]
		if m := local.MarksOf(d); !m.Are(r.view.Cluster, id, v, zfs.RoleOwner) || m.Term != r.guest.Term.String() {
			return RemoveResult{}, fault.Busy("see `tandem guest show "+id.String()+"`",
				"guest %s is not in use here yet: its volume %s is not the owner's at term %s", id, v, r.guest.Term)
		}
	}
	var reply wire.RemoveReply
	if err := s.call(ctx, node, wire.PathRemove, req, &reply); err != nil {
		return RemoveResult{}, fault.Wrap(err, "remove the kept copy on %s", r.target)
	}
	out := RemoveResult{Destroyed: reply.Destroyed, Left: reply.Left}
	if len(out.Left) > 0 {
		return out, nil // A job may go on from it.
	}
	if err := s.bases.forget(r.guest, node); err != nil {
		return out, err
	}
	r.dropBookmarks(ctx)
	return out, nil
}
