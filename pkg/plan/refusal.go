package plan

import (
	"fmt"
	"strconv"

	"github.com/tandemd/tandem/pkg/guest"
)

// RefusalKind says why a volume is not synced.
type RefusalKind string

// The kinds of refusals.
const (
	// Missing: the source has no such volume.
	Missing RefusalKind = "missing"
	// NotOurs: the source's volume is not marked as this guest's, owned here.
	NotOurs RefusalKind = "not the owner's"
	// Foreign: something that is no replica of this guest has the name on the target.
	Foreign RefusalKind = "foreign"
	// Renamed: the replica has another name on the target.
	Renamed RefusalKind = "renamed"
	// Diverged: an encrypted replica has a snapshot of somebody's.
	Diverged RefusalKind = "diverged"
	// NoSpace: the target has too little room.
	NoSpace RefusalKind = "no space"
	// Encryption: the data may not or cannot travel as it is.
	Encryption RefusalKind = "encryption"
	// Version: a side's ZFS has a bug that would cost data.
	Version RefusalKind = "version"
	// BadName: a name is too long or taken.
	BadName RefusalKind = "name"
	// Feature: the target's pool cannot take the stream.
	Feature RefusalKind = "feature"
	// Pools: the guest's volumes are on two pools.
	Pools RefusalKind = "two pools"
	// Former: the target has it as the owner's volume that it was.
	Former RefusalKind = "former owner"
	// ReadOnly: the target's pool takes nothing.
	ReadOnly RefusalKind = "read-only"
)

// Refusal says why a volume is not synced, and what to do about it. Nothing was
// or will be touched.
type Refusal struct {
	Volume guest.Volume
	Kind   RefusalKind
	Reason string
	Hint   string
}

// Error is the reason, without the volume.
func (r Refusal) Error() string { return r.Reason }

// Passing says that the reason can go away by itself, so that it is worth trying again soon.
func (r Refusal) Passing() bool { return r.Kind == NoSpace || r.Kind == ReadOnly }

func (v *volume) refuse(kind RefusalKind, hint, format string, args ...any) *Refusal {
	return &Refusal{Volume: v.pair.Volume, Kind: kind, Reason: fmt.Sprintf(format, args...), Hint: hint}
}

// checkSource refuses a volume that this node does not own by its own marks.
func (v *volume) checkSource() *Refusal {
	s, g := v.pair.Source, v.in.Guest
	if !s.Exists {
		return v.refuse(Missing, "look for it with `zfs list`; if its disk is gone, move the guest to a node with a replica",
			"the dataset %s does not exist on this node", s.Dataset)
	}
	want := Marks{Cluster: v.in.Cluster, Guest: g.ID.String(), Role: Owner, Term: g.Term.String(), Volume: v.pair.Volume.String()}
	if s.Marks != want {
		return v.refuse(NotOurs, "see `zfs get all "+s.Dataset+"`: this node's data may be older than that of another owner",
			"the dataset %s is marked as %s, but the ledger says %s", s.Dataset, s.Marks, want)
	}
	return nil
}

// String tells the marks to people.
func (m Marks) String() string {
	if m.None() {
		return "nobody's"
	}
	return fmt.Sprintf("%s of guest %s, volume %s, term %s, cluster %s", orNone(m.Role), orNone(m.Guest), orNone(m.Volume), orNone(m.Term),
		orNone(m.Cluster))
}

func orNone(s string) string {
	if s == "" {
		return "(none)"
	}
	return s
}

// ours says whether the target's dataset is a replica of this volume. The term
// is not asked: a replica outlives its owners, and what it may take is decided
// by what it has.
func (v *volume) ours() bool {
	return v.marked(v.pair.Target.Marks, Replica)
}

// leaving says that the target's dataset has the mark of what is set aside, but
// not yet the name.
func (v *volume) leaving() bool { return v.marked(v.pair.Target.Marks, Aside) }

func (v *volume) marked(m Marks, role string) bool {
	return m.Are(v.in.Cluster, v.in.Guest.ID, v.pair.Volume, role)
}

func (v *volume) foreign() *Refusal {
	t := v.pair.Target
	what := "carries no mark of Tandem's"
	if !t.Marks.None() {
		what = "is marked as " + t.Marks.String()
	}
	return v.refuse(Foreign, "it was not touched; if it is not needed, rename or destroy it there, then run the job again",
		"%s has a dataset %s that %s: it is no replica of guest %s", v.in.TargetName, t.Dataset, what, v.in.Guest.ID)
}

// checkTarget refuses what is no replica of this volume. One whose setting aside
// was cut counts as one: it is gone on with.
func (v *volume) checkTarget() *Refusal {
	t := v.pair.Target
	if _, err := guest.ParseTerm(t.Marks.Term); err == nil && v.marked(t.Marks, Owner) {
		return v.refuse(Former, "it passes by itself once the guest is stopped there; where it stays so, `tandem status` says why",
			"%s still has %s as the owner's volume of term %s", v.in.TargetName, t.Dataset, t.Marks.Term)
	}
	if !v.ours() && !v.leaving() {
		return v.foreign()
	}
	return nil
}

// checkEncryption refuses data that would be stored otherwise protected than it is.
func (v *volume) checkEncryption() *Refusal {
	if !v.pair.Source.Encrypted && v.pair.Root.Encrypted && !v.pair.Target.Exists {
		return v.refuse(Encryption, "use a storage that is not encrypted there, or encrypt the guest's volume",
			"it is not encrypted, but the storage %s on %s is", v.pair.Root.Dataset, v.in.TargetName)
	}
	return nil
}

// noSpace refuses what does not fit. How much comes is taken from what the snapshots have written, which the list tells anyway:
// it is what travels with -c but for metadata, and asking zfs for an estimate would cost a process for each step. What is
// available at the target has quotas, and reservations of others, taken off by ZFS itself.
func noSpace(in Input, volumes []VolumePlan) []Refusal {
	need, first := map[string]uint64{}, map[string]Pair{}
	for _, v := range volumes {
		for _, p := range in.Pairs {
			if p.Volume != v.Volume || v.Bytes == 0 {
				continue
			}
			bytes := v.Bytes
			if v.Steps[0].Verb == Full {
				bytes = max(bytes, p.Source.Referenced) // A clone has written less than it holds.
			}
			need[p.Root.Dataset] += bytes
			if _, ok := first[p.Root.Dataset]; !ok {
				first[p.Root.Dataset] = p
			}
		}
	}
	var out []Refusal
	for _, p := range in.Pairs {
		root := p.Root
		if f, ok := first[root.Dataset]; !ok || f.Volume != p.Volume || need[root.Dataset] <= root.Available {
			continue
		}
		out = append(out, Refusal{
			Volume: p.Volume, Kind: NoSpace,
			Reason: fmt.Sprintf("about %s have to be sent, but %s on %s has only %s available",
				size(need[root.Dataset]), root.Dataset, in.TargetName, size(root.Available)),
			Hint: "free space on " + in.TargetName + " or raise the quota of " + root.Dataset +
				"; quotas and reservations are taken off what is available",
		})
	}
	return out
}

// size is a number of bytes for people, with the exact number.
func size(n uint64) string {
	const unit = 1024
	f, suffix := float64(n), ""
	for _, s := range []string{"KiB", "MiB", "GiB", "TiB", "PiB"} {
		if f < unit {
			break
		}
		f, suffix = f/unit, s
	}
	if suffix == "" {
		return strconv.FormatUint(n, 10) + " bytes"
	}
	return fmt.Sprintf("%.1f %s (%d bytes)", f, suffix, n)
}
