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
	out, err := s.removeCopy(ctx, id, node)
	return out, fault.Final(ctx, err)
}

func (s *Source) removeCopy(ctx context.Context, id guest.ID, node guest.NodeID) (RemoveResult, error) {
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
	if to, ok := s.handover(id); ok && to == node {
		return RemoveResult{}, fault.Busy("", "guest %s is being moved to %s", id, r.target)
	}
	if err := r.list(ctx); err != nil {
		return RemoveResult{}, err
	}
	req := wire.RemoveRequest{Request: r.request()}
	for i, d := range r.own {
		v := r.guest.Volumes[i]
		if m := local.MarksOf(d); !m.Are(r.view.Cluster, id, v, zfs.RoleOwner) || m.Term != r.guest.Term.String() {
			return RemoveResult{}, fault.Busy("see `tandem guest show "+id.String()+"`",
				"guest %s is not in use here yet: its volume %s is not the owner's at term %s", id, v, r.guest.Term)
		}
		held := wire.HeldVolume{Volume: v}
		for _, snap := range d.Snapshots {
			held.Has = append(held.Has, snap.GUID)
		}
		req.Volumes = append(req.Volumes, held)
	}
	var reply wire.RemoveReply
	if err := s.call(ctx, node, wire.PathRemove, req, &reply); err != nil {
		return RemoveResult{}, fault.Wrap(err, "remove the kept copy on %s", r.target)
	}
	return RemoveResult{Destroyed: reply.Destroyed, Left: reply.Left}, s.bases.forget(r.guest, node)
}
