package zfstest

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tandemd/tandem/pkg/zfs"
	"github.com/tandemd/tandem/pkg/zfs/zfstest/disk"
)

// Change is [zfs.ZFS.Change].
func (p *Pool) Change(ctx context.Context, changes ...zfs.Change) ([]zfs.Changed, error) {
	if err := zfs.CheckChanges(changes); err != nil || len(changes) == 0 {
		return nil, err
	}
	var names []string
	for _, c := range changes {
		for _, v := range c.Volumes {
			names = append(names, v.Dataset)
		}
	}
	ev := Event{Op: "Change", Name: strings.Join(names, " ")}
	life := p.life()
	if err := p.At(ctx, ev); err != nil {
		return nil, err
	}
	t := turn{taken: map[*disk.Dataset]bool{}}
	killed := p.killedWithin(ev, &t, changes)
	p.mu.Lock()
	err := p.alive(life, "change", ev.Name)
	if err == nil {
		err = p.ready("Change", names)
	}
	var done []zfs.Changed
	if err == nil {
		p.txg++
		for _, c := range changes {
			done = append(done, p.change(c, &t))
		}
		p.synced()
	}
	p.mu.Unlock()
	if err := cmp.Or(killed, err); err != nil {
		return nil, err
	}
	ev.After = true
	if err := p.At(ctx, ev); err != nil {
		return nil, err
	}
	return done, nil
}

// turn is one run of the program: one transaction group.
type turn struct {
	// taken are datasets of which it took a snapshot.
	taken map[*disk.Dataset]bool
	// left is how many effects it may still have. A program whose process is killed ends between two of them.
	left int
}

func (t *turn) effect() bool {
	t.left--
	return t.left >= 0
}

// killedWithin asks the hook between each two effects.
func (p *Pool) killedWithin(ev Event, t *turn, changes []zfs.Change) error {
	total := 0
	for _, c := range changes {
		for _, v := range c.Volumes {
			total += len(v.Mark) + len(v.Destroy)
		}
		if c.Take != "" {
			total += len(c.Volumes)
		}
	}
	for t.left = 1; t.left < total && p.Hook != nil; t.left++ {
		within := ev
		within.Name += fmt.Sprintf(" (%d of %d effects)", t.left, total)
		if err := p.Hook(within); err != nil {
			return err
		}
	}
	t.left = total
	return nil
}

// change makes one change.
func (p *Pool) change(c zfs.Change, t *turn) zfs.Changed {
	for _, v := range c.Volumes {
		if at, why := p.wrong(v, c.Take, t.taken); why != "" {
			return zfs.Changed{Err: zfs.ChangeError(at, why)}
		}
	}
	out := zfs.Changed{Volumes: make([]zfs.VolumeChanged, len(c.Volumes))}
	if c.Take != "" {
		for i, v := range c.Volumes {
			if d := p.datasets[v.Dataset]; t.effect() {
				out.Volumes[i] = p.take(d, c)
				t.taken[d] = true
			}
		}
	}
	for _, v := range c.Volumes {
		p.mark(v, t)
	}
	for i, v := range c.Volumes {
		for _, spare := range v.Destroy {
			if !t.effect() {
				break
			}
			if why := p.spare(v, spare); why != "" && why != "gone" {
				left := zfs.Left{Ref: spare.Ref, Err: zfs.ChangeError(v.Dataset+"@"+spare.Name, why)}
				out.Volumes[i].Left = append(out.Volumes[i].Left, left)
			}
		}
	}
	return out
}

func (p *Pool) mark(v zfs.VolumeChange, t *turn) {
	for _, m := range v.Mark {
		if !t.effect() {
			return
		}
		for _, r := range m.Snapshots {
			if s := p.datasets[v.Dataset].Snap(r.Name); s != nil && s.GUID == r.GUID {
				maps.Copy(s.Props, m.Props)
			}
		}
	}
}

func (p *Pool) wrong(v zfs.VolumeChange, take string, taken map[*disk.Dataset]bool) (at, why string) {
	d := p.datasets[v.Dataset]
	switch {
	case d == nil:
		return v.Dataset, "gone"
	case v.GUID != 0 && d.GUID != v.GUID:
		return v.Dataset, "other"
	}
	if readonly, _ := p.effective(d, "readonly"); v.ReadOnly && readonly != "on" {
		return v.Dataset, "writable"
	}
	for _, name := range sorted(v.Own) {
		if d.Props[name] != v.Own[name] {
			return v.Dataset, "property " + name
		}
	}
	for _, r := range v.Need {
		if s := d.Snap(r.Name); s == nil || s.GUID != r.GUID {
			return v.Dataset + "@" + r.Name, "gone"
		}
	}
	switch full := v.Dataset + "@" + take; {
	case take == "":
	case d.Snap(take) != nil:
		return full, "17"
	case taken[d]:
		return full, "11"
	case p.room(v.Dataset, 1) != "":
		return full, "28"
	}
	return "", ""
}

func (p *Pool) take(d *disk.Dataset, c zfs.Change) zfs.VolumeChanged {
	var out zfs.VolumeChanged
	if n := len(d.Snaps); n > 0 {
		out.Before = d.Snaps[n-1].GUID
	} else if d.Origin != nil {
		out.Before = d.Origin.GUID
	}
	s := d.Take(c.Take, p.newGUID(), p.txg, p.opt.Now())
	maps.Copy(s.Props, c.Props)
	out.Taken = zfs.Snapshot{
		Name: s.Name, GUID: s.GUID, CreateTXG: s.CreateTXG, Creation: s.Creation, Written: s.Written, Props: c.Props,
	}
	return out
}

// spare destroys a snapshot, or says why it stays.
func (p *Pool) spare(v zfs.VolumeChange, spare zfs.Spare) (why string) {
	d := p.datasets[v.Dataset]
	s := d.Snap(spare.Name)
	if s == nil || s.GUID != spare.GUID {
		return "gone"
	}
	if !slices.ContainsFunc(v.Marks, func(name string) bool { _, ok := s.Props[name]; return ok }) {
		return "unmarked"
	}
	switch pinned := p.pinned(s); {
	case len(s.Holds) > 0:
		return "held"
	case strings.Contains(pinned, "clones"):
		return "clones"
	case pinned != "":
		return "16"
	}
	if spare.Bookmark != "" {
		if d.Marks[spare.Bookmark] != nil {
			return "bookmark 17"
		}
		d.Marks[spare.Bookmark] = &disk.Snapshot{Of: d, Name: spare.Bookmark, GUID: s.GUID, CreateTXG: s.CreateTXG, Creation: s.Creation}
	}
	d.Snaps = slices.DeleteFunc(d.Snaps, func(x *disk.Snapshot) bool { return x == s })
	d.Recount()
	return ""
}

// Mounted is [zfs.ZFS.Mounted].
func (p *Pool) Mounted(dataset string) (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := p.datasets[dataset]
	return d != nil && d.Mounted, nil
}
