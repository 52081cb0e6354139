// Package history keeps the record of every run of every job: when, what was
// sent, from which snapshot to which, why it failed, its log; and of every guest's
// moves to other nodes.
//
// It is a bbolt file of its own that may be lost without harm: nothing but what
// people read, and the times of the last tries, is derived from it. So a file
// that is damaged is moved aside and a fresh one begun; nothing else of the
// daemon stops for it. Every change is on disk before the call returns, and a
// daemon that is killed finds its runs again.
//
// pkg/daemon opens it; the parts that run jobs and answer questions about them
// write and read through small interfaces of their own. It decides nothing: what
// a job's past means for its next run is pkg/job's business.
package history

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/tandemd/tandem/pkg/guest"
)

// Options say how a store works; the zero value has the defaults.
type Options struct {
	// Keep is the number of runs that are kept of each job, 100 by default. The
	// last one that succeeded is kept in any case.
	Keep int
	// Report is told after each use of the file whether it can be used, nil: it can.
	// It does not block and calls no method of the store. May be nil.
	Report func(err error)
	// LockTimeout is how long Open waits for a process that has the file open, 5 s by default.
	LockTimeout time.Duration
}

// DamagedError says that the file was found damaged. It has been moved aside,
// and the store goes on with a fresh one.
type DamagedError struct {
	// SetAside is where the damaged file is now.
	SetAside string
	Cause    error
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("the history of runs was damaged and has been moved to %s, a fresh one was begun: %v", e.SetAside, e.Cause)
}

func (e *DamagedError) Unwrap() error { return e.Cause }

// Store is the history of the runs on this node. Its methods may be called by
// several goroutines.
type Store struct {
	path string
	opts Options

	mu     sync.Mutex
	db     *bolt.DB // nil: closed, or it could not be opened
	closed bool

	writes writes
}

const format = "1"

func runsBucket() []byte { return []byte("runs") }
func metaBucket() []byte { return []byte("meta") }
func formatKey() []byte  { return []byte("format") }

// Open opens or creates the store. If the file is damaged, setAside is where it
// was moved, and the store is empty. A run that was still running becomes
// Interrupted. Where the file cannot be had now (the disk is full, say) both the store
// and an error are returned, and every use of it tries again; only where another
// process has the file open there is no store.
func Open(path string, opts Options) (s *Store, setAside string, err error) {
	if opts.Keep <= 0 {
		opts.Keep = 100
	}
	if opts.LockTimeout <= 0 {
		opts.LockTimeout = 5 * time.Second
	}
	if opts.Report == nil {
		opts.Report = func(error) {}
	}
	s = &Store{path: path, opts: opts}
	setAside, err = s.ready()
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, "", err
	}
	opts.Report(err)
	return s, setAside, err
}

// ready opens the file unless it is open. The caller holds the lock, or is the only
// one who has the store.
func (s *Store) ready() (setAside string, err error) {
	switch {
	case s.closed:
		return "", fmt.Errorf("history %s: it is closed", s.path)
	case s.db != nil:
		return "", nil
	}
	err = s.open()
	if damage := (*damage)(nil); errors.As(err, &damage) {
		if setAside, err = s.startAnew(); err != nil {
			return "", fmt.Errorf("history %s: damaged (%w), and no fresh one could be begun: %w", s.path, damage, err)
		}
	}
	return setAside, err
}

// damage is an error that tells that the file's contents are broken.
type damage struct{ cause error }

func (e *damage) Error() string { return e.cause.Error() }
func (e *damage) Unwrap() error { return e.cause }

func (s *Store) open() error {
	err := guarded(func() (err error) {
		s.db, err = bolt.Open(s.path, 0o600, &bolt.Options{Timeout: s.opts.LockTimeout})
		return err
	})
	if err != nil {
		return s.classify(err)
	}
	if err := guarded(func() error { return s.db.Update(prepare) }); err != nil {
		if damage := (*damage)(nil); !errors.As(err, &damage) {
			_ = s.db.Close() // after damage it may hang
		}
		s.db = nil
		return fmt.Errorf("history %s: %w", s.path, err)
	}
	return nil
}

// classify tells a damaged file from one that cannot be had.
func (s *Store) classify(err error) error {
	if errors.Is(err, bolterrors.ErrTimeout) {
		return fmt.Errorf("history %s: another process has it open (waited %v); is a second tandemd running? (%w)", s.path, s.opts.LockTimeout, err)
	}
	if _, ok := errors.AsType[syscall.Errno](err); ok {
		return fmt.Errorf("history %s: %w", s.path, err)
	}
	return &damage{err}
}

