package replicate

import (
	"cmp"
	"context"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/replicate/fault"
	"github.com/tandemd/tandem/pkg/zfs"
)

// quiet takes a point of a guest that is to stand still meanwhile. It does so in a
// change of its own, for the shortest time: nobody else waits for this guest, and it
// for nobody. What the change is to destroy goes afterwards.
//
// The point says "crash" until the guest is known to have stood still: it runs on when
// the daemon dies, and a snapshot that was under way may be taken all the same.
func (r *run) quiet(ctx context.Context, change zfs.Change) (done zfs.Changed, err error) {
	begun := time.Now()
	r.near.Rest()
	how, thaw, warning := r.s.o.Quiescer.Quiesce(ctx, r.guest)
	if warning != "" {
		r.warn("%s", warning)
	}
	if how == guest.Crash {
		defer thaw() //nolint:errcheck // nothing stands still
		return r.s.o.Together.Change(ctx, change)
	}
	frozen := time.Now()
	done, err = r.alone(ctx, change)
	if failed := thaw(); failed != nil {
		r.warn("this point of guest %s is as after a power cut: %v", r.guest.ID, failed)
		how = guest.Crash
	}
	if err = cmp.Or(err, done.Err); err != nil {
		return done, err
	}
	if how != guest.Crash {
		r.log("guest %s stood still for %s, after %s (%s)", r.guest.ID, time.Since(frozen).Round(time.Millisecond),
			frozen.Sub(begun).Round(time.Millisecond), how)
		if err := r.vouch(ctx, change, done, how); err != nil {
			r.warn("this point of guest %s counts as one after a power cut: %v", r.guest.ID, err)
		}
	}
	return done, r.destroyAfter(ctx, change, done)
}

// alone takes the snapshots of a change, and nothing else.
func (r *run) alone(ctx context.Context, c zfs.Change) (zfs.Changed, error) {
	only := zfs.Change{Take: c.Take, Props: c.Props}
	for _, v := range c.Volumes {
		only.Volumes = append(only.Volumes, zfs.VolumeChange{Dataset: v.Dataset, GUID: v.GUID})
	}
	done, err := r.s.o.ZFS.Change(ctx, only)
	if err != nil || len(done) != 1 {
		return zfs.Changed{}, cmp.Or(err, fault.Retry("", "no answer to the snapshot of guest %s", r.guest.ID))
	}
	return done[0], nil
}

// vouch writes down how consistent a point is, on its snapshots.
func (r *run) vouch(ctx context.Context, c zfs.Change, done zfs.Changed, how guest.Consistency) error {
	point, err := guest.ParsePoint(c.Props[zfs.PropPoint])
	if err != nil {
		return err
	}
	point.Consistency = how
	property, err := point.Property()
	if err != nil {
		return err
	}
	mark := zfs.Change{}
	for i, v := range c.Volumes {
		ref := zfs.Ref{Name: done.Volumes[i].Taken.Name, GUID: done.Volumes[i].Taken.GUID}
		mark.Volumes = append(mark.Volumes, zfs.VolumeChange{
			Dataset: v.Dataset, GUID: v.GUID, Need: []zfs.Ref{ref},
			Mark: []zfs.Marking{{Props: map[string]string{zfs.PropPoint: property}, Snapshots: []zfs.Ref{ref}}},
		})
	}
	marked, err := r.s.o.Together.Change(ctx, mark)
	if err = cmp.Or(err, marked.Err); err != nil {
		return err
	}
	for i := range done.Volumes {
		taken := &done.Volumes[i].Taken
		props := map[string]string{zfs.PropPoint: property}
		for name, value := range taken.Props {
			if name != zfs.PropPoint {
				props[name] = value
			}
		}
		taken.Props = props // It may share its map with the others'.
	}
	return nil
}

// destroyAfter carries out the rest of the change, and takes what it left into done.
// What cannot go now goes with a later sync.
func (r *run) destroyAfter(ctx context.Context, c zfs.Change, done zfs.Changed) error {
	rest := zfs.Change{Volumes: c.Volumes}
	n := 0
	for _, v := range rest.Volumes {
		n += len(v.Destroy)
	}
	if n == 0 {
		return nil
	}
	gone, err := r.s.o.Together.Change(ctx, rest)
	if err = cmp.Or(err, gone.Err); err != nil && ctx.Err() != nil {
		return err
	}
	for i, v := range rest.Volumes {
		if err == nil {
			done.Volumes[i].Left = gone.Volumes[i].Left
			continue
		}
		for _, s := range v.Destroy {
			done.Volumes[i].Left = append(done.Volumes[i].Left, zfs.Left{Ref: s.Ref, Err: err})
		}
	}
	return nil
}
