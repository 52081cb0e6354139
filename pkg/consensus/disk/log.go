package disk

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/hashicorp/raft"
)

// segmentSize is from which size on a segment is followed by another.
const segmentSize = 4 << 20

// Log is raft's log, in segment files named after their first index. Only the
// last one is written to. A segment counts up to the first index of the next one,
// so that starting a segment cuts what is behind it: that is how a tail is
// removed, and how a write that failed is left behind without being looked at
// again (a page that once failed to be synced may be lost while the system
// believes that it is clean).
type Log struct {
	dir   string
	limit int64
	mark  *mark

	// write is held by those who change the log.
	write sync.Mutex
	// spoilt says that the last segment holds something behind its last record.
	spoilt bool

	// mu guards what readers see.
	mu       sync.RWMutex
	segments []*segment
	head     uint64 // entries before it were removed, even where a segment still has them
	first    uint64 // 0: the log is empty
	last     uint64
	closed   bool
}

type segment struct {
	path    string
	first   uint64
	file    *os.File
	offsets []int64 // where each record begins
	end     int64   // where the last one ends
}

func (s *segment) next() uint64 { return s.first + uint64(len(s.offsets)) }

func segmentName(first uint64) string { return fmt.Sprintf("%020d.log", first) }

func openLog(dir string, limit int64) (_ *Log, err error) {
	l := &Log{dir: dir, limit: limit}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
		}
	}()
	if l.mark, err = openMark(filepath.Join(dir, "acknowledged")); err != nil {
		return nil, err
	}
	paths, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil {
		return nil, err
	}
	var firsts []uint64
	for _, p := range paths {
		var first uint64
		if _, err := fmt.Sscanf(filepath.Base(p), "%d.log", &first); err != nil || first == 0 || filepath.Base(p) != segmentName(first) {
			return nil, &BrokenError{p, "its name is not that of a part of the log"}
		}
		firsts = append(firsts, first)
	}
	slices.Sort(firsts)
	for i, first := range firsts {
		next := uint64(math.MaxUint64)
		if i+1 < len(firsts) {
			next = firsts[i+1]
		}
		if err := l.openSegment(first, next); err != nil {
			return nil, err
		}
	}
	l.publish()
	if acked := l.mark.index; l.last < acked {
		path := filepath.Join(dir, segmentName(max(l.first, 1)))
		if n := len(l.segments); n > 0 {
			path = l.segments[n-1].path
		}
		return nil, &BrokenError{path, fmt.Sprintf("the log ends with entry %d, but entry %d was acknowledged", l.last, acked)}
	}
	return l, nil
}

// openSegment reads one segment, which another one follows at next.
func (l *Log) openSegment(first, next uint64) error {
	path := filepath.Join(l.dir, segmentName(first))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	seg := &segment{path: path, first: first, file: f}
	l.segments = append(l.segments, seg)
	found, err := scanSegment(f, first, next)
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	seg.offsets, seg.end = found.offsets, found.end
	if next != math.MaxUint64 {
		if seg.next() != next {
			return &BrokenError{path, fmt.Sprintf("at byte %d: %s; entries %d to %d are lost",
				found.end, reasonOr(found.reason, "it ends"), seg.next(), next-1)}
		}
		return nil
	}
	if found.reason == "" {
		return nil
	}
	// What is unreadable at the end is the rest of a write that was cut, unless
	// something proves that it was acknowledged.
	l.spoilt = true
	damaged := !found.headed && found.size > headerSize
	if found.headed {
		if damaged, err = found.syncedBeyond(f); err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
	}
	if damaged {
		return &BrokenError{path, fmt.Sprintf("at byte %d: %s", found.end, found.reason)}
	}
	return nil
}

func reasonOr(reason, other string) string {
	if reason != "" {
		return reason
	}
	return other
}

// publish sets what readers see from the segments; the caller holds mu or is alone.
func (l *Log) publish() {
	l.first, l.last = 0, 0
	for _, s := range l.segments {
		if len(s.offsets) == 0 {
			continue
		}
		if l.first == 0 {
			l.first = max(s.first, l.head)
		}
		l.last = s.next() - 1
	}
}

// Close closes the files.
func (l *Log) Close() error {
	l.write.Lock()
	defer l.write.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	var errs []error
	if l.mark != nil {
		errs = append(errs, l.mark.close())
	}
	for _, s := range l.segments {
		errs = append(errs, s.file.Close())
	}
	return errors.Join(errs...)
}

// IsMonotonic implements raft.MonotonicLogStore: the log has no holes.
func (l *Log) IsMonotonic() bool { return true }

// FirstIndex implements raft.LogStore.
func (l *Log) FirstIndex() (uint64, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.first, l.open()
}

// LastIndex implements raft.LogStore.
func (l *Log) LastIndex() (uint64, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.last, l.open()
}

func (l *Log) open() error {
	if l.closed {
		return ErrClosed
	}
	return nil
}

// GetLog implements raft.LogStore.
func (l *Log) GetLog(index uint64, out *raft.Log) error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.closed {
		return ErrClosed
	}
	if index < l.first || index > l.last || l.last == 0 {
		return raft.ErrLogNotFound
	}
	i, found := slices.BinarySearchFunc(l.segments, index, func(s *segment, index uint64) int {
		switch {
		case index < s.first:
			return 1
		case index >= s.next():
			return -1
		default:
			return 0
		}
	})
	if !found {
		return raft.ErrLogNotFound
	}
	s := l.segments[i]
	n := index - s.first
	end := s.end
	if n+1 < uint64(len(s.offsets)) {
		end = s.offsets[n+1]
	}
	if err := readRecord(s.file, s.offsets[n], end, out); err != nil {
		return &BrokenError{s.path, fmt.Sprintf("entry %d: %v", index, err)}
	}
	return nil
}

