package replica

import (
	"context"
	"fmt"
	"slices"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/replicate/fault"
	"github.com/tandemd/tandem/pkg/replicate/local"
	"github.com/tandemd/tandem/pkg/replicate/wire"
	"github.com/tandemd/tandem/pkg/zfs"
)

// Remove destroys the guest's replicas on this node, or leaves them. Never a
// dataset without the guest's marks, never one with a snapshot that Tandem did
// not bring, never data that the owner neither has nor brought itself: those are
// left as they are and named.
func (t *Target) Remove(ctx context.Context, from guest.NodeID, req wire.RemoveRequest) (wire.RemoveReply, error) {
	view, g, err := t.admit(ctx, from, req.Request)
	if err != nil {
		return wire.RemoveReply{}, err
	}
	for _, j := range view.JobsOf(g.ID) {
		if j.Target == t.o.Node && !j.Removing {
			return wire.RemoveReply{}, fault.Never("", "job %s still replicates guest %s to node %s", j.ID, g.ID, t.o.Name)
		}
	}
	release, err := t.lockFor(ctx, from, req.Request, g.Volumes...)
	if err != nil {
		return wire.RemoveReply{}, err
	}
	defer release()
	list, err := t.list(ctx, g.Volumes)
	if err != nil {
		return wire.RemoveReply{}, err
	}
	var out wire.RemoveReply
	for _, l := range list {
		if !l.data.Exists() {
			continue
		}
		why, err := t.removeOne(ctx, view.Cluster, g, req, l)
		switch {
		case err != nil && fault.ClassOf(err) == fault.ClassRetry:
			return out, fault.WrapVolume(l.volume, err, "remove the replica")
		case err != nil:
			out.Left = append(out.Left, fmt.Sprintf("%s: %v", l.name, err))
		case why != "":
			out.Left = append(out.Left, fmt.Sprintf("%s: %s", l.name, why))
		default:
			out.Destroyed = append(out.Destroyed, l.name)
		}
	}
	if len(out.Left) == 0 {
		return out, t.forget(g.ID)
	}
	return out, nil
}

// removeOne destroys one replica, or tells why it stays.
func (t *Target) removeOne(ctx context.Context, cluster string, g guest.Guest, req wire.RemoveRequest, l found) (why string, err error) {
	ours := l.replica(cluster, g.ID)
	unborn := !ours && l.unborn() && t.begun(ctx, g.ID, l)
	switch {
	case !ours && !unborn:
		return "it is no replica of this guest", nil
	case req.Keep:
		return "kept, as asked", nil
	case req.Unfinished && ours && !l.landing(g):
		return "kept: it is not what a migration brought that has not ended", nil
	case l.data.Written > 0 && !l.data.Removing():
		return "it was written to since its newest snapshot", nil
	}
	spec := zfs.DestroySpec{Dataset: l.name, GUID: l.data.GUID, Guest: g.ID.String()}
	if spec.Snapshots, why = mayGo(g, req, l); why != "" {
		return why, nil
	}
	if l.data.ResumeToken != "" {
		if err := t.o.ZFS.AbortReceive(ctx, l.name); err != nil {
			return "", err
		}
	}
	if unborn || l.data.ResumeToken != "" && len(l.data.Snapshots) == 0 {
		return "", t.gone(ctx, l)
	}
	return "", t.o.ZFS.DestroyDataset(ctx, spec)
}

// mayGo are the snapshots of a replica that is to be destroyed, or why it stays. Its newest state must be one that the
// owner has, began from, or brought itself: what a former owner brought may be nowhere else, however complete it is. With
// that state goes what led to it, as far as Tandem brought or took it.
func mayGo(g guest.Guest, req wire.RemoveRequest, l found) (guids []uint64, why string) {
	known := false
	for i, s := range slices.Backward(local.Side(l.name, l.data).Snapshots) {
		copied := req.Copied(l.volume, s.GUID)
		known = known || copied || began(g, l.volume, s.GUID) || brought(g, l.data.Snapshots[i].Props[zfs.PropComplete])
		switch {
		case !s.Tandem && !s.Received && !s.Complete && !copied:
			return nil, "snapshot " + s.Name + " was not brought by Tandem"
		case !known:
			return nil, "snapshot " + s.Name + " holds data that the owner does not have; a sync to this node would set it aside, for `tandem diverged`"
		case s.Held:
			return nil, "snapshot " + s.Name + " has a hold; where diverged data depends on it, see `tandem diverged list`"
		}
		guids = append(guids, s.GUID)
	}
	return guids, ""
}

// began says that the present owner's data of a volume began from a snapshot.
func began(g guest.Guest, v guest.Volume, guid uint64) bool {
	return g.Beginning != nil && guid != 0 && g.Beginning.GUIDs[v] == guid
}

// brought says that a point was completed here at a term of the present owner, which may have got new ones since it began. Within one
// generation terms are counted; another's may be those of a part of the cluster that went on apart.
func brought(g guest.Guest, mark string) bool {
	first := g.Term.N
	if g.Beginning != nil {
		first = g.Beginning.Term.N + 1
	}
	term, err := guest.ParseTerm(mark)
	return err == nil && term.Generation == g.Term.Generation && first <= term.N && term.N <= g.Term.N
}

// gone wants a replica to have gone with the first receive into it.
func (t *Target) gone(ctx context.Context, l found) error {
	now, err := t.one(ctx, l.volume)
	if err == nil && now.data.Exists() {
		err = fault.Retry("the next try looks at it as it is now", "%s on %s has no snapshot, and is there after its receive was dropped", l.name, t.o.Name)
	}
	return err
}
