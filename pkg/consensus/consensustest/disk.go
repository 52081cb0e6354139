// Package consensustest keeps raft's log, votes and snapshots in memory, for tests
// that crash, fill, hang and restore a node's state disk under testing/synctest.
//
// A Disk implements pkg/consensus's Rooms as the files do, and differs from them in
// what it can be told to do. It is not a fake of raft: what runs on it is the real
// one. Tests of pkg/consensus and of whole clusters use it.
package consensustest

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/tandemd/tandem/pkg/consensus"
)

// ErrCrashed is what stores answer that were open when their disk crashed.
var ErrCrashed = errors.New("the machine has crashed")

// Disk is what one node keeps of its ledger. All methods may be called at any time.
type Disk struct {
	mu    sync.Mutex
	rooms map[string]*room // by folder name
	life  *life
	delay time.Duration

	failure    func() error // what a write answers; nil: it works
	crashAfter int          // writes that still work; 0: no crash is planned
	crashKeep  func(int) int
	hung       chan struct{} // closed when writes go on; nil: they do not hang
}

// life is the time from one crash to the next.
type life struct {
	dead  chan struct{}
	under []*write
	open  map[string]bool
}

// write is one that is under way: n things are to become durable.
type write struct {
	n    int
	keep func(n int)
}

// room is what is durable of one folder.
type room struct {
	logs        map[uint64]raft.Log
	first, last uint64
	stable      map[string][]byte
	snapshots   []snapshot // oldest first
	made        int
}

type snapshot struct {
	meta    raft.SnapshotMeta
	content []byte
}

func newRoom() *room {
	return &room{logs: map[uint64]raft.Log{}, stable: map[string][]byte{}}
}

func (r *room) clone() *room {
	c := *r
	c.logs, c.stable, c.snapshots = maps.Clone(r.logs), maps.Clone(r.stable), slices.Clone(r.snapshots)
	return &c
}

func newLife() *life {
	return &life{dead: make(chan struct{}), open: map[string]bool{}}
}

// NewDisk is an empty disk.
func NewDisk() *Disk {
	return &Disk{rooms: map[string]*room{}, life: newLife()}
}

// Delay makes each write take that long; a crash meanwhile is one in its middle.
func (d *Disk) Delay(each time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.delay = each
}

// Crash is a power cut. Of a write of n entries that is under way the first keep(n)
// stay; nil: none. Stores that are open take no write from now on (ErrCrashed); they
// can still be read, as they were, so that what is left of a node in memory can end.
func (d *Disk) Crash(keep func(n int) int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.crash(keep)
}

func (d *Disk) crash(keep func(int) int) {
	for _, w := range d.life.under {
		if keep != nil {
			w.keep(keep(w.n))
		}
	}
	close(d.life.dead)
	d.life = newLife()
	d.rooms = cloneRooms(d.rooms)
	d.crashAfter, d.crashKeep = 0, nil
	if d.hung != nil {
		close(d.hung)
		d.hung = nil
	}
}

// CrashAt crashes in the middle of the n-th write from now on, counted from 1.
func (d *Disk) CrashAt(n int, keep func(n int) int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.crashAfter, d.crashKeep = n, keep
}

// Fail makes every write fail, until Fail(nil).
func (d *Disk) Fail(err error) { d.FailWith(func() error { return err }) }

// FailAfter makes every write fail after n that work.
func (d *Disk) FailAfter(n int, err error) {
	d.FailWith(func() error {
		if n--; n >= 0 {
			return nil
		}
		return err
	})
}

// FailWith asks for each write, one after the other, how it fails; nil: it works.
func (d *Disk) FailWith(failure func() error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failure = failure
}

// Hang makes every write hang until resume is called, or the disk crashes.
func (d *Disk) Hang() (resume func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.hung == nil {
		d.hung = make(chan struct{})
	}
	hung := d.hung
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.hung == hung {
			close(hung)
			d.hung = nil
		}
	}
}

// Image is a copy of all that was durable on a disk.
type Image struct{ rooms map[string]*room }

// Image copies the disk.
func (d *Disk) Image() *Image {
	d.mu.Lock()
	defer d.mu.Unlock()
	return &Image{rooms: cloneRooms(d.rooms)}
}

// Restore makes the disk what it was. Open stores die as in a crash.
func (d *Disk) Restore(i *Image) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.crash(nil)
	d.rooms = cloneRooms(i.rooms)
}

// Wipe makes the disk empty. Open stores die as in a crash.
func (d *Disk) Wipe() { d.Restore(&Image{}) }

func cloneRooms(rooms map[string]*room) map[string]*room {
	out := map[string]*room{}
	for name, r := range rooms {
		out[name] = r.clone()
	}
	return out
}

// Folders are the names of the folders: generations, and those that were set aside.
func (d *Disk) Folders() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Sorted(maps.Keys(d.rooms))
}

// Last is the term and the index of the last entry that is durable in a generation.
func (d *Disk) Last(generation string) (term, index uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r, ok := d.rooms[generation]
	if !ok {
		return 0, 0
	}
	if n := len(r.snapshots); n > 0 {
		term, index = r.snapshots[n-1].meta.Term, r.snapshots[n-1].meta.Index
	}
	if r.last > index {
		term, index = r.logs[r.last].Term, r.last
	}
	return term, index
}

