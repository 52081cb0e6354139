// Package guest holds the nouns of Tandem: guests, volumes, jobs, terms, points
// and the names of snapshots, with their parsing, validation and order.
//
// It is pure: values in, values out. It does not know how any of them is stored,
// sent or displayed. Every other package imports it.
package guest

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// MinID is the smallest ID of a guest (as in Proxmox VE, where IDs below 100
// are reserved).
const MinID ID = 100

// MaxID is the largest ID of a guest (the limit of Proxmox VE).
const MaxID ID = 999_999_999

// ID identifies a guest in the whole cluster.
type ID int

// ParseID reads the decimal ID of a guest.
func ParseID(s string) (ID, error) {
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil || strconv.FormatUint(n, 10) != s {
		return 0, fmt.Errorf("guest ID %q: not a number from %d to %d", s, MinID, MaxID)
	}
	id := ID(n)
	return id, id.Validate()
}

// Validate refuses an ID outside MinID to MaxID.
func (id ID) Validate() error {
	if id < MinID || id > MaxID {
		return fmt.Errorf("guest ID %d: must be from %d to %d", int(id), MinID, MaxID)
	}
	return nil
}

// String is the decimal form of the ID.
func (id ID) String() string { return strconv.Itoa(int(id)) }

// Type says what a guest is.
type Type string

// The types of guests.
const (
	// VM is a virtual machine; its volumes are usually zvols.
	VM Type = "vm"
	// CT is a container; its volumes are usually filesystems.
	CT Type = "ct"
)

// ParseType reads "vm" or "ct".
func ParseType(s string) (Type, error) {
	switch t := Type(s); t {
	case VM, CT:
		return t, nil
	default:
		return "", fmt.Errorf("guest type %q: must be vm or ct", s)
	}
}

// MaxConfig is the most that a guest's configuration file may hold, in bytes.
const MaxConfig = 64 << 10

// Guest is something that runs on exactly one node at a time: its owner.
type Guest struct {
	ID      ID       `json:"id"`
	Type    Type     `json:"type"`
	Name    string   `json:"name"`
	Volumes []Volume `json:"volumes"`
	// Unit is the systemd unit that runs the guest; empty where Tandem only replicates.
	Unit string `json:"unit,omitempty"`
	// Config is the content of the guest's configuration file, which moves with it.
	Config string `json:"config,omitempty"`
	// Boot is whether its owner starts it by itself.
	Boot Boot `json:"boot,omitzero"`
	// Quiesce is how it is made consistent for a point.
	Quiesce Quiesce `json:"quiesce,omitempty"`
	// Owner is the node on which the guest may run and whose data is the truth.
	Owner NodeID `json:"owner"`
	// Term counts owners; on volumes and streams it is compared for equality only.
	Term Term `json:"term"`
	// Beginning is what the term's data began from; nil until its owner first changes.
	Beginning *Beginning `json:"beginning,omitempty"`
}

// Validate refuses a guest with a missing or malformed part.
func (g Guest) Validate() error {
	if err := g.ID.Validate(); err != nil {
		return err
	}
	if _, err := ParseType(string(g.Type)); err != nil {
		return fmt.Errorf("guest %s: %w", g.ID, err)
	}
	if err := validateGuestName(g.Name); err != nil {
		return fmt.Errorf("guest %s: %w", g.ID, err)
	}
	if err := ValidateUnit(g.Unit); err != nil {
		return fmt.Errorf("guest %s: %w", g.ID, err)
	}
	if len(g.Config) > MaxConfig || !utf8.ValidString(g.Config) || strings.ContainsRune(g.Config, 0) {
		return fmt.Errorf("guest %s: its configuration must be text of at most %d bytes", g.ID, MaxConfig)
	}
	if err := cmp.Or(g.Boot.Validate(), g.Quiesce.Validate()); err != nil {
		return fmt.Errorf("guest %s: %w", g.ID, err)
	}
	if err := g.Owner.Validate(); err != nil {
		return fmt.Errorf("guest %s: owner: %w", g.ID, err)
	}
	if len(g.Volumes) == 0 {
		return fmt.Errorf("guest %s: it needs at least one volume, like local-zfs:vm-%s-disk-0", g.ID, g.ID)
	}
	return g.validateVolumes()
}

