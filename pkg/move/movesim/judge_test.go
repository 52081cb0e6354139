package movesim_test

import (
	"bytes"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/zfs"
)

const (
	blockSize = 4096
	// blocks is how many a disk has; a record is one.
	blocks = 128
)

// content is what a volume holds: records by their number.
type content map[int]string

// judge sees everything, and holds it against what must never happen.
type judge struct {
	w *world

	mu sync.Mutex
	// runs says on which machines a guest runs.
	runs map[guest.ID]map[int]bool
	// lines is what the volumes of a guest hold by all that it was told: what it wrote
	// itself, after what its owner's term began from.
	lines map[guest.ID]map[guest.Volume]content
	last  map[guest.ID]int
	// acked are all records that a guest was told are on its disks.
	acked []string
	uniq  int
	// halted are the guests that an operator has stopped, and not started again.
	halted map[guest.ID]bool
	// quiet: guests write no more.
	quiet bool
	// starts counts how often units were started, moves and recoveries the owner changes.
	starts, moves, recoveries int

	found    sync.Mutex
	problems []string
}

func newJudge(w *world) *judge {
	return &judge{w: w, runs: map[guest.ID]map[int]bool{}, lines: map[guest.ID]map[guest.Volume]content{}, last: map[guest.ID]int{}, halted: map[guest.ID]bool{}}
}

// blame notes something that must not happen.
func (j *judge) blame(format string, args ...any) {
	j.w.say("PROBLEM: "+format, args...)
	j.found.Lock()
	defer j.found.Unlock()
	j.problems = append(j.problems, fmt.Sprintf(format, args...))
}

func (j *judge) trouble() []string {
	j.found.Lock()
	defer j.found.Unlock()
	return j.problems
}

func (j *judge) line(id guest.ID, v guest.Volume) content {
	if j.lines[id] == nil {
		j.lines[id] = map[guest.Volume]content{}
	}
	if j.lines[id][v] == nil {
		j.lines[id][v] = content{}
	}
	return j.lines[id][v]
}

// started: a unit runs from now on.
func (j *judge) started(m *machine, id guest.ID) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.starts++
	g := j.w.agreed.view().Guests[id]
	if g.Owner != m.id {
		j.blame("guest %s is started on %s, and is %s's at term %d", id, m.name, j.w.machine(g.Owner).name, g.Term.N)
	}
	for n := range j.runs[id] {
		j.blame("guest %s is started on %s, and runs on n%d", id, m.name, n)
	}
	if j.runs[id] == nil {
		j.runs[id] = map[int]bool{}
	}
	j.runs[id][m.n] = true
	for _, v := range g.Volumes {
		got, exists := m.read("tank/g/" + v.Name)
		if want := j.line(id, v); !maps.Equal(got, want) && (exists || len(want) > 0) {
			j.blame("guest %s starts on %s, and %s has %s, want %s", id, m.name, v.Name, got, want)
		}
	}
}

// stopped: it does not.
func (j *judge) stopped(m *machine, id guest.ID) {
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.runs[id], m.n)
}

// agreed is told of each change of the ledger, with both of its locks held.
func (j *judge) agreed(before, after *ledger.State) {
	for id, g := range after.Guests {
		old, ok := before.Guests[id]
		if !ok || old.Owner == g.Owner {
			continue
		}
		to := j.w.machine(g.Owner)
		j.w.say("guest %s is %s's at term %d, by %s from %s", id, to.name, g.Term.N, g.Beginning.How, g.Beginning.Point)
		for n := range j.runs[id] {
			j.blame("guest %s is given to %s, and runs on n%d", id, to.name, n)
		}
		migrated := g.Beginning.How == guest.ByMigration
		if migrated {
			j.moves++
		} else {
			j.recoveries++
		}
		last := 0
		for _, v := range g.Volumes {
			got, there := to.readGUID(g.Beginning.GUIDs[v])
			want := j.line(id, v)
			switch {
			case !there:
				j.blame("guest %s is to go on from a point that %s does not have of %s", id, to.name, v.Name)
			case migrated && !maps.Equal(got, want):
				j.blame("guest %s is moved to %s, and the point of %s has %s, want %s", id, to.name, v.Name, got, want)
			case !got.within(want):
				j.blame("guest %s is recovered on %s, and the point of %s has %s, not the beginning of %s", id, to.name, v.Name, got, want)
			}
			j.lines[id][v] = got
			for n := range got {
				last = max(last, n)
			}
		}
		j.last[id] = last
	}
}

