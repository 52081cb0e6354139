package contract

import (
	"fmt"

	"github.com/tandemd/tandem/pkg/zfs"
)

// make makes changes that are wanted to be well-formed.
func (s *suite) make(changes ...zfs.Change) []zfs.Changed {
	s.Helper()
	done, err := s.env.ZFS.Change(s.ctx, changes...)
	s.ok(err)
	equal(s, len(done), len(changes))
	return done
}

func ref(d zfs.Dataset, name string) zfs.Ref { return zfs.Ref{Name: name, GUID: guids(d)[name]} }

func (s *suite) changeTakes() {
	one, two := s.volume("one"), s.volume("two")
	s.ok(s.env.Write(one, 0, noise("more", 8)))
	props := map[string]string{zfs.PropPoint: `{"a": "b, \"c\" é"}`, zfs.PropTerm: "-1"}
	take := func(name string, datasets ...string) zfs.Change {
		c := zfs.Change{Take: name, Props: props}
		for _, d := range datasets {
			c.Volumes = append(c.Volumes, zfs.VolumeChange{Dataset: d})
		}
		return c
	}
	done := s.make(take("p", one, two))
	s.ok(done[0].Err)
	for i, name := range []string{one, two} {
		d, got := s.get(name), done[0].Volumes[i]
		equal(s, snapNames(d), []string{"a", "p"})
		equal(s, got.Before, d.Snapshots[0].GUID)
		want := d.Snapshots[1]
		equal(s, want.Props, props)
		equal(s, []any{got.Taken.Name, got.Taken.GUID, got.Taken.CreateTXG, got.Taken.Creation, got.Taken.Written, got.Taken.Props},
			[]any{want.Name, want.GUID, want.CreateTXG, want.Creation, want.Written, want.Props})
		if (got.Taken.Written >= 8*block) != (name == one) {
			s.Errorf("%s: %d bytes written", name, got.Taken.Written)
		}
	}
	equal(s, s.get(one).Snapshots[1].CreateTXG, s.get(two).Snapshots[1].CreateTXG)

	s.snap(two + "@q")
	s.wantClass(s.make(take("q", one, two))[0].Err, zfs.ClassExists)
	s.wantClass(s.make(take("r", one, s.ds("none")))[0].Err, zfs.ClassGone)
	equal(s, snapNames(s.get(one)), []string{"a", "p"})

	fresh := s.ds("fresh")
	s.ok(s.env.Create(fresh, 8<<20, nil))
	equal(s, s.make(take("p", fresh))[0].Volumes[0].Before, uint64(0))
}

// changesApart: what stands in the way of one guest does not stop another.
func (s *suite) changesApart() {
	one, two := s.volume("one"), s.volume("two")
	done := s.make(
		zfs.Change{Take: "a", Volumes: []zfs.VolumeChange{{Dataset: one}}},
		zfs.Change{Take: "b", Volumes: []zfs.VolumeChange{{Dataset: two}}},
	)
	s.wantClass(done[0].Err, zfs.ClassExists)
	s.ok(done[1].Err)
	equal(s, snapNames(s.get(one)), []string{"a"})
	equal(s, snapNames(s.get(two)), []string{"a", "b"})
	_, err := s.env.ZFS.Change(s.ctx, zfs.Change{Take: "c", Volumes: []zfs.VolumeChange{{Dataset: one}, {Dataset: "nosuchpool/x"}}})
	s.wantClass(err, zfs.ClassRefused)
	_, err = s.env.ZFS.Change(s.ctx, zfs.Change{Take: "c", Volumes: []zfs.VolumeChange{{Dataset: "nosuchpool/x"}}})
	s.wantClass(err, zfs.ClassPoolAbsent)
	_, err = s.env.ZFS.Change(s.ctx, zfs.Change{Take: "-r", Volumes: []zfs.VolumeChange{{Dataset: one}}})
	s.wantClass(err, zfs.ClassRefused)
	done, err = s.env.ZFS.Change(s.ctx)
	s.ok(err)
	equal(s, len(done), 0)
}

