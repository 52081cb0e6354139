// Package wire is what a source and a target tell each other: requests and
// answers in JSON, and their validation on arrival, since the peer may be wrong.
// It does not carry them: pkg/peer does.
package wire

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/plan"
	"github.com/tandemd/tandem/pkg/replicate/fault"
	"github.com/tandemd/tandem/pkg/zfs/zname"
)

// Version is the version of the requests and answers below. A node refuses
// any other.
const Version = 1

// The paths of the calls that a target answers.
const (
	PathInventory = "/replicate/inventory"
	PathAbort     = "/replicate/abort"
	PathCommit    = "/replicate/commit"
	PathRemove    = "/replicate/remove"
	PathAside     = "/replicate/aside"
)

// Bounds of what a peer may tell.
const (
	maxSnapshots = 1 << 20
	maxVolumes   = 1 << 10
	maxProperty  = 8<<10 - 1
)

// Request is what every request carries.
type Request struct {
	Version int         `json:"version"`
	Job     guest.JobID `json:"job"`
	// Term is that of the guest, as the sender knows it.
	Term guest.Term `json:"term"`
	// Index is how far the sender's ledger is.
	Index uint64 `json:"index"`
	// Move says that the owner hands the guest over to the target: that needs no job.
	Move bool `json:"move,omitempty"`
}

// InventoryRequest asks for all that the target has of the guest's volumes.
type InventoryRequest struct {
	Request
	Ahead
}

// Inventory is the answer.
type Inventory struct {
	Version int               `json:"version"`
	ZFS     string            `json:"zfs"`
	Volumes []InventoryVolume `json:"volumes"`
}

// InventoryVolume is one volume at the target.
type InventoryVolume struct {
	Volume        guest.Volume `json:"volume"`
	Root          string       `json:"root"`
	Available     uint64       `json:"available"`
	RootEncrypted bool         `json:"root_encrypted,omitempty"`

	Dataset   string              `json:"dataset"`
	Exists    bool                `json:"exists"`
	Kind      plan.Kind           `json:"kind,omitempty"`
	Cluster   string              `json:"cluster,omitempty"`
	Guest     string              `json:"guest,omitempty"`
	Role      string              `json:"role,omitempty"`
	Term      string              `json:"term,omitempty"`
	Marked    string              `json:"marked_volume,omitempty"`
	Mounted   bool                `json:"mounted,omitempty"`
	Encrypted bool                `json:"encrypted,omitempty"`
	Written   uint64              `json:"written,omitempty"`
	Snapshots []InventorySnapshot `json:"snapshots,omitempty"`
	// Inherited says that it has no point yet whose sync the present owner has completed.
	Inherited bool `json:"inherited,omitempty"`
	// Token is that of an interrupted receive; Ours says that this node began it for the guest.
	Token string `json:"token,omitempty"`
	Ours  bool   `json:"ours,omitempty"`
	InventoryFacts
	InventoryAside
	InventoryBookmarks
}

// InventorySnapshot is one snapshot at the target.
type InventorySnapshot struct {
	Name     string `json:"name"`
	GUID     uint64 `json:"guid"`
	TXG      uint64 `json:"txg"`
	Written  uint64 `json:"written,omitempty"`
	Tandem   bool   `json:"tandem,omitempty"`
	Received bool   `json:"received,omitempty"`
	Complete bool   `json:"complete,omitempty"`
	Held     bool   `json:"held,omitempty"`
}

// AbortRequest asks to drop an interrupted receive.
type AbortRequest struct {
	Request
	Volume guest.Volume `json:"volume"`
	// Token must be the one that the dataset has.
	Token string `json:"token"`
}

// AbortReply says that it is gone.
type AbortReply struct{}

// ReceiveHeader opens a stream with one step of a plan.
type ReceiveHeader struct {
	Request
	Volume guest.Volume `json:"volume"`
	Kind   plan.Kind    `json:"kind"`
	Verb   plan.Verb    `json:"verb"`
	// From is the GUID that the target must have; 0 for a full stream or a resumed one.
	From uint64 `json:"from,omitempty"`
	// To is the newest snapshot once the stream is received.
	To plan.Ref `json:"to"`
	// Token is what a resumed stream goes on from.
	Token string `json:"token,omitempty"`
	Nature
}

// ReceiveReply says what has arrived.
type ReceiveReply struct {
	Bytes  int64    `json:"bytes"`
	Newest plan.Ref `json:"newest"`
	// Warning is what an operator should know of the replica.
	Warning string `json:"warning,omitempty"`
}

