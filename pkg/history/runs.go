package history

import (
	"bytes"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/job"
)

// Append adds a run, which begins (Running) or has ended, and gives its ID. It
// drops the oldest runs of the job beyond Options.Keep.
func (s *Store) Append(r Run) (id uint64, err error) {
	if err := r.validate(); err != nil {
		return 0, err
	}
	err = s.update(func(runs *bolt.Bucket) error {
		b, err := runs.CreateBucketIfNotExists(jobKey(r.Job))
		if err != nil {
			return err
		}
		if r.ID, err = b.NextSequence(); err != nil {
			return err
		}
		if err := store(b, r); err != nil {
			return err
		}
		return s.prune(b)
	})
	return r.ID, err
}

// Update replaces a run that Append has added: as it goes on, and when it ends. A
// run that was skipped like the one before it leaves no record: a guest that is
// locked for hours would fill the history, and push out what is worth reading.
func (s *Store) Update(r Run) error {
	if err := r.validate(); err != nil {
		return err
	}
	return s.update(func(runs *bolt.Bucket) error {
		b := runs.Bucket(jobKey(r.Job))
		if b == nil || b.Get(key(r.ID)) == nil {
			return fmt.Errorf("job %s has no run %d", r.Job, r.ID)
		}
		again, err := skippedAgain(b, r)
		if err != nil {
			return err
		}
		if again {
			return b.Delete(key(r.ID))
		}
		return store(b, r)
	})
}

// skippedAgain says that the run was skipped, as the one before it was.
func skippedAgain(b *bolt.Bucket, r Run) (bool, error) {
	if r.Outcome != Skipped || r.Bytes != 0 {
		return false, nil
	}
	_, v := lastBefore(b, r.ID)
	if v == nil {
		return false, nil
	}
	before, err := decode(v)
	return before.Outcome == Skipped, err
}

// store writes a run with its place in the row of failures.
func store(b *bolt.Bucket, r Run) error {
	before := 0
	if _, v := lastBefore(b, r.ID); v != nil {
		last, err := decode(v)
		if err != nil {
			return err
		}
		before = last.Fails
	}
	switch r.Outcome {
	case OK:
		r.Fails = 0
	case Failed:
		r.Fails = before + 1
	case Running, Skipped, Interrupted:
		r.Fails = before
	}
	r.Log = shorten(r.Log)
	return put(b, r)
}

// lastBefore is the run before the one with this ID, which need not exist.
func lastBefore(b *bolt.Bucket, id uint64) (k, v []byte) {
	c := b.Cursor()
	if k, _ := c.Seek(key(id)); k == nil {
		return c.Last()
	}
	return c.Prev()
}

// prune keeps the newest runs and, if it is older, the newest that succeeded.
func (s *Store) prune(b *bolt.Bucket) error {
	var drop [][]byte
	n, success := 0, false
	c := b.Cursor()
	for k, v := c.Last(); k != nil; k, v = c.Prev() {
		n++
		keep := n <= s.opts.Keep
		if !success {
			r, err := decode(v)
			if err != nil {
				return err
			}
			success = r.Outcome == OK
			keep = keep || success
		}
		if !keep {
			drop = append(drop, bytes.Clone(k))
		}
	}
	for _, k := range drop {
		if err := b.Delete(k); err != nil {
			return err
		}
	}
	return nil
}

// Runs are the last n runs of a job, newest first; all where n is not positive.
func (s *Store) Runs(id guest.JobID, n int) (out []Run, err error) {
	err = s.newestFirst(id, func(r Run) bool {
		out = append(out, r)
		return n <= 0 || len(out) < n
	})
	return out, err
}

// Run is one run of a job; ok says whether it is (still) known.
func (s *Store) Run(id guest.JobID, number uint64) (r Run, ok bool, err error) {
	err = s.view(func(runs *bolt.Bucket) error {
		b := runs.Bucket(jobKey(id))
		if b == nil {
			return nil
		}
		v := b.Get(key(number))
		if v == nil {
			return nil
		}
		ok = true
		r, err = decode(v)
		return err
	})
	return r, ok && err == nil, err
}

// Last is the newest run of a job that was not skipped; ok says whether there is one.
func (s *Store) Last(id guest.JobID) (r Run, ok bool, err error) {
	err = s.newestFirst(id, func(one Run) bool {
		if one.Outcome != Skipped {
			r, ok = one, true
		}
		return !ok
	})
	if err != nil {
		return Run{}, false, err
	}
	return r, ok, nil
}

// Facts are what the runs tell the job's machine after a restart. Known is left
// to the caller.
func (s *Store) Facts(id guest.JobID) (f job.Facts, err error) {
	ended := false
	err = s.newestFirst(id, func(r Run) bool {
		if r.Outcome == Skipped {
			return true
		}
		if f.LastTry.IsZero() {
			f.LastTry, f.LastEnd = r.Start, r.End
			f.Interrupted = r.Outcome == Interrupted
		}
		if r.Outcome == OK {
			f.LastSync = r.Start
			return false
		}
		if r.Outcome == Failed && !ended {
			f.Fails, f.LastError, ended = r.Fails, r.Error, true
		}
		return true
	})
	return f, err
}

// Forget drops all runs of a job.
func (s *Store) Forget(id guest.JobID) error {
	return s.update(func(runs *bolt.Bucket) error {
		if runs.Bucket(jobKey(id)) == nil {
			return nil
		}
		return runs.DeleteBucket(jobKey(id))
	})
}

// Jobs are the jobs of which there are runs.
func (s *Store) Jobs() (ids []guest.JobID, err error) {
	err = s.view(func(runs *bolt.Bucket) error {
		return runs.ForEachBucket(func(name []byte) error {
			id, err := guest.ParseJobID(string(name))
			if err != nil {
				return &damage{err}
			}
			ids = append(ids, id)
			return nil
		})
	})
	return ids, err
}

func (s *Store) newestFirst(id guest.JobID, more func(Run) bool) error {
	return s.view(func(runs *bolt.Bucket) error {
		b := runs.Bucket(jobKey(id))
		if b == nil {
			return nil
		}
		c := b.Cursor()
		for k, v := c.Last(); k != nil; k, v = c.Prev() {
			r, err := decode(v)
			if err != nil {
				return err
			}
			if !more(r) {
				return nil
			}
		}
		return nil
	})
}