// guarded turns a panic, with which bbolt meets a damaged file, and a fault in
// the mapped memory of a file that is too short, into an error.
func guarded(f func() error) (err error) {
	old := debug.SetPanicOnFault(true)
	defer debug.SetPanicOnFault(old)
	defer func() {
		if r := recover(); r != nil {
			err = &damage{fmt.Errorf("%v", r)}
		}
	}()
	return f()
}

// startAnew moves the file aside and begins a fresh one. What had the old one
// open is left alone: closing it could panic or hang.
func (s *Store) startAnew() (setAside string, err error) {
	s.db = nil
	base := s.path + ".broken-" + time.Now().UTC().Format("20060102T150405Z")
	setAside = base
	for n := 2; ; n++ {
		if _, err := os.Lstat(setAside); errors.Is(err, os.ErrNotExist) {
			break
		}
		setAside = fmt.Sprintf("%s-%d", base, n)
	}
	if err := os.Rename(s.path, setAside); err != nil {
		return "", err
	}
	return setAside, s.open()
}

// prepare makes the buckets of a new file, reads through an old one, and ends
// the runs that no longer run.
func prepare(tx *bolt.Tx) error {
	meta, err := tx.CreateBucketIfNotExists(metaBucket())
	if err != nil {
		return err
	}
	switch v := meta.Get(formatKey()); {
	case v == nil:
		if err := meta.Put(formatKey(), []byte(format)); err != nil {
			return err
		}
	case string(v) != format:
		return &damage{fmt.Errorf("it has format %q, this version knows %s", v, format)}
	}
	runs, err := tx.CreateBucketIfNotExists(runsBucket())
	if err != nil {
		return err
	}
	if err := prepareMoves(tx); err != nil {
		return err
	}
	return runs.ForEachBucket(func(name []byte) error {
		b := runs.Bucket(name)
		if err := b.ForEach(func(k, v []byte) error { // touches every page
			if len(k) != 8 || len(v) == 0 {
				return &damage{fmt.Errorf("job %q has a malformed record", name)}
			}
			return nil
		}); err != nil {
			return err
		}
		return interrupt(b)
	})
}

// interrupt marks a job's last run if it was cut.
func interrupt(b *bolt.Bucket) error {
	k, v := b.Cursor().Last()
	if k == nil {
		return nil
	}
	r, err := decode(v)
	if err != nil || r.Outcome != Running {
		return err
	}
	r.Outcome = Interrupted
	return put(b, r)
}

// Close closes the file. Calls that follow fail.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.db == nil {
		return nil
	}
	db := s.db
	s.db = nil
	return guarded(db.Close)
}

func (s *Store) update(f func(runs *bolt.Bucket) error) error { return s.updateIn(runsBucket(), f) }

func (s *Store) view(f func(runs *bolt.Bucket) error) error { return s.viewIn(runsBucket(), f) }

func (s *Store) viewIn(bucket []byte, f func(*bolt.Bucket) error) error {
	return s.do(func(db *bolt.DB) error {
		return db.View(func(tx *bolt.Tx) error { return f(tx.Bucket(bucket)) })
	})
}

func (s *Store) do(f func(*bolt.DB) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.use(f)
}

// use is do for who has the lock.
func (s *Store) use(f func(*bolt.DB) error) error {
	if _, err := s.ready(); err != nil {
		s.opts.Report(err)
		return err
	}
	err := guarded(func() error { return f(s.db) })
	broken := (*damage)(nil)
	if errors.As(err, &broken) {
		setAside, err := s.startAnew()
		if err != nil {
			err = fmt.Errorf("history %s: damaged (%w), and no fresh one could be begun: %w", s.path, broken, err)
			s.opts.Report(err)
			return err
		}
		s.opts.Report(nil)
		return &DamagedError{SetAside: setAside, Cause: broken.cause}
	}
	if err == nil {
		s.opts.Report(nil)
		return nil
	}
	err = fmt.Errorf("history %s: %w", s.path, err)
	if _, ok := errors.AsType[syscall.Errno](err); ok {
		s.opts.Report(err)
	}
	return err
}

func key(id uint64) []byte { return binary.BigEndian.AppendUint64(nil, id) }

func put(b *bolt.Bucket, r Run) error {
	v, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("run %d of job %s: %w", r.ID, r.Job, err)
	}
	return b.Put(key(r.ID), v)
}

func decode(v []byte) (Run, error) {
	var r Run
	if err := json.Unmarshal(v, &r); err != nil {
		return Run{}, &damage{fmt.Errorf("a record cannot be read: %w", err)}
	}
	return r, nil
}

func jobKey(id guest.JobID) []byte { return []byte(id.String()) }
