package manifest_test

import (
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tandemd/tandem/pkg/plan/manifest"
)

type values = manifest.Values

func diff(t *testing.T, name string, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s (-want +got)\n%s", name, d)
	}
}

func TestOf_TakesWhatIsOnTheListForTheKind(t *testing.T) {
	own := values{"recordsize": "16384", "quota": "1073741824", "mountpoint": "/srv/web", "sharenfs": "on", "tandem:guest": "100", "refreservation": "99"}
	diff(t, "filesystem", manifest.Of(manifest.Filesystem, own),
		values{"recordsize": "16384", "quota": "1073741824", "mountpoint": "/srv/web", "refreservation": "99"})
	diff(t, "zvol", manifest.Of(manifest.Zvol, own), values{"refreservation": "99"})
}

func TestCompare(t *testing.T) {
	guard := values{"readonly": "on", "canmount": "noauto"}
	with := func(v values) values {
		out := maps.Clone(guard)
		maps.Copy(out, v)
		return out
	}
	for _, tc := range []struct {
		name      string
		want, own values
		former    manifest.Record
		set       values
		inherit   []string
	}{
		{name: "a new replica", want: values{"xattr": "sa", "mountpoint": "/srv"}, set: with(values{"xattr": "sa"})},
		{name: "all is as it should be", want: values{"xattr": "sa", "mountpoint": "/srv"}, own: with(values{"xattr": "sa"}), set: values{}},
		{name: "the owner changed a value", want: values{"quota": "2"}, own: with(values{"quota": "1"}), set: values{"quota": "2"}},
		{
			name: "the owner took a value off", own: with(values{"xattr": "sa"}), set: values{},
			former: manifest.Record{Values: values{"xattr": "sa"}}, inherit: []string{"xattr"},
		},
		{
			name: "one that is not inherited", own: with(values{"quota": "1"}), set: values{"quota": "none"},
			former: manifest.Record{Values: values{"quota": "1"}},
		},
		{name: "a value that somebody set there stays", own: with(values{"quota": "1"}), set: values{}},
		{
			name: "so does one that somebody changed there", own: with(values{"quota": "5"}), set: values{},
			former: manifest.Record{Values: values{"quota": "1"}},
		},
		{name: "somebody made it writable and mountable", own: values{"readonly": "off", "canmount": "on"}, set: guard},
		{
			name: "a lifted limit stays off", want: values{"quota": "1"}, own: with(values{"quota": "0"}), set: values{},
			former: manifest.Record{Values: values{"quota": "1"}, Lifted: values{"quota": "1"}},
		},
		{
			name: "the owner has no limit any more", want: values{"quota": "0"}, own: with(values{"quota": "1"}), set: values{"quota": "none"},
			former: manifest.Record{Values: values{"quota": "1"}},
		},
		{
			name: "a value that ZFS shows otherwise is set once", want: values{"xattr": "sa"}, own: with(values{"xattr": "on"}), set: values{},
			former: manifest.Record{Values: values{"xattr": "sa"}},
		},
		{
			name: "until the owner changes it", want: values{"quota": "9"}, own: with(values{"quota": "0"}), set: values{"quota": "9"},
			former: manifest.Record{Values: values{"quota": "1"}, Lifted: values{"quota": "1"}},
		},
	} {
		c := manifest.Compare(manifest.Filesystem, tc.want, tc.own, tc.former)
		diff(t, tc.name, []any{c.Set, c.Inherit}, []any{tc.set, tc.inherit})
	}
	zvol := manifest.Compare(manifest.Zvol, values{"compression": "lz4", "refreservation": "1"}, nil, manifest.Record{})
	diff(t, "zvol", zvol.Set, values{"readonly": "on", "volmode": "none", "compression": "lz4"})
}

func TestLift_TakesOffWhatTandemSet(t *testing.T) {
	set, record, ok := manifest.Lift(manifest.Filesystem, values{"quota": "10", "refquota": "7"}, manifest.Record{Values: values{"quota": "10"}})
	diff(t, "lift", []any{set, record.Lifted, ok}, []any{values{"quota": "none"}, values{"quota": "10"}, true})
	if _, _, ok := manifest.Lift(manifest.Filesystem, values{"quota": "10"}, manifest.Record{}); ok {
		t.Error("a quota that Tandem did not set was lifted")
	}
}

