package disk

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/hashicorp/raft"
)

const (
	// keepSnapshots is how many snapshots stay; the older one is for the day on
	// which the newest cannot be read.
	keepSnapshots = 2
	snapshotMagic = "tandem-raft-snapshot1\n"
	maxMeta       = 1 << 20
)

// Snapshots are raft's snapshots, one file each: a line of magic, a line of what
// raft wants to know of it, the content, the SHA-256 of all that.
type Snapshots struct {
	dir string

	mu   sync.Mutex
	made int // so that two snapshots of one index have two names
}

// Broken is a snapshot that cannot be believed.
type Broken struct {
	BrokenError
	// Index is the last index that the snapshot held.
	Index uint64
}

// name is what a snapshot file is called: its term, its index and a number.
type name struct {
	term, index uint64
	n           int
}

func (n name) String() string { return fmt.Sprintf("%020d-%020d-%d", n.term, n.index, n.n) }

func parseName(s string) (n name, ok bool) {
	_, err := fmt.Sscanf(s, "%d-%d-%d", &n.term, &n.index, &n.n)
	return n, err == nil && n.String() == s
}

func openSnapshots(dir string) (*Snapshots, error) {
	s := &Snapshots{dir: dir}
	unfinished, err := filepath.Glob(filepath.Join(dir, "*.new"))
	if err != nil {
		return nil, err
	}
	for _, p := range unfinished {
		if err := removeIfThere(p); err != nil {
			return nil, err
		}
	}
	for _, n := range s.names() {
		s.made = max(s.made, n.n)
	}
	return s, nil
}

func (s *Snapshots) path(n name) string { return filepath.Join(s.dir, n.String()+".snapshot") }

// names are those of the snapshots, newest first.
func (s *Snapshots) names() []name {
	paths, _ := filepath.Glob(filepath.Join(s.dir, "*.snapshot")) // the pattern is well formed
	var names []name
	for _, p := range paths {
		base := filepath.Base(p)
		if n, ok := parseName(base[:len(base)-len(".snapshot")]); ok {
			names = append(names, n)
		}
	}
	slices.SortFunc(names, func(a, b name) int {
		return cmp.Or(cmp.Compare(b.term, a.term), cmp.Compare(b.index, a.index), cmp.Compare(b.n, a.n))
	})
	return names
}

func (s *Snapshots) any() bool { return len(s.names()) > 0 }

