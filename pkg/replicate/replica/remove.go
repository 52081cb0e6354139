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
// not bring, never diverged data: those are left and named.
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
	if l.data.ResumeToken != "" {
		if err := t.o.ZFS.AbortReceive(ctx, l.name); err != nil {
			return "", err
		}
	}
	if unborn || l.data.ResumeToken != "" && len(l.data.Snapshots) == 0 {
		return "", t.gone(ctx, l)
	}
	spec := zfs.DestroySpec{Dataset: l.name, GUID: l.data.GUID, Guest: g.ID.String()}
	complete := false // A newer one is, which the owner had as well.
	for _, s := range slices.Backward(local.Side(l.name, l.data).Snapshots) {
		complete = complete || s.Complete
		// What this node took as an owner goes where a newer point was handed on: else nobody else may have it.
		if taken := s.Tandem && complete; !taken && !s.Received && !s.Complete && !req.Copied(l.volume, s.GUID) {
			return "snapshot " + s.Name + " was not brought by Tandem", nil
		}
		if s.Held {
			return "snapshot " + s.Name + " has a hold; where diverged data depends on it, see `tandem diverged list`", nil
		}
		spec.Snapshots = append(spec.Snapshots, s.GUID)
	}
	return "", t.o.ZFS.DestroyDataset(ctx, spec)
}

// gone wants a replica to have gone with the first receive into it.
func (t *Target) gone(ctx context.Context, l found) error {
	now, err := t.one(ctx, l.volume)
	if err == nil && now.data.Exists() {
		err = fault.Retry("the next try looks at it as it is now", "%s on %s has no snapshot, and is there after its receive was dropped", l.name, t.o.Name)
	}
	return err
}
