package plan

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/plan/gate"
)

// findings is what stands between the two nodes' ZFS for a volume.
func findings(in *Input, p Pair) []gate.Finding {
	return gate.Check(
		gate.Side{Node: "this node", ZFS: in.SourceZFS, Pool: p.Source.Pool.Name, Features: p.Source.Pool.Features},
		gate.Side{Node: in.TargetName, ZFS: in.TargetZFS, Pool: p.Root.Pool.Name, Features: p.Root.Pool.Features},
		gate.Needs{
			Encrypted: p.Source.Encrypted, Filesystem: p.Source.Kind == Filesystem, First: len(p.Target.Snapshots) == 0,
			RecordSize: p.Source.RecordSize, Compression: p.Source.Compression, DNodeSize: p.Source.DNodeSize,
		},
	)
}

// gateWarnings are what an operator should know of the nodes' ZFS, once for all volumes.
func gateWarnings(in *Input) []Warning {
	var out []Warning
	for _, p := range in.Pairs {
		for _, f := range findings(in, p) {
			w := Warning{Text: f.Text + ": " + f.Hint}
			if !f.Refuse && !slices.Contains(out, w) {
				out = append(out, w)
			}
		}
	}
	return out
}

// checkGates refuses what cannot arrive, or would do harm, before anything is sent.
func (v *volume) checkGates() *Refusal {
	if r := v.checkPools(); r != nil {
		return r
	}
	if r := v.checkMode(); r != nil {
		return r
	}
	for _, f := range findings(v.in, v.pair) {
		if !f.Refuse {
			continue
		}
		kind := Version
		if f.Feature {
			kind = Feature
		}
		return v.refuse(kind, f.Hint, "%s", f.Text)
	}
	return nil
}

// checkPools refuses a target's pool that takes nothing, and a guest on two pools: zfs snapshots one pool at one moment, and says
// something misleading of two.
func (v *volume) checkPools() *Refusal {
	if p := v.pair.Root.Pool; p.ReadOnly {
		return v.refuse(ReadOnly, fmt.Sprintf("on %s: `zpool export %s`, then import it without readonly=on", v.in.TargetName, p.Name),
			"pool %s on %s is imported read-only: nothing can be received", p.Name, v.in.TargetName)
	}
	first := v.in.Pairs[0]
	if why := TwoPools(first.Volume, first.Source.Dataset, v.pair.Volume, v.pair.Source.Dataset); why != "" {
		return v.refuse(Pools, TwoPoolsHint, "%s", why)
	}
	return nil
}

// TwoPoolsHint is what to do about volumes on two pools.
const TwoPoolsHint = "move the volumes to one pool, or make two guests of them"

// TwoPools tells why two volumes of a guest cannot be replicated together; empty where they are on one pool.
func TwoPools(a guest.Volume, inA string, b guest.Volume, inB string) string {
	poolA, _, _ := strings.Cut(inA, "/")
	poolB, _, _ := strings.Cut(inB, "/")
	if poolA == poolB {
		return ""
	}
	return fmt.Sprintf("volume %s is on pool %s and volume %s on pool %s: a snapshot cannot be taken on two pools at the same moment, "+
		"so the guest's volumes would not fit together", a, poolA, b, poolB)
}

// TooLong tells why a snapshot cannot have this name on a dataset; empty if it can.
func TooLong(dataset, snapshot string) string {
	if n := len(dataset) + 1 + len(snapshot); n > MaxName {
		return fmt.Sprintf("the full name of a point, %s@%s, would have %d bytes, ZFS allows %d", dataset, snapshot, n, MaxName)
	}
	return ""
}

// checkMode refuses a volume that would have to change between raw and plain streams: zfs takes such a stream and refuses, or
// worse, the one after it (IV set guid mismatch).
func (v *volume) checkMode() *Refusal {
	s, t := v.pair.Source, v.pair.Target
	if s.Encrypted != (s.mode() == ModeRaw) {
		was, is := "unencrypted", "is encrypted"
		if s.mode() == ModeRaw {
			was, is = "encrypted", "is not"
		}
		return v.refuse(Encryption, "take the volume out of the guest and add it again; every target then needs a full sync",
			"it was %s when the guest was added, and the dataset %s now %s", was, s.Dataset, is)
	}
	if t.Exists && v.ours() && (t.Encrypted != s.Encrypted || t.Mode != "" && t.Mode != s.mode()) {
		return v.refuse(Encryption, fmt.Sprintf("on %s, rename the replica aside or destroy it; the next run then sends everything", v.in.TargetName),
			"the replica %s on %s was received from %s streams, the volume is now sent in %s ones: zfs does not mix them",
			t.Dataset, v.in.TargetName, t.mode(), s.mode())
	}
	return nil
}

// Maker guesses which tool makes snapshots of such names; empty where the name says nothing.
func Maker(snapshot string) string {
	for _, m := range []struct{ tool, names string }{
		{"sanoid", `^autosnap_`},
		{"syncoid", `^syncoid_`},
		{"zfs-auto-snapshot", `^zfs-auto-snap[_-]`},
		{"zrepl", `^zrepl_`},
		{"pyznap", `^pyznap_`},
		{"Proxmox VE's replication", `^__replicate_`},
		{"vzdump of Proxmox VE", `^vzdump$`},
		{"TrueNAS", `^auto-\d{4}-?\d{2}-?\d{2}`},
		{"Docker", `^\d{9,}$`},
		{"zfs_autobackup", `^[A-Za-z0-9]+-\d{14}$`},
		{"znapzend", `^\d{4}-\d{2}-\d{2}-\d{6}$`},
		{"simplesnap", `^__simplesnap_`},
		{"zettarepl", `^(manual|snap)-\d{4}-\d{2}-\d{2}_`},
	} {
		if regexp.MustCompile(m.names).MatchString(snapshot) {
			return m.tool
		}
	}
	return ""
}

// maker is the tool for a sentence.
func maker(snapshot string) string {
	if tool := Maker(snapshot); tool != "" {
		return ", as " + tool + " makes them"
	}
	return ""
}