// Snapshot is the index at which the newest snapshot of a generation ends; 0: none.
func (d *Disk) Snapshot(generation string) uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	r, ok := d.rooms[generation]
	if !ok || len(r.snapshots) == 0 {
		return 0
	}
	return r.snapshots[len(r.snapshots)-1].meta.Index
}

// Commands is the data of each command in the log of a generation that is durable,
// by its index.
func (d *Disk) Commands(generation string) map[uint64][]byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := map[uint64][]byte{}
	if r, ok := d.rooms[generation]; ok {
		for index, l := range r.logs {
			if l.Type == raft.LogCommand {
				out[index] = l.Data
			}
		}
	}
	return out
}

// Rooms are the disk as pkg/consensus wants it, with transports that wire makes.
func (d *Disk) Rooms(wire func(generation string) (raft.Transport, error)) consensus.Rooms {
	return &rooms{disk: d, wire: wire}
}

type rooms struct {
	disk *Disk
	wire func(string) (raft.Transport, error)
}

const draftSuffix = ".draft"

// Open implements consensus.Rooms.
func (r *rooms) Open(generation string) (consensus.Stores, error) {
	r.disk.mu.Lock()
	r.disk.removeDrafts()
	r.disk.mu.Unlock()
	return r.disk.open(generation)
}

// Transport implements consensus.Rooms.
func (r *rooms) Transport(generation string) (raft.Transport, error) { return r.wire(generation) }

// SetAside implements consensus.Rooms.
func (r *rooms) SetAside(generation string) error {
	d := r.disk
	return d.now(func() error {
		if _, there := d.rooms[generation]; !there {
			return nil
		}
		for n := 1; ; n++ {
			aside := fmt.Sprintf("%s.aside-%d", generation, n)
			if _, taken := d.rooms[aside]; !taken {
				return d.rename(generation, aside)
			}
		}
	})
}

// Draft implements consensus.Rooms.
func (r *rooms) Draft(generation string) (consensus.Stores, error) {
	d := r.disk
	err := d.now(func() error {
		d.removeDrafts()
		return nil
	})
	if err != nil {
		return consensus.Stores{}, err
	}
	return d.open(generation + draftSuffix)
}

// Settle implements consensus.Rooms.
func (r *rooms) Settle(generation string) error {
	d := r.disk
	return d.now(func() error {
		if _, taken := d.rooms[generation]; taken {
			return fmt.Errorf("the folder %s exists already", generation)
		}
		return d.rename(generation+draftSuffix, generation)
	})
}

// removeDrafts is called with mu held.
func (d *Disk) removeDrafts() {
	maps.DeleteFunc(d.rooms, func(name string, _ *room) bool { return strings.HasSuffix(name, draftSuffix) })
}

// rename is called with mu held.
func (d *Disk) rename(from, to string) error {
	r, ok := d.rooms[from]
	if !ok {
		return fmt.Errorf("the folder %s does not exist", from)
	}
	d.rooms[to] = r
	delete(d.rooms, from)
	return nil
}

// now is a write of one thing that cannot be cut in its middle.
func (d *Disk) now(change func() error) error {
	d.mu.Lock()
	l := d.life
	d.mu.Unlock()
	var err error
	return errors.Join(d.write(l, 0, func(int) { err = change() }), err)
}

func (d *Disk) open(name string) (consensus.Stores, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.life.open[name] {
		return consensus.Stores{}, fmt.Errorf("the folder %s is open already", name)
	}
	if d.rooms[name] == nil {
		d.rooms[name] = newRoom()
	}
	d.life.open[name] = true
	h := &handle{disk: d, life: d.life, room: d.rooms[name]}
	return consensus.Stores{Log: h, Stable: h, Snapshots: h, Where: name, Close: func() error {
		d.mu.Lock()
		h.closed = true
		d.mu.Unlock()
		h.writing.Wait() // as files do
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(h.life.open, name)
		return nil
	}}, nil
}

// write makes n things durable: keep is called with mu held and with how many of
// them. Of none it is called as well.
func (d *Disk) write(l *life, n int, keep func(n int)) error {
	w := &write{n: n, keep: keep}
	d.mu.Lock()
	if isDead(l) {
		d.mu.Unlock()
		return ErrCrashed
	}
	if n > 0 {
		l.under = append(l.under, w)
	}
	hung, delay := d.hung, d.delay
	d.mu.Unlock()
	if hung != nil {
		<-hung
	}
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-l.dead:
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if isDead(l) {
		return ErrCrashed
	}
	if d.crashAfter > 0 {
		if d.crashAfter--; d.crashAfter == 0 {
			d.crash(d.crashKeep)
			return ErrCrashed
		}
	}
	l.under = slices.DeleteFunc(l.under, func(o *write) bool { return o == w })
	if d.failure != nil {
		if err := d.failure(); err != nil {
			return err
		}
	}
	keep(n)
	return nil
}

func isDead(l *life) bool {
	select {
	case <-l.dead:
		return true
	default:
		return false
	}
}