func (s *suite) changeMarks() {
	vol := s.volume("vol")
	s.change(vol, "b")
	d := s.get(vol)
	other := ref(d, "a")
	other.Name = "b" // Another snapshot has that name by now.
	done := s.make(zfs.Change{Volumes: []zfs.VolumeChange{{
		Dataset: vol, GUID: d.GUID, Need: []zfs.Ref{ref(d, "a"), ref(d, "b")},
		Mark: []zfs.Marking{
			{Props: map[string]string{zfs.PropReceived: "snapshot"}, Snapshots: []zfs.Ref{ref(d, "a"), {Name: "none", GUID: 7}, other}},
			{Props: map[string]string{zfs.PropComplete: "", zfs.PropArrived: "{}"}, Snapshots: []zfs.Ref{ref(d, "a")}},
		},
	}}})
	s.ok(done[0].Err)
	d = s.get(vol)
	equal(s, d.Snapshots[0].Props, map[string]string{zfs.PropReceived: "snapshot", zfs.PropComplete: "", zfs.PropArrived: "{}"})
	equal(s, len(d.Snapshots[1].Props), 0)
}

func (s *suite) changeDestroys() {
	vol := s.volume("vol")
	for _, name := range []string{"b", "held", "cloned", "theirs", "keep"} {
		s.change(vol, name)
	}
	s.ok(s.env.ZFS.SetProps(s.ctx, map[string]string{zfs.PropReceived: "point"}, vol+"@a", vol+"@b", vol+"@held", vol+"@cloned"))
	// A property of the dataset is inherited by its snapshots: no mark of theirs.
	s.ok(s.env.ZFS.SetProps(s.ctx, map[string]string{zfs.PropReceived: "point"}, vol))
	s.ok(s.env.ZFS.Hold(s.ctx, "x", vol+"@held"))
	s.ok(s.env.ZFS.Clone(s.ctx, vol+"@cloned", s.ds("clone"), nil))
	d := s.get(vol)
	v := zfs.VolumeChange{Dataset: vol, Marks: []string{zfs.PropPoint, zfs.PropReceived}}
	for _, name := range []string{"a", "b", "held", "cloned", "theirs"} {
		v.Destroy = append(v.Destroy, zfs.Spare{Ref: ref(d, name)})
	}
	v.Destroy[1].Bookmark = "b"
	v.Destroy = append(v.Destroy, zfs.Spare{Ref: zfs.Ref{Name: "keep", GUID: 5}}, zfs.Spare{Ref: zfs.Ref{Name: "none", GUID: 6}})
	got := s.make(zfs.Change{Volumes: []zfs.VolumeChange{v}})
	s.ok(got[0].Err)
	var left []string
	for _, l := range got[0].Volumes[0].Left {
		left = append(left, l.Name+" "+string(zfs.ClassOf(l.Err)))
	}
	equal(s, left, []string{"held held", "cloned clones", "theirs refused"})
	equal(s, snapNames(s.get(vol)), []string{"held", "cloned", "theirs", "keep"})
	marks := s.get(vol).Bookmarks
	if len(marks) != 1 || marks[0].Name != "b" || marks[0].GUID != v.Destroy[1].GUID {
		s.Errorf("bookmarks %+v", marks)
	}

	// No bookmark, no destruction; and a snapshot that is being sent stays.
	s.ok(s.env.ZFS.SetProps(s.ctx, map[string]string{zfs.PropReceived: "point"}, vol+"@keep"))
	d = s.get(vol)
	v.Destroy = []zfs.Spare{{Ref: ref(d, "keep"), Bookmark: "b"}}
	equal(s, len(s.make(zfs.Change{Volumes: []zfs.VolumeChange{v}})[0].Volumes[0].Left), 1)
	equal(s, snapNames(s.get(vol)), []string{"held", "cloned", "theirs", "keep"})
	v.Marks = nil
	_, err := s.env.ZFS.Change(s.ctx, zfs.Change{Volumes: []zfs.VolumeChange{v}})
	s.wantClass(err, zfs.ClassRefused)
}

