// Package manifest decides which ZFS properties of a guest's volume go with it: which a replica carries, which are only written
// down until it becomes the owner's volume, and what has to be changed where they differ.
//
// It is pure and knows no streams: those carry no properties (never send -p), so that nothing of a source reaches a target that
// is not on the list below. Only values that were set on the volume itself, or that it received, count: what it inherits, the
// target's own storage decides.
package manifest

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// Kind is the type of a dataset, as ZFS calls it.
type Kind string

// The kinds of datasets.
const (
	Filesystem Kind = "filesystem"
	Zvol       Kind = "volume"
)

// Values are properties and their values, as `zfs get -p` tells them.
type Values map[string]string

// use is what becomes of a property.
type use struct {
	name        string
	filesystem  bool
	zvol        bool
	onlyWritten bool // not set on a replica
	limit       bool // stands in the way of a receive when it is too low
}

// Properties that are fixed at creation (casesensitivity, normalization, utf8only, volblocksize) and volsize travel in the stream.
// Not on the list: what shares a dataset, and what a pool's operator decides (checksum, copies, dedup).
func uses() []use {
	return []use{
		{name: "acltype", filesystem: true},
		{name: "aclinherit", filesystem: true},
		{name: "aclmode", filesystem: true},
		{name: "atime", filesystem: true},
		{name: "compression", filesystem: true, zvol: true},
		{name: "devices", filesystem: true},
		{name: "dnodesize", filesystem: true},
		{name: "exec", filesystem: true},
		{name: "logbias", filesystem: true, zvol: true},
		{name: "primarycache", filesystem: true, zvol: true},
		{name: "quota", filesystem: true, limit: true},
		{name: "recordsize", filesystem: true},
		{name: "refquota", filesystem: true, limit: true},
		{name: "relatime", filesystem: true},
		{name: "secondarycache", filesystem: true, zvol: true},
		{name: "setuid", filesystem: true},
		{name: "snapdir", filesystem: true},
		{name: "sync", filesystem: true, zvol: true},
		{name: "xattr", filesystem: true},

		{name: "canmount", filesystem: true, onlyWritten: true},
		{name: "mountpoint", filesystem: true, onlyWritten: true},
		// A thick zvol is replicated thin: a failover checks the space first.
		{name: "refreservation", filesystem: true, zvol: true, onlyWritten: true},
		{name: "reservation", filesystem: true, zvol: true, onlyWritten: true},
		{name: "snapdev", zvol: true, onlyWritten: true},
		{name: "volmode", zvol: true, onlyWritten: true},
	}
}

func (u use) of(kind Kind) bool {
	return kind == Filesystem && u.filesystem || kind == Zvol && u.zvol
}

// Properties are the names of all that is looked at, in order.
func Properties() []string {
	var out []string
	for _, u := range uses() {
		out = append(out, u.name)
	}
	slices.Sort(out)
	return out
}

// Guard are the properties that every replica has, whatever its source says: it is read-only, nothing mounts it at boot, and a
// zvol has no device node. The mountpoint is inherited, so that it never is the owner's.
func Guard(kind Kind) Values {
	if kind == Zvol {
		return Values{"readonly": "on", "volmode": "none"}
	}
	return Values{"readonly": "on", "canmount": "noauto"}
}

// Of are the values among a volume's own that go with it.
func Of(kind Kind, own Values) Values {
	out := Values{}
	for _, u := range uses() {
		if value, ok := own[u.name]; ok && u.of(kind) {
			out[u.name] = value
		}
	}
	return out
}

// Settable are the values as `zfs set` takes them: it shows no limit as 0 and wants none.
func (v Values) Settable() Values {
	out := maps.Clone(v)
	for _, name := range []string{"quota", "refquota", "reservation", "refreservation"} {
		if out[name] == "0" {
			out[name] = "none"
		}
	}
	return out
}

// Replica are the values of a manifest that a replica carries.
func (v Values) Replica(kind Kind) Values {
	out := Values{}
	for _, u := range uses() {
		if value, ok := v[u.name]; ok && u.of(kind) && !u.onlyWritten {
			out[u.name] = value
		}
	}
	return out
}

// Record is what is written down on a replica, as one user property.
type Record struct {
	// Values are the owner's.
	Values Values `json:"values,omitempty"`
	// Lifted are limits that stood in the way of a receive. They stay off the replica until the owner's value changes, and
	// come back with Restore.
	Lifted Values `json:"lifted,omitempty"`
}

// maxText is what a user property holds.
const maxText = 8<<10 - 1

// Text is the form in which it is written down.
func (r Record) Text() (string, error) {
	b, err := json.Marshal(r)
	if err == nil && len(b) > maxText {
		err = fmt.Errorf("it has %d bytes, a user property holds %d", len(b), maxText)
	}
	if err != nil {
		return "", fmt.Errorf("write down properties: %w", err)
	}
	return string(b), nil
}