// StoreLog implements raft.LogStore.
func (l *Log) StoreLog(entry *raft.Log) error { return l.StoreLogs([]*raft.Log{entry}) }

// StoreLogs implements raft.LogStore.
func (l *Log) StoreLogs(entries []*raft.Log) error {
	l.write.Lock()
	defer l.write.Unlock()
	if l.closed {
		return ErrClosed
	}
	if len(entries) == 0 {
		return nil
	}
	for i, e := range entries {
		if want := l.last + 1 + uint64(i); l.last > 0 && e.Index != want || e.Index != entries[0].Index+uint64(i) {
			return fmt.Errorf("entry %d cannot follow entry %d", e.Index, l.last)
		}
	}
	s, err := l.active(entries[0].Index)
	if err != nil {
		return err
	}
	var b []byte
	offsets := s.offsets
	for _, e := range entries {
		offsets = append(offsets, s.end+int64(len(b)))
		b = appendRecord(b, e, s.end)
	}
	if len(b) > maxRecord {
		return fmt.Errorf("%d entries of %d bytes are more than the log takes at once", len(entries), len(b))
	}
	if err := writeSynced(s.file, b, s.end); err != nil {
		l.spoilt = true
		return err
	}
	l.mu.Lock()
	s.offsets, s.end = offsets, s.end+int64(len(b))
	l.publish()
	l.mu.Unlock()
	l.mark.raise(l.last)
	return nil
}

func writeSynced(f *os.File, b []byte, at int64) error {
	if _, err := f.WriteAt(b, at); err != nil {
		return err
	}
	return f.Sync()
}

// active is the segment that takes the entry with this index.
func (l *Log) active(index uint64) (*segment, error) {
	if n := len(l.segments); n > 0 && !l.spoilt && l.segments[n-1].end < l.limit && l.segments[n-1].next() == index {
		return l.segments[n-1], nil
	}
	if l.last == 0 { // segments without entries say nothing about where the log begins
		if err := l.remove(len(l.segments)); err != nil {
			return nil, err
		}
	}
	return l.begin(index)
}

// begin starts a segment, with which all entries from its first index on are gone.
// The segments that begin later must be removed already.
func (l *Log) begin(first uint64) (*segment, error) {
	if n := len(l.segments); n > 0 && l.segments[n-1].first == first {
		if err := l.removeLast(); err != nil {
			return nil, err
		}
	}
	path := filepath.Join(l.dir, segmentName(first))
	if err := removeIfThere(path); err != nil { // of a try that failed
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(writeSynced(f, header(first), 0), SyncFolder(l.dir)); err != nil {
		return nil, errors.Join(err, f.Close(), removeIfThere(path))
	}
	s := &segment{path: path, first: first, file: f, end: headerSize}
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.segments); n > 0 {
		last := l.segments[n-1]
		if keep := first - last.first; keep < uint64(len(last.offsets)) {
			last.end, last.offsets = last.offsets[keep], last.offsets[:keep:keep]
		}
	}
	l.segments = append(l.segments, s)
	l.spoilt = false
	l.publish()
	return s, nil
}

// DeleteRange implements raft.LogStore: it removes the beginning of the log, its
// end, or all of it.
func (l *Log) DeleteRange(from, to uint64) error {
	l.write.Lock()
	defer l.write.Unlock()
	switch {
	case l.closed:
		return ErrClosed
	case l.last == 0 || to < l.first || from > l.last || from > to:
		return nil
	case from <= l.first && to >= l.last:
		return l.clear()
	case from <= l.first:
		return l.cutHead(to)
	case to >= l.last:
		return l.cutTail(from)
	default:
		return fmt.Errorf("entries %d to %d are in the middle of the log, which has %d to %d", from, to, l.first, l.last)
	}
}

func (l *Log) clear() error {
	if err := l.mark.lower(0); err != nil {
		return err
	}
	if err := l.remove(len(l.segments)); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.head, l.spoilt = 0, false
	return nil
}

// cutHead removes the entries up to index, some of which stay on disk as long as
// their segment has others.
func (l *Log) cutHead(index uint64) error {
	n := 0
	for n+1 < len(l.segments) && l.segments[n+1].first <= index+1 {
		n++
	}
	if err := l.remove(n); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.head = index + 1
	l.publish()
	return nil
}

// cutTail removes the entries from index on. A crash in the middle leaves a log
// that ends somewhere between.
func (l *Log) cutTail(index uint64) error {
	if err := l.mark.lower(index - 1); err != nil {
		return err
	}
	for l.segments[len(l.segments)-1].first > index {
		if err := l.removeLast(); err != nil {
			return err
		}
	}
	if err := SyncFolder(l.dir); err != nil {
		return err
	}
	_, err := l.begin(index)
	return err
}

// remove deletes the first n segments, oldest first, so that a crash leaves no hole.
func (l *Log) remove(n int) error {
	for range n {
		s := l.segments[0]
		if err := removeIfThere(s.path); err != nil {
			return err
		}
		l.drop(0)
	}
	if n == 0 {
		return nil
	}
	return SyncFolder(l.dir)
}

func (l *Log) removeLast() error {
	n := len(l.segments) - 1
	if err := removeIfThere(l.segments[n].path); err != nil {
		return err
	}
	l.drop(n)
	return nil
}

func (l *Log) drop(i int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.segments[i].file.Close() // it is gone; nothing was left to sync
	l.segments = slices.Delete(l.segments, i, i+1)
	l.publish()
}
