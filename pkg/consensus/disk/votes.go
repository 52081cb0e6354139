package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"sync"

	"github.com/tandemd/tandem/pkg/statefile"
)

// Votes is raft's stable store: its term, and whom it voted for. It is one small
// state file, written whole: it changes with elections only.
type Votes struct {
	path string

	mu     sync.Mutex
	values map[string][]byte // nil: the file does not exist yet
}

func openVotes(path string) (*Votes, error) {
	v := &Votes{path: path}
	var broken *statefile.BrokenError
	switch err := statefile.Read(path, &v.values); {
	case errors.Is(err, fs.ErrNotExist):
		v.values = nil
	case errors.As(err, &broken):
		return nil, &BrokenError{broken.Path, broken.Reason}
	case err != nil:
		return nil, err
	case v.values == nil:
		return nil, &BrokenError{path, "it holds nothing"}
	}
	return v, nil
}

func (v *Votes) exist() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.values != nil
}

// Set implements raft.StableStore.
func (v *Votes) Set(key, value []byte) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	next := maps.Clone(v.values)
	if next == nil {
		next = map[string][]byte{}
	}
	next[string(key)] = append([]byte{}, value...)
	if err := statefile.Write(v.path, next); err != nil {
		return err
	}
	v.values = next
	return nil
}

// Get implements raft.StableStore; the value of an unknown key is empty.
func (v *Votes) Get(key []byte) ([]byte, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return append([]byte(nil), v.values[string(key)]...), nil
}

// SetUint64 implements raft.StableStore.
func (v *Votes) SetUint64(key []byte, value uint64) error {
	return v.Set(key, binary.BigEndian.AppendUint64(nil, value))
}

// GetUint64 implements raft.StableStore; the value of an unknown key is 0.
func (v *Votes) GetUint64(key []byte) (uint64, error) {
	b, err := v.Get(key)
	switch {
	case err != nil:
		return 0, err
	case len(b) == 0:
		return 0, nil
	case len(b) != 8:
		return 0, fmt.Errorf("%s: the value of %s is no number", v.path, key)
	}
	return binary.BigEndian.Uint64(b), nil
}
