package replicate_test

import (
	"encoding/json"
	"io/fs"
	"maps"
	"sync"
)

// files is the folder of one node. What is renamed into its place and not fsynced yet is lost when the power goes.
type files struct {
	mu        sync.Mutex
	m, stable map[string][]byte
}

func newFiles() *files { return &files{m: map[string][]byte{}, stable: map[string][]byte{}} }

// powerCut leaves what was fsynced.
func (f *files) powerCut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.m = maps.Clone(f.stable)
}

// store is what a daemon sees of its folder.
type store struct{ n *node }

func (s store) Read(name string, v any) error {
	s.n.files.mu.Lock()
	defer s.n.files.mu.Unlock()
	b, ok := s.n.files.m[name]
	if !ok {
		return fs.ErrNotExist
	}
	return json.Unmarshal(b, v)
}

// Write does as pkg/statefile: written aside, renamed, the folder fsynced.
func (s store) Write(name string, v any) error {
	if err := s.n.touch("write " + name); err != nil {
		return err
	}
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	s.n.files.mu.Lock()
	s.n.files.m[name] = b
	s.n.files.mu.Unlock()
	if err := s.n.touch("rename " + name); err != nil {
		return err
	}
	s.n.files.mu.Lock()
	s.n.files.stable[name] = b
	s.n.files.mu.Unlock()
	return s.n.touch("written " + name)
}