// within says that c is the beginning of another content.
func (c content) within(of content) bool {
	last := 0
	for n, text := range c {
		last = max(last, n)
		if of[n] != text {
			return false
		}
	}
	for n := range of {
		if n < last && c[n] == "" {
			return false
		}
	}
	return true
}

// String is how much it is, and its newest record.
func (c content) String() string {
	last := 0
	for n := range c {
		last = max(last, n)
	}
	return fmt.Sprintf("%d records to %q", len(c), c[last])
}

// work has the guests write, until the world ends.
func (j *judge) work() {
	for pause(j.w.life, 1500*time.Millisecond) {
		for _, g := range j.w.agreed.view().GuestList() {
			for _, m := range j.w.machines {
				j.write(m, g.ID)
			}
		}
	}
}

// write has a guest that runs on a machine write one record to each of its volumes,
// with fsync.
func (j *judge) write(m *machine, id guest.ID) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.runs[id][m.n] || j.quiet {
		return
	}
	g := j.w.agreed.view().Guests[id]
	if g.Owner != m.id {
		j.blame("guest %s writes on %s, and is %s's at term %d", id, m.name, j.w.machine(g.Owner).name, g.Term.N)
	}
	n := j.last[id] + 1
	if n >= blocks {
		return
	}
	var wrote []string
	for _, v := range g.Volumes {
		j.uniq++
		text := fmt.Sprintf("%s %d %s %d", v.Name, n, m.name, j.uniq)
		data := make([]byte, blockSize)
		copy(data, text+"\n")
		err := m.pool.Write("tank/g/"+v.Name, int64(n)*blockSize, data)
		if zfs.ClassOf(err) == zfs.ClassGone {
			continue // It is not attached yet.
		}
		if err != nil {
			j.w.say("%s: guest %s cannot write: %v", m.name, id, err)
			return
		}
		j.line(id, v)[n] = text
		wrote = append(wrote, text)
	}
	m.pool.Sync()
	j.last[id] = n
	j.acked = append(j.acked, wrote...)
}

// read is what a dataset or snapshot holds.
func (m *machine) read(name string) (content, bool) {
	data, err := m.pool.Read(name)
	if err != nil {
		return nil, false
	}
	out := content{}
	for n := 0; (n+1)*blockSize <= len(data); n++ {
		if line, _, ok := bytes.Cut(data[n*blockSize:(n+1)*blockSize], []byte("\n")); ok && len(line) > 0 {
			out[n] = string(line)
		}
	}
	return out, true
}

func (m *machine) readGUID(guid uint64) (content, bool) {
	for name, at := range m.pool.All() {
		if at == guid && strings.Contains(name, "@") {
			return m.read(name)
		}
	}
	return nil, false
}

// lost is an acknowledged record that no machine has, or empty.
func (j *judge) lost() string {
	j.mu.Lock()
	acked := j.acked
	j.mu.Unlock()
	missing := map[string]bool{}
	for _, text := range acked {
		missing[text] = true
	}
	for _, snapshots := range []bool{false, true} {
		for _, m := range j.w.machines {
			for name := range m.pool.All() {
				if strings.Contains(name, "@") != snapshots || len(missing) == 0 {
					continue
				}
				got, _ := m.read(name)
				for _, text := range got {
					delete(missing, text)
				}
			}
		}
	}
	for _, text := range acked {
		if missing[text] {
			return text
		}
	}
	return ""
}

// keeps blames what is lost. What moves while it is looked for is looked for again.
func (j *judge) keeps() {
	for range 4 {
		if j.lost() == "" {
			return
		}
		pause(j.w.life, 2*time.Second)
	}
	if text := j.lost(); text != "" && j.w.life.Err() == nil {
		j.blame("the record %q is nowhere", text)
	}
}
