// Package disk is what the in-memory pool has: datasets and snapshots, what each of them holds and has written, and the values
// of their properties. It knows no operations and no errors; zfstest alone imports it.
package disk

import (
	"strconv"
	"time"

	"github.com/tandemd/tandem/pkg/zfs"
	"github.com/tandemd/tandem/pkg/zfs/zfstest/content"
	"github.com/tandemd/tandem/pkg/zfs/zfstest/wire"
)

// Dataset is a dataset.
type Dataset struct {
	Name            string
	Type            zfs.Type
	GUID, CreateTXG uint64
	Props           map[string]string // own ones
	Live            content.Content
	Snaps           []*Snapshot // createtxg order
	Marks           map[string]*Snapshot
	Origin          *Snapshot
	Mounted, Busy   bool
	At              string // where it is mounted, if not at its mountpoint
	Receiving       bool
	Partial         *Partial
	Keyless         bool   // encrypted and the key is not loaded
	inSnaps         uint64 // bytes that the snapshots have written
}

// Snapshot is a snapshot, or a bookmark (no content).
type Snapshot struct {
	Of              *Dataset
	Name            string
	GUID, CreateTXG uint64
	Creation        time.Time
	Content         content.Content
	Written         uint64 // bytes
	Props           map[string]string
	Holds           map[string]bool
	Sending         int // running sends
	// IVSet identifies how its blocks are encrypted; the same after a raw stream only.
	IVSet uint64
}

// Full is the full name.
func (s *Snapshot) Full() string { return s.Of.Name + "@" + s.Name }

// Snap finds a snapshot by its own name.
func (d *Dataset) Snap(name string) *Snapshot {
	for _, s := range d.Snaps {
		if s.Name == name {
			return s
		}
	}
	return nil
}

// SnapByGUID finds a snapshot.
func (d *Dataset) SnapByGUID(guid uint64) *Snapshot {
	for _, s := range d.Snaps {
		if s.GUID == guid {
			return s
		}
	}
	return nil
}

// Since is the txg up to which everything is in a snapshot.
func (d *Dataset) Since() uint64 {
	if n := len(d.Snaps); n > 0 {
		return d.Snaps[n-1].CreateTXG
	}
	if d.Origin != nil {
		return d.Origin.CreateTXG
	}
	return 0
}

// Recount sets what each snapshot, and the dataset since the last, has written: what is not in the one before.
func (d *Dataset) Recount() {
	d.inSnaps = 0
	since := uint64(0)
	if d.Origin != nil {
		since = d.Origin.CreateTXG
	}
	for _, s := range d.Snaps {
		s.Written = s.Content.BornAfter(since)
		since = s.CreateTXG
		d.inSnaps += s.Written
	}
	d.Live.Born = d.Live.BornAfter(since)
}

// Used is what it takes, in bytes.
func (d *Dataset) Used() uint64 {
	n := d.Live.Born + d.inSnaps
	if d.Partial != nil {
		n += d.Partial.Work.Born
	}
	return n
}

// Take makes a snapshot of what the dataset holds.
func (d *Dataset) Take(name string, guid, txg uint64, now time.Time) *Snapshot {
	s := &Snapshot{
		Of: d, Name: name, GUID: guid, CreateTXG: txg, Creation: now.UTC().Truncate(time.Second), Written: d.Live.Born,
		Content: d.Live.Share(), Props: map[string]string{}, Holds: map[string]bool{}, IVSet: guid,
	}
	d.inSnaps += d.Live.Born
	d.Live.Born = 0
	d.Snaps = append(d.Snaps, s)
	return s
}

// Partial is what an interrupted receive left.
type Partial struct {
	wire.Header
	Work    content.Content
	Records int
	Bytes   uint64
	TXG     uint64 // in which its blocks are born
	Created bool   // the dataset did not exist before
}

// Token is the resume token.
func (t *Partial) Token() string {
	return wire.Ticket{To: t.To, ToGUID: t.ToGUID, FromGUID: t.FromGUID, Records: t.Records, Bytes: t.Bytes, Raw: t.Raw}.Token()
}

// Effective returns a property's value and where it is from. Chain is the dataset, its parent, and so on.
func Effective(prop string, chain []*Dataset) (value, source string) {
	d := chain[0]
	if value, ok := d.native(prop); ok {
		return value, "-"
	}
	for i, at := range chain {
		if value, ok := at.Props[prop]; ok && i == 0 {
			return value, "local"
		} else if ok {
			return value, "inherited from " + at.Name
		}
		if standards()[prop].alone {
			break
		}
	}
	return d.standardOf(prop)
}

func (d *Dataset) native(prop string) (string, bool) {
	if d.Type == zfs.TypeVolume && (prop == "canmount" || prop == "mountpoint" || prop == "mounted") {
		return "-", true
	}
	switch prop {
	case "type":
		return string(d.Type), true
	case "guid":
		return strconv.FormatUint(d.GUID, 10), true
	case "createtxg":
		return strconv.FormatUint(d.CreateTXG, 10), true
	case "written":
		return strconv.FormatUint(d.Live.Born, 10), true
	case "volsize":
		if d.Type == zfs.TypeVolume {
			return strconv.FormatUint(d.Live.VolSize, 10), true
		}
		return "-", true
	case "mounted":
		if d.Mounted {
			return "yes", true
		}
		return "no", true
	}
	return "", false
}