func (g Guest) validateVolumes() error {
	seen := map[Volume]bool{}
	for _, v := range g.Volumes {
		if err := v.Validate(); err != nil {
			return fmt.Errorf("guest %s: %w", g.ID, err)
		}
		if seen[v] {
			return fmt.Errorf("guest %s: volume %s is listed twice", g.ID, v)
		}
		seen[v] = true
	}
	return nil
}

// Has says whether v is one of the guest's volumes.
func (g Guest) Has(v Volume) bool { return slices.Contains(g.Volumes, v) }

// JobID identifies a replication job in the whole cluster: the guest's ID and a
// job number ("This ID is composed of the VMID in addition to a job number").
type JobID struct {
	Guest  ID
	Number int
}

// MaxJobNumber is the largest job number (the limit of Proxmox VE).
const MaxJobNumber = 999_999_999

// ParseJobID reads an ID like "100-0".
func ParseJobID(s string) (JobID, error) {
	for i := range s {
		if s[i] != '-' {
			continue
		}
		id, err := ParseID(s[:i])
		if err != nil {
			return JobID{}, fmt.Errorf("job ID %q: %w", s, err)
		}
		n, err := strconv.ParseUint(s[i+1:], 10, 31)
		if err != nil || n > MaxJobNumber || strconv.FormatUint(n, 10) != s[i+1:] {
			return JobID{}, fmt.Errorf("job ID %q: the job number must be from 0 to %d", s, MaxJobNumber)
		}
		return JobID{Guest: id, Number: int(n)}, nil
	}
	return JobID{}, fmt.Errorf("job ID %q: must be a guest ID and a job number, like 100-0", s)
}

// String is the form "100-0".
func (j JobID) String() string { return j.Guest.String() + "-" + strconv.Itoa(j.Number) }

// Compare orders jobs by guest, then by number.
func (j JobID) Compare(o JobID) int {
	return cmp.Or(cmp.Compare(j.Guest, o.Guest), cmp.Compare(j.Number, o.Number))
}

// MarshalText writes the form "100-0", also as a key of JSON objects.
func (j JobID) MarshalText() ([]byte, error) { return []byte(j.String()), nil }

// UnmarshalText reads the form "100-0".
func (j *JobID) UnmarshalText(b []byte) (err error) {
	*j, err = ParseJobID(string(b))
	return err
}

// SnapshotMode says what a job does with snapshots that operators made.
type SnapshotMode string

// The modes of --snapshots.
const (
	// Mirror copies operators' snapshots and removes its copies when they go at the source.
	Mirror SnapshotMode = "mirror"
	// Keep copies operators' snapshots and leaves its copies for ever.
	Keep SnapshotMode = "keep"
	// None copies only Tandem's own points.
	None SnapshotMode = "none"
)

// ParseSnapshotMode reads "mirror", "keep" or "none".
func ParseSnapshotMode(s string) (SnapshotMode, error) {
	switch m := SnapshotMode(s); m {
	case Mirror, Keep, None:
		return m, nil
	default:
		return "", fmt.Errorf("snapshot mode %q: must be mirror, keep or none", s)
	}
}

// MinRate is the smallest rate limit of a job, in MB/s (10^6 bytes per second).
const MinRate = 1.0

