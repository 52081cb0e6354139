package plan_test

import (
	"strings"
	"testing"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/plan"
)

func TestMake_RefusesWhatCannotArrive(t *testing.T) {
	features := func(names ...string) map[string]string {
		out := map[string]string{"encryption": "enabled", "bookmark_v2": "enabled", "lz4_compress": "enabled", "embedded_data": "enabled"}
		for _, n := range names {
			delete(out, n)
		}
		return out
	}
	encrypt := func(p *plan.Pair) {
		p.Source.Encrypted, p.Target.Encrypted = true, true
		p.Root.Pool = plan.Pool{Name: "data", Features: features()}
	}
	for _, tc := range []struct {
		name, target string
		change       func(*plan.Pair)
		kind         plan.RefusalKind
		says         string // in the reason
	}{
		{
			name: "a pool that is imported read-only", kind: plan.ReadOnly, says: "pool data on n2 is imported read-only",
			change: func(p *plan.Pair) { p.Root.Pool = plan.Pool{Name: "data", ReadOnly: true} },
		},
		{
			name: "a feature in use here and off there", kind: plan.Feature, says: "feature embedded_data, which pool data on n2",
			change: func(p *plan.Pair) {
				p.Source.Pool = plan.Pool{Name: "tank", Features: map[string]string{"embedded_data": "active"}}
				p.Root.Pool = plan.Pool{Name: "data", Features: features("embedded_data")}
			},
		},
		{
			name: "raw needs bookmark_v2", kind: plan.Feature, says: "feature bookmark_v2",
			change: func(p *plan.Pair) { encrypt(p); p.Root.Pool.Features = features("bookmark_v2") },
		},
		{
			name: "encrypted since the guest was added", kind: plan.Encryption, says: "was unencrypted when the guest was added",
			change: func(p *plan.Pair) { encrypt(p); p.Source.Mode = plan.ModePlain },
		},
		{
			name: "no longer encrypted", kind: plan.Encryption, says: "was encrypted when the guest was added",
			change: func(p *plan.Pair) { p.Source.Mode = plan.ModeRaw },
		},
		{
			name: "a replica from plain streams", target: "t0*", kind: plan.Encryption, says: "received from plain streams, the volume is now sent in raw",
			change: func(p *plan.Pair) { encrypt(p); p.Target.Mode = plan.ModePlain },
		},
		{
			name: "an unencrypted replica of an encrypted volume", target: "t0*", kind: plan.Encryption, says: "zfs does not mix them",
			change: func(p *plan.Pair) { encrypt(p); p.Target.Encrypted = false },
		},
		{
			name: "another tool's snapshot on a raw replica", target: "t0* autosnap_2026-01-01_00:00:01_daily", kind: plan.Diverged, says: "as sanoid makes them",
			change: encrypt,
		},
		{
			name: "a clone holds more than it has written", kind: plan.NoSpace, says: "about 1.0 MiB",
			change: func(p *plan.Pair) { p.Source.Referenced, p.Root.Available = 1<<20, 1<<20-1 },
		},
		{name: "all is well with raw", target: "t0*", change: encrypt},
	} {
		in := input("t0+ t1+", tc.target, "t1")
		tc.change(&in.Pairs[0])
		p := plan.Make(in)
		switch {
		case tc.kind == "" && len(p.Refusals) > 0:
			t.Errorf("%s: refused: %v", tc.name, p.Refusals)
		case tc.kind == "":
		case len(p.Refusals) != 1 || p.Refusals[0].Kind != tc.kind || !strings.Contains(p.Refusals[0].Reason, tc.says) || p.Refusals[0].Hint == "":
			t.Errorf("%s: got %+v, want %q that says %q", tc.name, p.Refusals, tc.kind, tc.says)
		}
	}
}

func TestMake_RefusesAGuestOnTwoPools(t *testing.T) {
	in := input("t0 t1", "t0*", "t1")
	second := in.Pairs[0]
	second.Volume = guest.Volume{Storage: "fast", Name: "d"}
	second.Source.Dataset = "nvme/d"
	second.Source.Marks.Volume, second.Target.Marks.Volume = second.Volume.String(), second.Volume.String()
	in.Pairs = append(in.Pairs, second)
	p := plan.Make(in)
	if len(p.Refusals) != 1 || p.Refusals[0].Kind != plan.Pools || !strings.Contains(p.Refusals[0].Reason, "s:d is on pool tank and volume fast:d on pool nvme") {
		t.Errorf("got %+v", p.Refusals)
	}
}

func TestMake_WarnsOnceForAllVolumes(t *testing.T) {
	in := input("t0 t1", "t0*", "t1")
	second := in.Pairs[0]
	second.Volume = guest.Volume{Storage: "s", Name: "e"}
	second.Source.Marks.Volume, second.Target.Marks.Volume = "s:e", "s:e"
	in.Pairs = append(in.Pairs, second)
	in.SourceZFS = "2.1.11-1"
	got := plan.Make(in).Warnings
	if len(got) != 1 || !strings.Contains(got[0].Text, "openzfs#15526") || !strings.Contains(got[0].Text, "2.1.14") {
		t.Errorf("got %+v, want one with the bug's number and the first release without it", got)
	}
}

func TestMaker(t *testing.T) {
	for name, want := range map[string]string{
		"autosnap_2026-01-01_00:00:01_daily": "sanoid", "zfs-auto-snap_hourly-2026-01-01-1200": "zfs-auto-snapshot", "zrepl_20260101_000000_000": "zrepl",
		"__replicate_100-0_1700000000__": "Proxmox VE's replication", "before-upgrade": "", "offsite1-20260101000000": "zfs_autobackup",
	} {
		if got := plan.Maker(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}