func TestRestore_MakesItTheOwnersVolume(t *testing.T) {
	fs := manifest.Record{
		Values: values{"xattr": "sa", "quota": "5", "refquota": "3", "mountpoint": "/srv/web", "refreservation": "7"}, Lifted: values{"quota": "5"},
	}
	c := fs.Restore(manifest.Filesystem)
	diff(t, "filesystem", c.Set, values{"quota": "5", "mountpoint": "/srv/web", "refreservation": "7", "readonly": "off", "canmount": "on"})
	diff(t, "filesystem", len(c.Inherit), 0)
	zvol := manifest.Record{Values: values{"refreservation": "1073741824"}}
	c = zvol.Restore(manifest.Zvol)
	diff(t, "zvol", []any{c.Set, c.Inherit, zvol.Reserve()}, []any{values{"refreservation": "1073741824", "readonly": "off"}, []string{"volmode"}, uint64(1 << 30)})
}

func TestDemote_TakesOffWhatAnOwnersVolumeHas(t *testing.T) {
	for kind, tc := range map[manifest.Kind]struct{ own, set values }{
		manifest.Filesystem: {
			own: values{"xattr": "sa", "mountpoint": "/srv/web", "refreservation": "7", "reservation": "0", "readonly": "off"},
			set: values{"canmount": "noauto", "readonly": "on", "refreservation": "none"},
		},
		manifest.Zvol: {
			own: values{"snapdev": "visible", "volmode": "dev", "refreservation": "1073741824", "compression": "lz4"},
			set: values{"volmode": "none", "readonly": "on", "refreservation": "none"},
		},
	} {
		c := manifest.Demote(kind, tc.own)
		diff(t, string(kind), c.Set, tc.set)
		diff(t, string(kind), c.Record.Values, manifest.Of(kind, tc.own))
		back := c.Record.Restore(kind)
		for name, value := range manifest.Of(kind, tc.own) {
			if got, ok := back.Set[name]; ok && got != value && (got != "none" || value != "0") {
				t.Errorf("%s: %s comes back as %q, it was %q", kind, name, got, value)
			}
		}
		own := values{}
		maps.Copy(own, tc.own)
		for _, name := range c.Inherit {
			delete(own, name)
		}
		for name, value := range c.Set {
			if own[name] = value; value == "none" && name != "volmode" {
				own[name] = "0"
			}
		}
		if again := manifest.Demote(kind, own); !again.None() {
			t.Errorf("%s: again %+v", kind, again)
		}
	}
}

func TestRecord_TextIsReadBackAndBounded(t *testing.T) {
	r := manifest.Record{Values: values{"mountpoint": "/srv/a b"}, Lifted: values{"quota": "1"}}
	text, err := r.Text()
	if err != nil || !manifest.Parse(text).Same(r) {
		t.Errorf("%q: %v", text, err)
	}
	if _, err := (manifest.Record{Values: values{"mountpoint": "/" + strings.Repeat("x", 9000)}}).Text(); err == nil {
		t.Error("a text that no user property holds was made")
	}
	if got := manifest.Parse("{broken"); len(got.Values) != 0 {
		t.Errorf("got %+v", got)
	}
}

// What Compare says is enough: done once, there is nothing left to do.
func TestCompare_Settles(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kind := rapid.SampledFrom([]manifest.Kind{manifest.Filesystem, manifest.Zvol}).Draw(t, "kind")
		some := rapid.MapOf(rapid.SampledFrom(manifest.Properties()), rapid.SampledFrom([]string{"0", "1", "on"}))
		own := values(some.Draw(t, "own"))
		want := manifest.Of(kind, values(some.Draw(t, "want")))
		former := manifest.Record{Values: manifest.Of(kind, values(some.Draw(t, "former"))), Lifted: values(some.Draw(t, "lifted"))}
		c := manifest.Compare(kind, want, own, former)
		maps.Copy(own, c.Set)
		for name, value := range own {
			if value == "none" && name != "volmode" {
				own[name] = "0"
			}
		}
		for _, name := range c.Inherit {
			delete(own, name)
		}
		if again := manifest.Compare(kind, want, own, c.Record); !again.None() || !again.Record.Same(c.Record) {
			t.Fatalf("again: %+v, record %+v then %+v", again, c.Record, again.Record)
		}
	})
}
