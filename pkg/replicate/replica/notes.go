package replica

import (
	"context"
	"errors"
	"io/fs"
	"maps"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/replicate/fault"
)

// notes is the file of one guest: what its datasets cannot say.
type notes struct {
	// Current says until when the newest complete point is current although nothing was sent.
	Current *current `json:"current,omitempty"`
	// Begun are first full receives that this node began: until they end their
	// datasets carry no marks.
	Begun map[guest.Volume]begun `json:"begun,omitempty"`
	// Modified are replicas that refused an increment because data in them was changed.
	Modified map[guest.Volume]modified `json:"modified,omitempty"`
}

type current struct {
	Point string `json:"point"`
	// GUID is that of one of the point's snapshots: names alone decide nothing.
	GUID uint64 `json:"guid"`
	// At is in seconds since 1970 by this node's clock, Age in seconds.
	At  int64 `json:"at"`
	Age int64 `json:"age"`
}

type begun struct {
	Dataset string `json:"dataset"`
	// To is the GUID of the snapshot that was being received.
	To uint64 `json:"to"`
}

// begun says whether this node remembers to have begun the interrupted receive.
func (t *Target) begun(ctx context.Context, id guest.ID, l found) bool {
	b, ok := t.note(id).Begun[l.volume]
	if !ok || b.Dataset != l.name {
		return false
	}
	// Here, away from the sender, the token's content matters and not whether it can be sent.
	info, _ := t.o.ZFS.TokenInfo(ctx, l.name, l.data.ResumeToken)
	return info.ToGUID == b.To
}

func notesFile(id guest.ID) string { return "arrivals-" + id.String() }

// note is what is noted of the guest, not to be changed. Nobody waits here for a disk that takes a note.
func (t *Target) note(id guest.ID) notes {
	if n := t.noted(id); n != nil {
		return *n
	}
	defer t.noting(id)()
	return t.loadNote(id)
}

// noted is what was read or written before, or nil.
func (t *Target) noted(id guest.ID) *notes {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.notes[id]
}

// noting has one at a time at the guest's file: it is the file of nobody else.
func (t *Target) noting(id guest.ID) (done func()) {
	turn := t.locks.Turn(notesFile(id))
	turn <- struct{}{}
	return func() { <-turn }
}

// loadNote is note for who has the turn. A broken file says nothing; it is replaced by the next note.
func (t *Target) loadNote(id guest.ID) notes {
	if n := t.noted(id); n != nil {
		return *n
	}
	n := notes{}
	if err := t.o.Store.Read(notesFile(id), &n); err != nil {
		n = notes{}
		if !errors.Is(err, fs.ErrNotExist) {
			return n // Not kept: the file may be readable again.
		}
	}
	t.keepNote(id, n)
	return n
}

func (t *Target) keepNote(id guest.ID, n notes) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.notes[id] = &n
}

// annotate changes what is noted of the guest, on disk before it returns and before anybody is told. Only who notes
// something of the same guest waits for the disk.
func (t *Target) annotate(id guest.ID, change func(*notes)) error {
	defer t.noting(id)()
	n := t.loadNote(id)
	n.Begun, n.Modified = copied(n.Begun), copied(n.Modified)
	change(&n)
	if err := t.o.Store.Write(notesFile(id), n); err != nil {
		return fault.Wrap(err, "note the state of guest %s", id)
	}
	t.keepNote(id, n)
	return nil
}

// copied is a map of the same that can be changed.
func copied[V any](m map[guest.Volume]V) map[guest.Volume]V {
	out := make(map[guest.Volume]V, len(m))
	maps.Copy(out, m)
	return out
}
