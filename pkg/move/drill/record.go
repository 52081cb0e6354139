package drill

import (
	"errors"
	"io/fs"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/replicate/fault"
)

// Record is what a node remembers of a guest's drills on it.
type Record struct {
	// Last is the last one, whatever came of it; nil: there was none.
	Last *Result `json:"last,omitempty"`
	// Good is the last one that passed.
	Good *Result `json:"good,omitempty"`
	// Bad is the last one that failed, since the last good one.
	Bad *Result `json:"bad,omitempty"`
}

func recordFile(id guest.ID) string { return "drill-" + id.String() }

// load is a guest's record. The caller holds the lock.
func (d *Drills) load(id guest.ID) *Record {
	r := d.records[id]
	if r == nil {
		r = &Record{}
		if err := d.o.Store.Read(recordFile(id), r); err != nil {
			r = &Record{}
			if !errors.Is(err, fs.ErrNotExist) {
				return r // Not kept: the file may be readable again.
			}
		}
		d.records[id] = r
	}
	return r
}

// Records are what is known of the drills of guests that others own.
func (d *Drills) Records() map[guest.ID]Record {
	view := d.o.Ledger.View()
	d.mu.Lock()
	defer d.mu.Unlock()
	out := map[guest.ID]Record{}
	for id, g := range view.Guests {
		if g.Owner == d.o.Node {
			continue
		}
		if r := d.load(id); r.Last != nil {
			out[id] = *r
		}
	}
	return out
}

// remember keeps how a drill went; it holds in this process even where the disk does
// not take it.
func (d *Drills) remember(res Result) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := *d.load(res.Guest)
	r.Last = &res
	switch res.Outcome {
	case Passed:
		r.Good, r.Bad = &res, nil
	case Failed:
		r.Bad = &res
	case Ended: // It tells nothing about the replica.
	}
	return d.keep(res.Guest, r)
}

// keep writes what is remembered. The caller holds the lock.
func (d *Drills) keep(id guest.ID, r Record) error {
	d.records[id] = &r
	return fault.Wrap(d.o.Store.Write(recordFile(id), r), "remember how guest %s was drilled", id)
}

// Forget drops what is remembered of guests that are none any more: one that is
// added later under the same ID has no past.
func (d *Drills) Forget(s *ledger.State) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var errs []error
	for id, r := range d.records {
		if _, ok := s.Guests[id]; !ok && r.Last != nil {
			errs = append(errs, d.keep(id, Record{}))
		}
	}
	return errors.Join(errs...)
}