func (s *suite) changeRefuses() {
	vol := s.volume("vol")
	s.ok(s.env.ZFS.SetProps(s.ctx, map[string]string{zfs.PropGuest: "100"}, vol))
	d := s.get(vol)
	for why, tc := range map[string]struct {
		spoil func(*zfs.VolumeChange)
		class zfs.Class
	}{
		"nothing":      {func(*zfs.VolumeChange) {}, ""},
		"its guid":     {func(v *zfs.VolumeChange) { v.GUID++ }, zfs.ClassGone},
		"its mark":     {func(v *zfs.VolumeChange) { v.Own = map[string]string{zfs.PropGuest: "101"} }, zfs.ClassRefused},
		"no mark":      {func(v *zfs.VolumeChange) { v.Own = map[string]string{zfs.PropRole: "owner"} }, zfs.ClassRefused},
		"writable":     {func(v *zfs.VolumeChange) { v.ReadOnly = true }, zfs.ClassRefused},
		"its snapshot": {func(v *zfs.VolumeChange) { v.Need = []zfs.Ref{{Name: "a", GUID: 1}} }, zfs.ClassGone},
	} {
		v := zfs.VolumeChange{
			Dataset: vol, GUID: d.GUID, Own: map[string]string{zfs.PropGuest: "100"}, Need: []zfs.Ref{ref(d, "a")},
			Mark: []zfs.Marking{{Props: map[string]string{zfs.PropReceived: "point"}, Snapshots: []zfs.Ref{ref(d, "a")}}},
		}
		tc.spoil(&v)
		err := s.make(zfs.Change{Take: "n", Volumes: []zfs.VolumeChange{v}})[0].Err
		if zfs.ClassOf(err) != tc.class {
			s.Errorf("%s: got %v of class %q, want %q", why, err, zfs.ClassOf(err), tc.class)
		}
		if got := s.get(vol); tc.class != "" && (len(got.Snapshots) != 1 || len(got.Snapshots[0].Props) > 0) {
			s.Errorf("%s: it was changed all the same: %+v", why, got.Snapshots)
		}
		if tc.class == "" {
			s.ok(s.env.ZFS.DestroySnapshots(s.ctx, vol, []string{"n"}))
			s.ok(s.env.ZFS.Inherit(s.ctx, zfs.PropReceived, vol+"@a"))
		}
	}
	s.ok(s.env.ZFS.SetProps(s.ctx, map[string]string{"readonly": "on"}, vol))
	s.ok(s.make(zfs.Change{Volumes: []zfs.VolumeChange{{Dataset: vol, ReadOnly: true}}})[0].Err)

	fs := s.ds("fs")
	s.ok(s.env.Create(fs, 0, nil))
	for _, want := range []bool{true, false} {
		got, err := s.env.ZFS.Mounted(fs)
		s.ok(err)
		equal(s, got, want)
		s.ok(s.env.ZFS.Unmount(s.ctx, fs))
	}
}

func (s *suite) changeMany() {
	const guests = 12
	var take, clean []zfs.Change
	for i := range guests {
		name := s.ds(fmt.Sprint("v", i))
		s.ok(s.env.Create(name, 8<<20, nil))
		take = append(take, zfs.Change{Take: "p", Props: map[string]string{zfs.PropPoint: "x"}, Volumes: []zfs.VolumeChange{{Dataset: name}}})
	}
	started := s.env.ZFS.Counters().Started
	for i, got := range s.make(take...) {
		s.ok(got.Err)
		clean = append(clean, zfs.Change{Volumes: []zfs.VolumeChange{{
			Dataset: take[i].Volumes[0].Dataset, Marks: []string{zfs.PropPoint},
			Destroy: []zfs.Spare{{Ref: zfs.Ref{Name: "p", GUID: got.Volumes[0].Taken.GUID}}},
		}}})
	}
	s.make(clean...)
	equal(s, s.env.ZFS.Counters().Started-started, 2)
	for i := range guests {
		equal(s, len(s.get(s.ds(fmt.Sprint("v", i))).Snapshots), 0)
	}
}