// List implements raft.SnapshotStore: the snapshots that can be believed, newest first.
func (s *Snapshots) List() ([]*raft.SnapshotMeta, error) {
	var out []*raft.SnapshotMeta
	for _, n := range s.names() {
		meta, content, err := s.open(n)
		var broken *BrokenError
		switch {
		case errors.As(err, &broken):
			continue
		case err != nil:
			return nil, err
		}
		out = append(out, meta)
		if err := content.Close(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Broken are the snapshots that List leaves out.
func (s *Snapshots) Broken() ([]Broken, error) {
	var out []Broken
	for _, n := range s.names() {
		_, content, err := s.open(n)
		var broken *BrokenError
		switch {
		case errors.As(err, &broken):
			out = append(out, Broken{*broken, n.index})
		case err != nil:
			return nil, err
		default:
			if err := content.Close(); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// Open implements raft.SnapshotStore.
func (s *Snapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	n, ok := parseName(id)
	if !ok {
		return nil, nil, fmt.Errorf("snapshot %q: no such name", id)
	}
	return s.open(n)
}

type content struct {
	io.Reader
	file *os.File
}

func (c *content) Close() error { return c.file.Close() }

// open checks the whole file and returns its content.
func (s *Snapshots) open(n name) (_ *raft.SnapshotMeta, _ io.ReadCloser, err error) {
	f, err := os.Open(s.path(n))
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	broken := func(reason string) error { return &BrokenError{s.path(n), reason} }
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	signed := info.Size() - sha256.Size
	if signed < int64(len(snapshotMagic)) {
		return nil, nil, broken("it is too short")
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(f, 0, signed)); err != nil {
		return nil, nil, err
	}
	want := make([]byte, sha256.Size)
	if _, err := f.ReadAt(want, signed); err != nil {
		return nil, nil, err
	}
	if !bytes.Equal(sum.Sum(nil), want) {
		return nil, nil, broken("the checksum does not match, so it was cut or changed")
	}
	r := bufio.NewReader(io.NewSectionReader(f, 0, signed))
	line := make([]byte, len(snapshotMagic))
	if _, err := io.ReadFull(r, line); err != nil || string(line) != snapshotMagic {
		return nil, nil, broken("it is not a snapshot of this version")
	}
	head, err := r.ReadBytes('\n')
	if err != nil || len(head) > maxMeta {
		return nil, nil, broken("what it says of itself is malformed")
	}
	var meta raft.SnapshotMeta
	if err := json.Unmarshal(head, &meta); err != nil {
		return nil, nil, broken("what it says of itself does not fit: " + err.Error())
	}
	if meta.Index != n.index || meta.Term != n.term {
		return nil, nil, broken("it is of another index than its name says")
	}
	meta.ID, meta.Size = n.String(), signed-int64(len(line)+len(head))
	return &meta, &content{Reader: r, file: f}, nil
}

// Create implements raft.SnapshotStore.
func (s *Snapshots) Create(version raft.SnapshotVersion, index, term uint64, servers raft.Configuration, //nolint:revive // raft's interface
	serversIndex uint64, _ raft.Transport,
) (raft.SnapshotSink, error) {
	s.mu.Lock()
	s.made++
	n := name{term, index, s.made}
	s.mu.Unlock()
	head, err := json.Marshal(raft.SnapshotMeta{
		Version: version, Index: index, Term: term, Configuration: servers, ConfigurationIndex: serversIndex,
	})
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(s.path(n)+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	k := &sink{store: s, name: n, file: f, sum: sha256.New()}
	k.out = bufio.NewWriter(io.MultiWriter(f, k.sum))
	if _, err := k.out.WriteString(snapshotMagic + string(head) + "\n"); err != nil {
		return nil, errors.Join(err, k.Cancel())
	}
	return k, nil
}

// reap removes the snapshots that are too many.
func (s *Snapshots) reap() error {
	names := s.names()
	if len(names) <= keepSnapshots {
		return nil
	}
	for _, n := range names[keepSnapshots:] {
		if err := removeIfThere(s.path(n)); err != nil {
			return err
		}
	}
	return SyncFolder(s.dir)
}

// sink takes the content of a new snapshot, which is not there before Close.
type sink struct {
	store *Snapshots
	name  name
	file  *os.File
	out   *bufio.Writer
	sum   hash.Hash
	done  bool
}

func (k *sink) ID() string { return k.name.String() }

func (k *sink) Write(b []byte) (int, error) { return k.out.Write(b) }

func (k *sink) Close() error {
	if k.done {
		return nil
	}
	if err := k.finish(); err != nil {
		return errors.Join(err, k.Cancel())
	}
	k.done = true
	if err := os.Rename(k.file.Name(), k.store.path(k.name)); err != nil {
		return errors.Join(err, removeIfThere(k.file.Name()))
	}
	if err := SyncFolder(k.store.dir); err != nil {
		return err
	}
	return k.store.reap()
}

func (k *sink) finish() error {
	if err := k.out.Flush(); err != nil {
		return err
	}
	if _, err := k.file.Write(k.sum.Sum(nil)); err != nil {
		return err
	}
	if err := k.file.Sync(); err != nil {
		return err
	}
	return k.file.Close()
}

func (k *sink) Cancel() error {
	if k.done {
		return nil
	}
	k.done = true
	err := k.file.Close()
	if errors.Is(err, os.ErrClosed) {
		err = nil
	}
	return errors.Join(err, removeIfThere(k.file.Name()))
}