// CommitRequest ends a sync: the point is complete if its volumes are all there.
type CommitRequest struct {
	Request
	// Point is the name of its snapshots, Property what they carry as tandem:point.
	Point    string `json:"point"`
	Property string `json:"property"`
	// Age is that of the point's content by the source's clock, in seconds: since
	// it was taken or, where nothing was written since, since that was seen.
	Age int64 `json:"age"`
	// Current says that nothing was sent because nothing was written.
	Current bool           `json:"current,omitempty"`
	Volumes []CommitVolume `json:"volumes"`
}

// CommitVolume is what the commit does to one volume.
type CommitVolume struct {
	Volume guest.Volume `json:"volume"`
	// GUID is that of the point's snapshot.
	GUID uint64 `json:"guid"`
	// Mark are snapshots that Tandem brought and that carry no mark yet.
	Mark []plan.Ref `json:"mark,omitempty"`
	// Delete are snapshots that nobody needs, or copies of what is gone at the source.
	Delete []plan.Ref `json:"delete,omitempty"`
	// Stay are copies of operators' snapshots that are not Tandem's to remove any more.
	Stay []plan.Ref `json:"stay,omitempty"`
	CommitBookmarks
	// Nature is set where the replica's properties are to be changed and no stream did it.
	Nature *Nature `json:"nature,omitempty"`
}

// CommitReply says what the target has now.
type CommitReply struct {
	// Volumes list Tandem's points at the target.
	Volumes []HeldVolume `json:"volumes"`
	// Warnings say what was not deleted and why.
	Warnings []string `json:"warnings,omitempty"`
}

// HeldVolume lists snapshots of one volume by GUID.
type HeldVolume struct {
	Volume guest.Volume `json:"volume"`
	Has    []uint64     `json:"has"`
}

// RemoveRequest ends a job that an operator deleted.
type RemoveRequest struct {
	Request
	// Keep leaves the replicas as they are.
	Keep bool `json:"keep,omitempty"`
	// Unfinished takes only what a migration at the present term began.
	Unfinished bool `json:"unfinished,omitempty"`
	// Volumes tell which snapshots are copies of what the source has, be it only as a bookmark.
	Volumes []HeldVolume `json:"volumes,omitempty"`
}

// RemoveReply says what went and what is left.
type RemoveReply struct {
	Destroyed []string `json:"destroyed,omitempty"`
	// Left names each dataset that stays, with the reason.
	Left []string `json:"left,omitempty"`
}

// Validate refuses another version of the wire and what cannot be a job.
func (r Request) Validate() error {
	if r.Version != Version {
		return fault.Never("run the same version of tandemd on all nodes", "request of version %d, this node speaks %d", r.Version, Version)
	}
	if err := r.Job.Guest.Validate(); err != nil {
		return fault.Never("", "request: %v", err)
	}
	return nil
}

func validRefs(refs []plan.Ref) error {
	if len(refs) > maxSnapshots {
		return fmt.Errorf("%d snapshots: more than %d", len(refs), maxSnapshots)
	}
	for _, r := range refs {
		if err := zname.Own(r.Name); err != nil {
			return err
		}
		if r.GUID == 0 {
			return fmt.Errorf("snapshot %q without GUID", r.Name)
		}
	}
	return nil
}

// Validate refuses a header that no plan makes.
func (h ReceiveHeader) Validate() error {
	if err := h.Request.Validate(); err != nil {
		return err
	}
	err := cmp.Or(validRefs([]plan.Ref{h.To}), h.Nature.Validate())
	switch {
	case err != nil:
	case h.Kind != plan.Filesystem && h.Kind != plan.Zvol:
		err = fmt.Errorf("kind %q", h.Kind)
	case h.Verb == plan.Resume:
		err = zname.Token(h.Token)
	case h.Verb == plan.Full && h.From != 0, (h.Verb == plan.Single || h.Verb == plan.Run || h.Verb == plan.Branch) && h.From == 0:
		err = fmt.Errorf("%s stream from GUID %d", h.Verb, h.From)
	case h.Verb != plan.Full && h.Verb != plan.Single && h.Verb != plan.Run && h.Verb != plan.Branch:
		err = fmt.Errorf("verb %q", h.Verb)
	}
	if err != nil {
		return &fault.Error{Class: fault.ClassNever, Volume: h.Volume, Text: "header of a stream", Err: err}
	}
	return nil
}

