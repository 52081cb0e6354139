package history

import (
	"slices"
	"sync"

	bolt "go.etcd.io/bbolt"
)

// writes are the changes that wait for their transaction.
type writes struct {
	mu      sync.Mutex
	waiting []*write
}

// write is one change. It may be carried out more than once, each time on what there was before.
type write struct {
	bucket []byte
	change func(*bolt.Bucket) error
	done   bool
	err    error
}

func (w *writes) add(one *write) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.waiting = append(w.waiting, one)
}

func (w *writes) take() []*write {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := w.waiting
	w.waiting = nil
	return all
}

// updateIn changes a bucket. What comes while the disk is busy with another change is
// written in one transaction: runs that are due together begin and end together.
func (s *Store) updateIn(bucket []byte, f func(*bolt.Bucket) error) error {
	w := &write{bucket: bucket, change: f}
	s.writes.add(w)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !w.done { // Else somebody who had the lock before has taken it along.
		s.commit(s.writes.take())
	}
	return w.err
}

// commit carries out changes in one transaction. One that fails is left out, and its
// error is its own.
func (s *Store) commit(lot []*write) {
	for len(lot) > 0 {
		at := 0
		err := s.use(func(db *bolt.DB) error {
			return db.Update(func(tx *bolt.Tx) error {
				for at = range lot {
					if err := lot[at].change(tx.Bucket(lot[at].bucket)); err != nil {
						return err
					}
				}
				at = len(lot)
				return nil
			})
		})
		over := lot
		if err != nil && at < len(lot) {
			over = lot[at : at+1]
		}
		for _, w := range over {
			w.done, w.err = true, err
		}
		lot = slices.DeleteFunc(slices.Clone(lot), func(w *write) bool { return w.done })
	}
}
