// Package plan decides what one sync does: from what the source and the target
// have of a guest's volumes to steps, each with its reason, or to typed refusals;
// and which of Tandem's snapshots each node keeps.
//
// It is pure: it knows no ZFS command, no network and no clock. pkg/replicate
// fills the input from both sides' lists, executes the plan, and shows the same
// plan where nothing is to be executed. Nothing is decided by names or clocks:
// snapshots are the same if their GUIDs are, and their order on one node is that
// of createtxg.
package plan

import (
	"cmp"
	"slices"

	"github.com/tandemd/tandem/pkg/guest"
)

// Kind is the type of a dataset, as ZFS calls it.
type Kind string

// The kinds of datasets.
const (
	Filesystem Kind = "filesystem"
	Zvol       Kind = "volume"
)

// Roles of a dataset in its marks.
const (
	Owner   = "owner"
	Replica = "replica"
	// Aside is the role of diverged data that was set aside, or is about to be.
	Aside = "diverged"
)

// Marks are Tandem's user properties of a dataset; empty where one is not set.
type Marks struct {
	Cluster string
	Guest   string
	Role    string
	Term    string
	Volume  string
}

// None says that the dataset carries no mark of Tandem's at all.
func (m Marks) None() bool { return m == Marks{} }

// Are says that they are those of a guest's volume in a role. The term is not asked: a
// replica outlives its owners.
func (m Marks) Are(cluster string, g guest.ID, v guest.Volume, role string) bool {
	return m.Cluster == cluster && m.Guest == g.String() && m.Volume == v.String() && m.Role == role
}

// Snapshot is a snapshot as one node lists it.
type Snapshot struct {
	// Name is without dataset and @. Only for texts and commands.
	Name string
	// GUID is its identity on every node; 0 for one that is about to be taken.
	GUID uint64
	// TXG is its place in the order of its own node.
	TXG uint64
	// Written is how many bytes it added to the snapshot before it.
	Written uint64
	// Tandem says that it is one of Tandem's points, by the property that it
	// carries on this node.
	Tandem bool
	// Received says that it carries the mark of what Tandem brought to this node.
	Received bool
	// Complete says that it belongs to a point of which this node has all volumes.
	Complete bool
	// Held says that somebody put a hold on it there: it cannot be destroyed.
	Held bool
	// Volumes are those of its point, where the node knows them.
	Volumes []guest.Volume
}

// Bookmark is a bookmark as the source lists it.
type Bookmark struct {
	Name string
	GUID uint64
	TXG  uint64
}

// Partial is an interrupted receive on the target.
type Partial struct {
	Token string
	// ToGUID is what was being received, FromGUID its base (0: a full stream).
	ToGUID, FromGUID uint64
	// Bytes is how much of it the target has.
	Bytes uint64
	// Valid says that the source can go on from the token; Problem why not.
	Valid   bool
	Problem string
	// Stuck says that it was resumed several times and did not move.
	Stuck bool
	// Ours says that the target remembers to have begun it for this guest. It
	// matters where the dataset carries no mark yet, before a first full stream
	// is complete.
	Ours bool
}

// Side is a volume on one node.
type Side struct {
	// Dataset is the full name on that node.
	Dataset string
	Exists  bool
	// GUID is the dataset's own.
	GUID    uint64
	Kind    Kind
	Marks   Marks
	Mounted bool
	// Encrypted says that the data is encrypted at rest.
	Encrypted bool
	// Origin is the full name of the snapshot of which it is a clone, or empty.
	Origin string
	// Written is how many bytes changed since the newest snapshot.
	Written uint64
	// Modified says that as it is now it has refused an increment: data was changed.
	Modified bool
	// Inherited says that no sync of the present owner to this replica was completed
	// yet: all that it has came from an earlier owner.
	Inherited bool
	Snapshots []Snapshot
	Bookmarks []Bookmark
	Partial   *Partial
	Facts
}

// Root is the target's dataset in which the replica lives.
type Root struct {
	Dataset string
	// Available is how many bytes can be written there.
	Available uint64
	Encrypted bool
	Pool      Pool
}

// Pair is a volume on both sides.
type Pair struct {
	Volume guest.Volume
	Source Side
	Target Side
	Root   Root
	// Aside are diverged copies of the volume that were set aside on the target.
	Aside []Side
	// Moved are replicas of the volume under other names on the target, told only
	// where there is none under its own.
	Moved []Side
	// Sent are GUIDs of operators' snapshots that the last sync may have brought to
	// the target, and that the source had when it took a point that it has still.
	Sent []uint64
}

// Input is all that a plan depends on.
type Input struct {
	Cluster string
	Guest   guest.Guest
	Mode    guest.SnapshotMode
	// TargetName is how people call the target.
	TargetName string
	// Point is the name of the snapshots to bring to the target. Where a source
	// does not list it, it is about to be taken.
	Point string
	// Needed are GUIDs of points that the target is to have as well, for the sake
	// of other targets. Only mode none asks: the others bring all points anyway.
	Needed map[uint64]bool
	// SourceZFS and TargetZFS are the versions of the kernel modules, like "2.3.2-2".
	SourceZFS, TargetZFS string
	Pairs                []Pair
}

// Verb is what a step does.
type Verb string

