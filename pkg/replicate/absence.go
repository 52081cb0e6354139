package replicate

import (
	"context"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/plan"
	"github.com/tandemd/tandem/pkg/replicate/local"
	"github.com/tandemd/tandem/pkg/replicate/wire"
)

// seenStep is how much of keep_base may be forgotten over a restart: so often at
// most is it written down that a target which holds the same has answered.
const seenStep = 100

// see notes that a target answers. It is false where that is to be written down.
// The caller holds the lock.
func (b *bases) see(k *known, node guest.NodeID) bool {
	now := int64(b.quorate() / time.Second)
	old, ok := k.Seen[node]
	if fresh := ok && now >= old && time.Duration(now-old)*time.Second < b.keep/seenStep; fresh {
		return true
	}
	if k.Seen == nil {
		k.Seen = map[guest.NodeID]int64{}
	}
	k.Seen[node] = now
	return false
}

// away says that a target has not answered for keep_base, of the time in which
// this node was quorate. Where that time began anew it counts from there.
func (b *bases) away(k *known, node guest.NodeID) bool {
	now := int64(b.quorate() / time.Second)
	seen, ok := k.Seen[node]
	if ok && now < seen {
		k.Seen[node] = now
		return false
	}
	return ok && time.Duration(now-seen)*time.Second > b.keep
}

// meet takes targets of which this owner knows nothing for such that may have any
// of the points, and need any of the bookmarks, that there are now: what is taken
// later they get from this owner, which then knows. Without that a target that
// never answers would keep everything for ever.
func (b *bases) meet(g guest.Guest, nodes []guest.NodeID, pairs []plan.Pair) error {
	b.mu.Lock()
	k := b.of(g)
	met := b.greet(k, nodes, pairs)
	b.mu.Unlock()
	if !met {
		return nil
	}
	return b.write(g.ID, k)
}

// greet is meet in memory; it says whether there were any. The caller holds the lock.
func (b *bases) greet(k *known, nodes []guest.NodeID, pairs []plan.Pair) (met bool) {
	for _, n := range nodes {
		if _, ok := k.Targets[n]; ok {
			continue
		}
		h := holdings{}
		for _, p := range pairs {
			for _, guid := range mayHave(p.Source) {
				h.pin(p.Volume, guid)
			}
		}
		k.Targets[n] = h
		b.see(k, n)
		met = true
	}
	return met
}

// mayHave are the GUIDs of all points and of all of Tandem's bookmarks.
func mayHave(s plan.Side) (out []uint64) {
	for _, x := range s.Snapshots {
		if x.Tandem {
			out = append(out, x.GUID)
		}
	}
	for _, m := range s.Bookmarks {
		if m.Ours() {
			out = append(out, m.GUID)
		}
	}
	return out
}

// bookmarksAtTarget is what becomes of Tandem's bookmarks at the target.
func (r *run) bookmarksAtTarget(v guest.Volume, spare plan.Verdict) wire.CommitBookmarks {
	var out wire.CommitBookmarks
	for _, ref := range spare.Spare[v] {
		if spare.Bookmark[v][ref.GUID] {
			out.Bookmark = append(out.Bookmark, ref.GUID)
		}
	}
	for _, pair := range r.pairs {
		if pair.Volume == v {
			out.Unbookmark = plan.Needless(v, pair.Target.Bookmarks, r.s.bases.targets(r.guest, r.targets()))
		}
	}
	return out
}

// dropBookmarks destroys own bookmarks that no target needs any more. What cannot
// go now goes later.
func (r *run) dropBookmarks(ctx context.Context) {
	targets := r.s.bases.targets(r.guest, r.targets())
	for i, v := range r.guest.Volumes {
		for _, name := range plan.Needless(v, local.Side(r.names[i], r.own[i]).Bookmarks, targets) {
			if err := local.DropBookmark(ctx, r.s.o.ZFS, r.names[i]+"#"+name); err != nil {
				r.warn("volume %s: the bookmark %s is left: %v", v, name, err)
			}
		}
	}
}