// Job replicates one guest to one target node.
type Job struct {
	ID     JobID  `json:"id"`
	Target NodeID `json:"target"`
	// Schedule is a calendar expression as the operator wrote it.
	Schedule string `json:"schedule"`
	// Rate is the limit in MB/s (10^6 bytes); 0 means none.
	Rate      float64      `json:"rate,omitempty"`
	Comment   string       `json:"comment,omitempty"`
	Disabled  bool         `json:"disabled,omitempty"`
	Snapshots SnapshotMode `json:"snapshots"`
	// Removing is set when an operator deleted the job; the owner cleans up and then drops it.
	Removing bool `json:"removing,omitempty"`
	// KeepReplica tells a job that is being removed to leave the replica's data.
	KeepReplica bool `json:"keep_replica,omitempty"`
}

// Validate refuses a job with a missing or malformed part. The schedule's
// grammar is checked by pkg/calendar.
func (j Job) Validate() error {
	if err := j.ID.Guest.Validate(); err != nil {
		return fmt.Errorf("job %s: %w", j.ID, err)
	}
	if j.ID.Number < 0 || j.ID.Number > MaxJobNumber {
		return fmt.Errorf("job %s: the job number must be from 0 to %d", j.ID, MaxJobNumber)
	}
	if err := j.Target.Validate(); err != nil {
		return fmt.Errorf("job %s: target: %w", j.ID, err)
	}
	if j.Schedule == "" {
		return fmt.Errorf("job %s: the schedule is empty", j.ID)
	}
	if j.Rate != 0 && !(j.Rate >= MinRate && j.Rate <= 1e6) {
		return fmt.Errorf("job %s: rate %v: must be at least %v MB/s", j.ID, j.Rate, MinRate)
	}
	if _, err := ParseSnapshotMode(string(j.Snapshots)); err != nil {
		return fmt.Errorf("job %s: %w", j.ID, err)
	}
	return validateText("comment", j.Comment, 4096)
}

// Term names one ownership of a guest: a counter, and the generation of the
// ledger in which the owner was set. Terms are compared for equality only.
type Term struct {
	N          uint64 `json:"n"`
	Generation string `json:"generation"`
}

// ParseTerm reads the form that String writes.
func ParseTerm(s string) (Term, error) {
	for i := range s {
		if s[i] != '-' {
			continue
		}
		n, err := strconv.ParseUint(s[:i], 10, 64)
		if err != nil || strconv.FormatUint(n, 10) != s[:i] || !isHex(s[i+1:], GenerationLen) {
			break
		}
		return Term{N: n, Generation: s[i+1:]}, nil
	}
	return Term{}, fmt.Errorf("term %q: must look like 3-%s", s, "0123456789abcdef")
}

// String is the form "3-0123456789abcdef", used in properties and names.
func (t Term) String() string { return strconv.FormatUint(t.N, 10) + "-" + t.Generation }

// IsZero says that no term is set.
func (t Term) IsZero() bool { return t == Term{} }

// Consistency says how a point was taken.
type Consistency string

// The consistencies of a point.
const (
	// Crash is what a power cut would have left.
	Crash Consistency = "crash"
	// Frozen means that the guest's filesystems were frozen.
	Frozen Consistency = "frozen"
	// Hooked means that hooks of the operator prepared the guest.
	Hooked Consistency = "hook"
)

// Point is one consistent state of a guest: the same snapshot of all volumes
// that it lists. It travels as a user property of the snapshots.
type Point struct {
	Volumes     []Volume    `json:"volumes"`
	Consistency Consistency `json:"consistency"`
	// Taken is the time by the source's clock, in seconds since 1970.
	Taken int64 `json:"taken"`
}

// Property is the point as the value of a user property.
func (p Point) Property() (string, error) {
	b, err := json.Marshal(p)
	return string(b), err
}

// ParsePoint reads the value that Property writes.
func ParsePoint(s string) (Point, error) {
	var p Point
	if err := json.Unmarshal([]byte(s), &p); err != nil {
		return Point{}, fmt.Errorf("point %q: %w", s, err)
	}
	if len(p.Volumes) == 0 {
		return Point{}, errors.New("point: it lists no volume")
	}
	return p, nil
}