// The verbs.
const (
	// Resume goes on with an interrupted receive; then everything is planned anew.
	Resume Verb = "resume"
	// Abort drops an interrupted receive; then everything is planned anew.
	Abort Verb = "abort"
	// Full sends a first snapshot whole.
	Full Verb = "full"
	// Single sends the difference between two snapshots (-i).
	Single Verb = "incremental"
	// Run sends the differences with all snapshots between (-I).
	Run Verb = "incremental run"
	// SetAside keeps a diverged replica under another name; then everything is planned anew.
	SetAside Verb = "set aside"
	// Branch sends the difference between two snapshots (one -i) into a new replica
	// that is a clone of what was set aside.
	Branch Verb = "branch"
	// Promote makes such a clone own the snapshots that it shares with what was set aside.
	Promote Verb = "promote"
)

// Step is one thing to do for a volume.
type Step struct {
	Verb Verb
	// From is the base at the source; zero for Full, Resume, Abort and Promote. Of
	// SetAside it is the newest state that both have, if any.
	From Base
	// To is the snapshot that the target has afterwards.
	To Ref
	// Arrivals are all snapshots that the step brings, in order; To is the last.
	Arrivals []Snapshot
	// Token is what Resume goes on from and Abort drops.
	Token string
	// Raw sends the encrypted blocks as they are.
	Raw bool
	// Bytes is about how many have to travel.
	Bytes  uint64
	Reason string
	// Why is what SetAside notes with what it keeps, Dataset its GUID. Superseded are
	// the GUIDs of all that is newer there than the base, where the source has sent
	// and then destroyed just that: then it need not be kept for long.
	Why        string
	Dataset    uint64
	Superseded []uint64
}

// Ref names a snapshot for a command that checks the GUID before it acts.
type Ref struct {
	Name string `json:"name"`
	GUID uint64 `json:"guid"`
	// Tandem says that it is one of Tandem's points and not an operator's snapshot.
	Tandem bool `json:"tandem,omitempty"`
}

// Base is the newest state that both sides have.
type Base struct {
	Ref
	// Bookmark says that the source has only a bookmark of it left.
	Bookmark bool
}

// VolumePlan is what happens to one volume.
type VolumePlan struct {
	Volume guest.Volume
	// Base is nil where the target has nothing.
	Base  *Base
	Steps []Step
	// Mark are snapshots that Tandem brought and that carry no mark yet.
	Mark []Ref
	// Gone are marked copies of operators' snapshots that the source no longer has.
	Gone []Ref
	// Stay are marked copies of an earlier owner's, of which nobody knows whether the
	// source ever had them: from now on they are the operators'.
	Stay []Ref
	// After is what the target has once the steps are done.
	After []Snapshot
	// Bytes is about how many have to travel.
	Bytes  uint64
	Reason string
}

// Warning is something an operator should know and that stops nothing.
type Warning struct {
	Volume guest.Volume
	Text   string
}

// Plan is what a sync does.
type Plan struct {
	Volumes  []VolumePlan
	Refusals []Refusal
	Warnings []Warning
}

// Again says that steps have to be done first after which everything is to be
// planned anew: "after a resume, plan again".
func (p Plan) Again() bool {
	return slices.ContainsFunc(p.Volumes, VolumePlan.again)
}

// First is the plan without what waits until it is planned again.
func (p Plan) First() Plan {
	p.Volumes = slices.DeleteFunc(slices.Clone(p.Volumes), func(v VolumePlan) bool { return !v.again() })
	return p
}

// again says that nothing of the volume's plan but its one step is to be done now.
func (v VolumePlan) again() bool {
	if len(v.Steps) == 0 {
		return false
	}
	switch v.Steps[0].Verb {
	case Resume, Abort, SetAside, Promote:
		return true
	case Full, Single, Run, Branch:
	}
	return false
}

// Bytes is about how many have to travel.
func (p Plan) Bytes() uint64 {
	var n uint64
	for _, v := range p.Volumes {
		n += v.Bytes
	}
	return n
}

// Make decides. A plan with refusals is not to be executed.
func Make(in Input) Plan {
	var p Plan
	for _, pair := range in.Pairs {
		v := volume{in: &in, pair: pair, source: ordered(pair.Source.Snapshots), target: ordered(pair.Target.Snapshots)}
		v.atSource, v.atTarget = placesOf(v.source), placesOf(v.target)
		done, refusal := v.plan()
		p.Warnings = append(p.Warnings, v.warnings...)
		if refusal != nil {
			p.Refusals = append(p.Refusals, *refusal)
			continue
		}
		p.Volumes = append(p.Volumes, done)
	}
	p.Refusals = append(p.Refusals, noSpace(in, p.Volumes)...)
	p.Warnings = append(p.Warnings, gateWarnings(&in)...)
	return p
}

func ordered(s []Snapshot) []Snapshot {
	s = slices.Clone(s)
	slices.SortStableFunc(s, func(a, b Snapshot) int { return cmp.Compare(a.TXG, b.TXG) })
	return s
}

// places finds snapshots by GUID; nothing has GUID 0.
type places map[uint64]int

func placesOf(s []Snapshot) places {
	p := make(places, len(s))
	for i, x := range s {
		if x.GUID != 0 {
			p[x.GUID] = i
		}
	}
	return p
}

// of is the place of a GUID, or -1.
func (p places) of(guid uint64) int {
	if i, ok := p[guid]; ok {
		return i
	}
	return -1
}

func indexName(s []Snapshot, name string) int {
	return slices.IndexFunc(s, func(x Snapshot) bool { return x.Name == name })
}

func (s Snapshot) ref() Ref { return Ref{Name: s.Name, GUID: s.GUID, Tandem: s.Tandem} }
