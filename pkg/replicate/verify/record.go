package verify

import (
	"errors"
	"io/fs"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/replicate/fault"
)

// Record is what the owner remembers of a job's verifications.
type Record struct {
	// Last is the last one, whatever came of it.
	Last *Result `json:"last,omitempty"`
	// Differs is the last one that found a difference; nil: one after it was clean, or
	// none ever did.
	Differs *Result `json:"differs,omitempty"`
	// Known is who said that he knows of the difference, and when.
	Known     string    `json:"known,omitempty"`
	KnownTime time.Time `json:"known_time,omitzero"`
	// Owner found it, or knew it last, at Term; Told: the target knows it too.
	Owner guest.NodeID `json:"owner,omitempty"`
	Term  guest.Term   `json:"term,omitzero"`
	Told  bool         `json:"told,omitempty"`
}

// Alarm says that a difference was found of which nobody has said that he knows.
func (r Record) Alarm() bool { return r.Differs != nil && r.Known == "" }

func recordFile(id guest.JobID) string { return "verify-" + id.String() }

// load is the job's record. The caller holds the lock.
func (v *Verifier) load(id guest.JobID) *Record {
	r := v.records[id]
	if r == nil {
		r = &Record{}
		if err := v.o.Store.Read(recordFile(id), r); err != nil {
			r = &Record{}
			if !errors.Is(err, fs.ErrNotExist) {
				return r // Not kept: the file may be readable again.
			}
		}
		v.records[id] = r
	}
	return r
}

// Record is what is known of a job's verifications; of another target nothing counts.
func (v *Verifier) Record(job guest.Job) Record {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.load(job.ID).of(job.Target, v.o.Node)
}

// keep writes what is remembered; it holds in this process even where the disk
// does not take it. The caller holds the lock.
func (v *Verifier) keep(id guest.JobID, r Record) error {
	v.records[id] = &r
	return fault.Wrap(v.o.Store.Write(recordFile(id), r), "remember how the replica of job %s was verified", id)
}

func (v *Verifier) record(id guest.JobID, term guest.Term, res Result) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	r := v.load(id).of(res.Target, v.o.Node)
	r.Owner, r.Term, r.Told = v.o.Node, term, false
	r.Last = &res
	switch res.Outcome {
	case Equal:
		r.Differs, r.Known, r.KnownTime = nil, "", time.Time{}
	case Differs:
		r.Differs, r.Known, r.KnownTime = &res, "", time.Time{}
	case Failed: // It says nothing about the difference.
	}
	return v.keep(id, r)
}

// Acknowledge ends the alarm of a job: somebody knows.
func (v *Verifier) Acknowledge(job guest.Job, by string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	r := v.load(job.ID).of(job.Target, v.o.Node)
	if r.Differs == nil || r.Differs.Target != job.Target {
		return fault.Never("", "job %s: no verification has found a difference that is still open", job.ID)
	}
	r.Known, r.KnownTime, r.Told = by, v.o.Now(), false
	return v.keep(job.ID, r)
}

// Forget drops what was found of jobs that are none any more: one that is made
// later under the same ID has no past.
func (v *Verifier) Forget(s *ledger.State) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	var errs []error
	for id, r := range v.records {
		if _, ok := s.Jobs[id]; !ok && r.Last != nil {
			errs = append(errs, v.keep(id, Record{}))
		}
	}
	return errors.Join(errs...)
}