// Parse reads what Text wrote. What cannot be read says nothing: it is written anew.
func Parse(text string) Record {
	var r Record
	if json.Unmarshal([]byte(text), &r) != nil {
		return Record{}
	}
	return r
}

// Change is what makes a replica carry what its owner's volume does.
type Change struct {
	// Set are values to set, as zfs takes them, Inherit the properties whose own values go, Record what is to be written down.
	Set     Values
	Inherit []string
	Record  Record
}

// None says that all is as it should be.
func (c Change) None() bool { return len(c.Set)+len(c.Inherit) == 0 }

// Compare tells what is to be changed on a replica that has own values and a record of former ones. A value that was set once is
// not set again until the owner's changes: ZFS may show it in another form (xattr=sa is on from 2.3 on), or somebody changed it
// there. The guard's are always put back, and what was never written down is left alone.
func Compare(kind Kind, want, own Values, former Record) Change {
	c := Change{Set: Values{}, Record: Record{Values: want, Lifted: Values{}}}
	carried := want.Replica(kind)
	for name, value := range former.Lifted {
		if carried[name] == value {
			c.Record.Lifted[name] = value
			delete(carried, name)
		}
	}
	for name, value := range carried {
		if was, done := former.Values[name]; own[name] != value && (!done || was != value) {
			c.Set[name] = value
		}
	}
	for name, value := range Guard(kind) {
		carried[name] = value
		if own[name] != value {
			c.Set[name] = value
		}
	}
	c.Set = c.Set.Settable()
	for name := range former.Values.Replica(kind) {
		_, still := carried[name]
		_, lifted := c.Record.Lifted[name]
		value, set := own[name]
		switch {
		case !set || still || lifted || value != former.Values[name]:
		case !inherited(name):
			if value != "0" {
				c.Set[name] = "none"
			}
		default:
			c.Inherit = append(c.Inherit, name)
		}
	}
	slices.Sort(c.Inherit)
	return c
}

// inherited says that zfs takes the own value of a property off; the others are only set to something else.
func inherited(name string) bool {
	switch name {
	case "canmount", "quota", "refquota", "reservation", "refreservation":
		return false
	}
	return true
}

// Same says that two records say the same.
func (r Record) Same(o Record) bool {
	return maps.Equal(r.Values, o.Values) && maps.Equal(r.Lifted, o.Lifted)
}

// Lift takes the limits off a replica of which a receive found one too low. Nothing to lift: the limit is somebody else's, or
// that of the storage.
func Lift(kind Kind, own Values, former Record) (set Values, record Record, ok bool) {
	record = Record{Values: former.Values, Lifted: Values{}}
	maps.Copy(record.Lifted, former.Lifted)
	set = Values{}
	for _, u := range uses() {
		value, has := own[u.name]
		if !u.limit || !u.of(kind) || !has || value == "0" || former.Values[u.name] != value {
			continue
		}
		set[u.name], record.Lifted[u.name] = "none", value
	}
	return set, record, len(set) > 0
}

// Restore tells what makes a replica with this record the owner's volume: what it was, and the guard off. What the owner's
// volume inherited is inherited again.
func (r Record) Restore(kind Kind) Change {
	c := Change{Set: Values{}}
	for _, u := range uses() {
		value, ok := r.Values[u.name]
		_, lifted := r.Lifted[u.name]
		if ok && u.of(kind) && (u.onlyWritten || lifted) {
			c.Set[u.name] = value
		}
	}
	c.Set["readonly"] = "off"
	if _, ok := c.Set["canmount"]; !ok && kind == Filesystem {
		c.Set["canmount"] = "on" // It cannot be inherited.
	}
	c.Set = c.Set.Settable()
	for name := range Guard(kind) {
		if _, set := c.Set[name]; !set {
			c.Inherit = append(c.Inherit, name)
		}
	}
	slices.Sort(c.Inherit)
	return c
}

// Demote tells what makes the owner's volume with these own values a replica: what it is is written down, what only an owner's
// volume has goes, and the guard comes. Done once, there is nothing left to do.
func Demote(kind Kind, own Values) Change {
	c := Change{Set: Values{}, Record: Record{Values: Of(kind, own)}}
	guard := Guard(kind)
	for _, u := range uses() {
		value, set := own[u.name]
		_, guarded := guard[u.name]
		switch {
		case !set || guarded || !u.onlyWritten || !u.of(kind):
		case !inherited(u.name):
			if value != "0" {
				c.Set[u.name] = "none"
			}
		default:
			c.Inherit = append(c.Inherit, u.name)
		}
	}
	for name, value := range guard {
		if own[name] != value {
			c.Set[name] = value
		}
	}
	slices.Sort(c.Inherit)
	return c
}

// Reserve is how many bytes the owner's volume had set aside, which a failover has to find first.
func (r Record) Reserve() uint64 {
	var most uint64
	for _, name := range []string{"refreservation", "reservation"} {
		var n uint64
		if _, err := fmt.Sscan(r.Values[name], &n); err == nil {
			most = max(most, n)
		}
	}
	return most
}
