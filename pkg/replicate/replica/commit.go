package replica

import (
	"context"
	"fmt"
	"slices"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/plan"
	"github.com/tandemd/tandem/pkg/replicate/fault"
	"github.com/tandemd/tandem/pkg/replicate/local"
	"github.com/tandemd/tandem/pkg/replicate/wire"
	"github.com/tandemd/tandem/pkg/zfs"
)

// Commit ends a sync: where all volumes of the point are here, it is marked
// complete; then what nobody needs goes.
func (t *Target) Commit(ctx context.Context, from guest.NodeID, req wire.CommitRequest) (wire.CommitReply, error) {
	if err := req.Validate(); err != nil {
		return wire.CommitReply{}, err
	}
	view, g, err := t.admitJob(ctx, from, req.Request)
	if err != nil {
		return wire.CommitReply{}, err
	}
	var volumes []guest.Volume
	for _, v := range req.Volumes {
		if !g.Has(v.Volume) || slices.Contains(volumes, v.Volume) {
			return wire.CommitReply{}, fault.Never("", "commit of %s: guest %s has no volume %s, or it is named twice", req.Point, g.ID, v.Volume)
		}
		volumes = append(volumes, v.Volume)
	}
	release, err := t.lock(ctx, volumes...)
	if err != nil {
		return wire.CommitReply{}, err
	}
	defer release()
	if err := t.settle(g.ID, volumes); err != nil {
		return wire.CommitReply{}, err
	}
	if req.Idle() {
		return wire.CommitReply{}, t.noteCurrent(g.ID, req)
	}
	list, err := t.list(ctx, volumes)
	if err != nil {
		return wire.CommitReply{}, err
	}
	c := commit{t: t, req: req, guest: g, list: list}
	if err := c.verify(view.Cluster); err != nil {
		return wire.CommitReply{}, err
	}
	warnings, err := c.adopt(ctx)
	if err != nil {
		return wire.CommitReply{}, err
	}
	if err := c.mark(ctx); err != nil {
		return wire.CommitReply{}, err
	}
	return c.reply(append(warnings, c.delete(ctx)...)), nil
}

func (t *Target) noteCurrent(id guest.ID, req wire.CommitRequest) error {
	return t.annotate(id, func(n *notes) {
		n.Current = &current{Point: req.Point, GUID: req.Volumes[0].GUID, At: t.o.Now().Unix(), Age: req.Age}
	})
}

// commit is one commit that is being done.
type commit struct {
	t     *Target
	req   wire.CommitRequest
	guest guest.Guest
	list  []found // in the order of the request's volumes
}

// verify refuses a point of which anything is missing.
func (c *commit) verify(cluster string) error {
	point, err := guest.ParsePoint(c.req.Property)
	if err != nil {
		return err
	}
	for _, v := range point.Volumes {
		if !slices.ContainsFunc(c.list, func(l found) bool { return l.volume == v }) {
			return fault.Never("", "commit of %s: it lists volume %s, the request does not", c.req.Point, v)
		}
	}
	for i, l := range c.list {
		if !l.replica(cluster, c.guest.ID) {
			return c.t.foreign(c.guest, l)
		}
		s, ok := l.snapshot(c.req.Volumes[i].GUID)
		if !ok || s.Name != c.req.Point {
			return fault.Retry("", "volume %s: %s does not have %s with GUID %d", l.volume, c.t.o.Name, c.req.Point, c.req.Volumes[i].GUID)
		}
	}
	return nil
}

// mark sets the properties, the point's last: until it is complete, the next plan
// finds again what arrived and is not marked.
func (c *commit) mark(ctx context.Context) error {
	var operators, points, complete []string
	for i, l := range c.list {
		v := c.req.Volumes[i]
		for _, ref := range v.Mark {
			if s, ok := l.snapshot(ref.GUID); !ok || s.Name != ref.Name {
				continue
			}
			if ref.Tandem {
				points = append(points, l.name+"@"+ref.Name)
			} else {
				operators = append(operators, l.name+"@"+ref.Name)
			}
		}
		if s, _ := l.snapshot(v.GUID); s.Props[zfs.PropComplete] == "" {
			complete = append(complete, l.name+"@"+s.Name)
		}
	}
	at, err := arrival{At: c.t.o.Now().Unix(), Age: c.req.Age}.property()
	if err != nil {
		return err
	}
	for _, m := range []struct {
		names []string
		props map[string]string
	}{
		{operators, map[string]string{zfs.PropReceived: local.ReceivedSnapshot}},
		{points, map[string]string{zfs.PropReceived: local.ReceivedPoint}},
		{complete, map[string]string{zfs.PropPoint: c.req.Property, zfs.PropComplete: c.req.Term.String(), zfs.PropArrived: at}},
	} {
		if len(m.names) == 0 {
			continue
		}
		if err := c.t.o.ZFS.SetProps(ctx, m.props, m.names...); err != nil {
			return fault.Wrap(err, "mark what arrived on %s", c.t.o.Name)
		}
	}
	if c.req.Current {
		return c.t.noteCurrent(c.guest.ID, c.req)
	}
	return nil
}

// delete removes what the owner's list allows and this node agrees to: the same
// GUID, marked as brought by Tandem, not of the point, not held.
func (c *commit) delete(ctx context.Context) (warnings []string) {
	for i, l := range c.list {
		v := c.req.Volumes[i]
		marked := slices.Clone(v.Mark)
		var names []string
		for _, ref := range v.Delete {
			s, ok := l.snapshot(ref.GUID)
			ours := s.Props[zfs.PropReceived] != "" || s.Props[zfs.PropComplete] != "" || slices.Contains(marked, ref)
			switch {
			case !ok || s.Name != ref.Name || s.GUID == v.GUID:
			case !ours:
				warnings = append(warnings, fmt.Sprintf("volume %s: snapshot %s is not removed: it carries no mark of Tandem's", l.volume, ref.Name))
			case s.UserRefs > 0:
				warnings = append(warnings, fmt.Sprintf("volume %s: snapshot %s is not removed: it is held, see `zfs holds`", l.volume, ref.Name))
			default:
				names = append(names, ref.Name)
			}
		}
		if len(names) == 0 {
			continue
		}
		if err := c.t.o.ZFS.DestroySnapshots(ctx, l.name, names); err != nil {
			warnings = append(warnings, fmt.Sprintf("volume %s: old snapshots are left: %v", l.volume, err))
		}
	}
	return warnings
}

// reply lists Tandem's points that are here. What was just removed may be listed
// still: it is needed by nobody and gone from the next list.
func (c *commit) reply(warnings []string) wire.CommitReply {
	out := wire.CommitReply{Warnings: warnings}
	for i, l := range c.list {
		v := c.req.Volumes[i]
		h := wire.HeldVolume{Volume: l.volume}
		for _, s := range local.Side(l.name, l.data).Snapshots {
			gone := slices.ContainsFunc(v.Delete, func(r plan.Ref) bool { return r.GUID == s.GUID })
			arrived := slices.ContainsFunc(v.Mark, func(r plan.Ref) bool { return r.GUID == s.GUID && r.Tandem })
			if (s.Tandem || arrived || s.GUID == v.GUID) && !gone {
				h.Has = append(h.Has, s.GUID)
			}
		}
		out.Volumes = append(out.Volumes, h)
	}
	return out
}
