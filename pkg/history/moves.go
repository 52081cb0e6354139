package history

import (
	"encoding/json"
	"fmt"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/tandemd/tandem/pkg/guest"
)

// MoveKind is how a guest changes its node.
type MoveKind string

// The kinds of moves.
const (
	Migration MoveKind = "migration"
	Recovery  MoveKind = "recovery"
)

// Move is the record of a guest's way to another node, whether it got there or not.
type Move struct {
	// ID is random.
	ID    string   `json:"id"`
	Guest guest.ID `json:"guest"`
	Kind  MoveKind `json:"kind"`
	// From and To are the nodes' names at that time.
	From guest.NodeName `json:"from"`
	To   guest.NodeName `json:"to"`
	By   string         `json:"by,omitempty"`
	// Begun and Finished are by the clock of the node that did it.
	Begun    time.Time `json:"begun"`
	Finished time.Time `json:"finished"`
	// Outcome is pkg/move/migrate's; a recovery that is recorded has moved the guest.
	Outcome string `json:"outcome"`
	// Reason is why it did not get there.
	Reason string `json:"reason,omitempty"`
	// Point is the one from which the guest goes on.
	Point string `json:"point,omitempty"`
	// Downtime is from the beginning of the stop to the start there; nil: not measured.
	Downtime *time.Duration `json:"downtime,omitempty"`
	Started  bool           `json:"started,omitempty"`
	// Bytes were sent to the target.
	Bytes    uint64   `json:"bytes,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
}

func movesBucket() []byte { return []byte("moves") }

// AddMove adds a move that has ended, unless it is there already. It drops the oldest
// ones of the guest beyond Options.Keep.
func (s *Store) AddMove(m Move) error {
	if m.ID == "" || m.Outcome == "" || m.Finished.IsZero() {
		return fmt.Errorf("move of guest %s: it has not ended", m.Guest)
	}
	return s.updateIn(movesBucket(), func(moves *bolt.Bucket) error {
		b, err := moves.CreateBucketIfNotExists([]byte(m.Guest.String()))
		if err != nil {
			return err
		}
		n, there := 0, false
		if err := backwards(b, func(old Move) bool {
			n++
			there = there || old.ID == m.ID
			return !there
		}); err != nil || there {
			return err
		}
		id, err := b.NextSequence()
		if err != nil {
			return err
		}
		v, err := json.Marshal(m)
		if err != nil {
			return fmt.Errorf("move %s of guest %s: %w", m.ID, m.Guest, err)
		}
		if err := b.Put(key(id), v); err != nil {
			return err
		}
		for ; n >= s.opts.Keep; n-- {
			oldest, _ := b.Cursor().First()
			if err := b.Delete(oldest); err != nil {
				return err
			}
		}
		return nil
	})
}

// Moves are the last n moves of a guest in which this node took the guest's part, newest
// first; all where n is not positive.
func (s *Store) Moves(id guest.ID, n int) (out []Move, err error) {
	err = s.viewIn(movesBucket(), func(moves *bolt.Bucket) error {
		b := moves.Bucket([]byte(id.String()))
		if b == nil {
			return nil
		}
		return backwards(b, func(m Move) bool {
			out = append(out, m)
			return n <= 0 || len(out) < n
		})
	})
	return out, err
}

// ForgetMoves drops all moves of a guest.
func (s *Store) ForgetMoves(id guest.ID) error {
	return s.updateIn(movesBucket(), func(moves *bolt.Bucket) error {
		if name := []byte(id.String()); moves.Bucket(name) != nil {
			return moves.DeleteBucket(name)
		}
		return nil
	})
}

// backwards goes through a guest's moves from the newest on, as long as more says so.
func backwards(b *bolt.Bucket, more func(Move) bool) error {
	c := b.Cursor()
	for k, v := c.Last(); k != nil; k, v = c.Prev() {
		var m Move
		if err := json.Unmarshal(v, &m); err != nil {
			return &damage{fmt.Errorf("a record of a move cannot be read: %w", err)}
		}
		if !more(m) {
			return nil
		}
	}
	return nil
}

// prepareMoves makes the bucket of an older file, and reads through it.
func prepareMoves(tx *bolt.Tx) error {
	moves, err := tx.CreateBucketIfNotExists(movesBucket())
	if err != nil {
		return err
	}
	return moves.ForEachBucket(func(name []byte) error {
		if _, err := guest.ParseID(string(name)); err != nil {
			return &damage{fmt.Errorf("moves of %q: %w", name, err)}
		}
		return backwards(moves.Bucket(name), func(Move) bool { return true })
	})
}