// Validate refuses names that are none, and more than a guest can have.
func (c CommitRequest) Validate() error {
	if err := c.Request.Validate(); err != nil {
		return err
	}
	err := zname.Own(c.Point)
	if err == nil && len(c.Property) > maxProperty {
		err = fmt.Errorf("property of %d bytes: more than %d", len(c.Property), maxProperty)
	}
	if err == nil {
		_, err = guest.ParsePoint(c.Property)
	}
	if err == nil && (c.Age < 0 || len(c.Volumes) == 0 || len(c.Volumes) > maxVolumes) {
		err = fmt.Errorf("age %d s, %d volumes", c.Age, len(c.Volumes))
	}
	for _, v := range c.Volumes {
		if err == nil {
			err = cmp.Or(v.validate(), v.Nature.Validate())
		}
		if err == nil {
			err = validRefs(slices.Concat([]plan.Ref{{Name: c.Point, GUID: v.GUID}}, v.Mark, v.Delete, v.Stay))
		}
	}
	if err != nil {
		return &fault.Error{Class: fault.ClassNever, Text: "commit", Err: err}
	}
	return nil
}

// Idle says that nothing was sent and nothing is to be changed.
func (c CommitRequest) Idle() bool {
	return c.Current && !slices.ContainsFunc(c.Volumes, func(v CommitVolume) bool {
		return len(v.Mark)+len(v.Delete)+len(v.Stay)+len(v.Unbookmark) > 0 || v.Nature != nil
	})
}

// Copied says that the source has the snapshot too, or a bookmark of it: it came from there
// or from where both got it, also where it carries no mark yet because its sync was cut.
func (r RemoveRequest) Copied(v guest.Volume, guid uint64) bool {
	return slices.ContainsFunc(r.Volumes, func(h HeldVolume) bool { return h.Volume == v && slices.Contains(h.Has, guid) })
}

// Validate checks what a target told about the guest's volumes.
func (i Inventory) Validate(g guest.Guest) error {
	if i.Version != Version {
		return fault.Never("run the same version of tandemd on all nodes", "answer of version %d, this node speaks %d", i.Version, Version)
	}
	if len(i.Volumes) != len(g.Volumes) {
		return fault.Retry("", "the target told of %d volumes, asked were %d", len(i.Volumes), len(g.Volumes))
	}
	for n, v := range i.Volumes {
		if v.Volume != g.Volumes[n] {
			return fault.Retry("", "the target told of volume %s, asked was %s", v.Volume, g.Volumes[n])
		}
		if err := v.Validate(); err != nil {
			return fault.WrapVolume(v.Volume, err, "the target's answer")
		}
	}
	return nil
}

// Validate refuses names that are none, and more than a volume can have.
func (v InventoryVolume) Validate() error {
	if err := zname.Dataset(v.Dataset); err != nil {
		return err
	}
	if len(v.Snapshots) > maxSnapshots {
		return fmt.Errorf("%d snapshots: more than %d", len(v.Snapshots), maxSnapshots)
	}
	for _, s := range v.Snapshots {
		if err := zname.Own(s.Name); err != nil {
			return err
		}
	}
	if v.Token != "" {
		if err := zname.Token(v.Token); err != nil {
			return err
		}
	}
	if err := v.InventoryBookmarks.validate(); err != nil {
		return err
	}
	return v.InventoryAside.validate()
}

// Side is the volume as the planner wants it.
func (v InventoryVolume) Side() plan.Side {
	s := plan.Side{
		Dataset: v.Dataset, Exists: v.Exists, Kind: v.Kind, Mounted: v.Mounted, Encrypted: v.Encrypted, Written: v.Written,
		Marks: plan.Marks{Cluster: v.Cluster, Guest: v.Guest, Role: v.Role, Term: v.Term, Volume: v.Marked}, Facts: v.Facts(),
	}
	s.GUID, s.Origin, s.Modified, s.Inherited = v.GUID, v.Origin, v.Modified, v.Inherited
	s.Bookmarks = v.planned()
	for _, x := range v.Snapshots {
		s.Snapshots = append(s.Snapshots, x.planned())
	}
	return s
}

func (x InventorySnapshot) planned() plan.Snapshot {
	return plan.Snapshot{
		Name: x.Name, GUID: x.GUID, TXG: x.TXG, Written: x.Written, Tandem: x.Tandem, Received: x.Received, Complete: x.Complete, Held: x.Held,
	}
}
