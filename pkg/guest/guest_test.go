package guest_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tandemd/tandem/pkg/guest"
)

func TestParseVolume_Refusals(t *testing.T) {
	for _, tc := range []struct{ in, want string }{
		{"vm-100-disk-0", "must be STORAGE:NAME"},
		{"local-zfs:", "must begin with a letter or digit"},
		{"local-zfs:a/b", "must begin with a letter or digit"},
		{"local-zfs:a@b", "must begin with a letter or digit"},
		{"local-zfs:-r", "must begin with a letter or digit"},
		{"local-zfs:..", "must begin with a letter or digit"},
		{"local-zfs:a b", "must begin with a letter or digit"},
		{"Local:a", "storage"},
		{":a", "storage"},
		{"local-zfs:" + strings.Repeat("a", 81), "longer than 80"},
	} {
		_, err := guest.ParseVolume(tc.in)
		if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), tc.in) {
			t.Errorf("ParseVolume(%q) = %v, want an error that names it and says %q", tc.in, err, tc.want)
		}
	}
}

func TestParseID_Refusals(t *testing.T) {
	for _, in := range []string{"", "99", "-100", "+100", "0100", "1e3", "1000000000", "99999999999999999999", "x"} {
		if _, err := guest.ParseID(in); err == nil {
			t.Errorf("ParseID(%q): no error", in)
		}
		if _, err := guest.ParseJobID(in + "-0"); err == nil {
			t.Errorf("ParseJobID(%q): no error", in+"-0")
		}
	}
	for _, in := range []string{"100", "100-", "100--1", "100-x", "100-00", "100-9999999999"} {
		if _, err := guest.ParseJobID(in); err == nil {
			t.Errorf("ParseJobID(%q): no error", in)
		}
	}
}

func TestJobID_IsAKeyInJSON(t *testing.T) {
	want := map[guest.JobID]int{{Guest: 100, Number: 0}: 1, {Guest: 200, Number: 12}: 2}
	b, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(b); got != `{"100-0":1,"200-12":2}` {
		t.Errorf("JSON = %s", got)
	}
	var got map[guest.JobID]int
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestSnapshotName_RoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := guest.SnapshotName{
			Term: guest.Term{
				N:          rapid.Uint64().Draw(t, "n"),
				Generation: rapid.StringMatching(`[0-9a-f]{16}`).Draw(t, "generation"),
			},
			Node: guest.NodeName(rapid.StringMatching(`[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?`).Draw(t, "node")),
			Seq:  rapid.Uint64().Draw(t, "seq"),
			Time: time.Unix(rapid.Int64Range(0, 4e9).Draw(t, "time"), 0).UTC(),
		}
		got, err := guest.ParseSnapshotName(want.String())
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatal(d)
		}
	})
}

func FuzzParseSnapshotName(f *testing.F) {
	f.Add("tandem_1-0123456789abcdef_n1_7_20261122T204100Z")
	f.Add("autosnap_2026-11-22_20:00:00_hourly")
	f.Fuzz(func(t *testing.T, s string) {
		n, err := guest.ParseSnapshotName(s)
		if err == nil && n.String() != s {
			t.Errorf("ParseSnapshotName(%q).String() = %q", s, n.String())
		}
	})
}

func TestGuest_Validate(t *testing.T) {
	good := guest.Guest{
		ID: 100, Type: guest.VM, Name: "web", Owner: guest.NodeID(strings.Repeat("a", 32)),
		Volumes: []guest.Volume{{Storage: "local-zfs", Name: "vm-100-disk-0"}},
	}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for want, spoil := range map[string]func(*guest.Guest){
		"from 100":              func(g *guest.Guest) { g.ID = 99 },
		"must be vm or ct":      func(g *guest.Guest) { g.Type = "lxc" },
		"it is empty":           func(g *guest.Guest) { g.Name = "" },
		"cannot be printed":     func(g *guest.Guest) { g.Name = "a\x1b[2J" },
		"listed twice":          func(g *guest.Guest) { g.Volumes = append(g.Volumes, g.Volumes[0]) },
		"at least one volume":   func(g *guest.Guest) { g.Volumes = nil },
		"the name of a service": func(g *guest.Guest) { g.Unit = "x.timer" },
		"node ID":               func(g *guest.Guest) { g.Owner = "n1" },
	} {
		g := good
		g.Volumes = append([]guest.Volume(nil), good.Volumes...)
		spoil(&g)
		if err := g.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error that says %q", err, want)
		}
	}
}

func TestPoint_RoundTrip(t *testing.T) {
	want := guest.Point{
		Volumes:     []guest.Volume{{Storage: "local-zfs", Name: "vm-100-disk-0"}},
		Consistency: guest.Crash, Taken: 1_800_000_000,
	}
	s, err := want.Property()
	if err != nil {
		t.Fatal(err)
	}
	got, err := guest.ParsePoint(s)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if _, err := guest.ParsePoint("{}"); err == nil {
		t.Error("a point without volumes was accepted")
	}
}
