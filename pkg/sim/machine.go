package sim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/tandemd/tandem/pkg/consensus/consensustest"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
)

// machine is one node's hardware: what outlives its daemon.
type machine struct {
	c    *cluster
	n    int
	id   guest.NodeID
	disk *consensustest.Disk

	mu     sync.Mutex
	rng    *rand.Rand
	files  map[string]any // []byte, or *ledger.State, which never changes
	fails  error          // of writes of small files
	clock  time.Duration
	boot   int // counts the times it was turned on
	daemon *process
	guests map[guest.ID]guest.Term // that run on it
	images []*image
	// off, fenced: somebody keeps it off until it is not fenced any more.
	off    bool
	fenced int
	// left: it is no part of the cluster any more, for good.
	left bool
}

// image is a machine's disk as it was at some time.
type image struct {
	at    time.Time
	raft  *consensustest.Image
	files map[string]any
}

func nodeID(n int) guest.NodeID { return guest.NodeID(fmt.Sprintf("%032x", n)) }

// member is how the machine's node is listed.
func (m *machine) member() ledger.Member {
	return ledger.Member{
		ID: m.id, Name: guest.NodeName(short(m.id)), Fingerprint: fingerprintOf(m.id), Format: ledger.Format,
		Peer: fmt.Sprintf("127.0.0.%d:7947", m.n), Gossip: fmt.Sprintf("127.0.0.%d:7946", m.n), Storages: []string{"local-zfs"},
	}
}

// fingerprintOf is that of a node's key.
func fingerprintOf(id guest.NodeID) string { return string(id) + string(id) }

// The small files of a node.
const (
	fileLedger = "cluster"
	fileBoots  = "boots"
	fileDoubts = "doubts"
)

// Read reads a small file; it is member.Store's.
func (m *machine) Read(name string, v any) error {
	m.mu.Lock()
	kept := m.files[name]
	m.mu.Unlock()
	switch k := kept.(type) {
	case *ledger.State:
		if to, ok := v.(*ledger.State); ok {
			*to = *k
			return nil
		}
		return fmt.Errorf("%s is a ledger, not a %T", name, v)
	case []byte:
		return json.Unmarshal(k, v)
	default:
		return fs.ErrNotExist
	}
}

// Write keeps a small file, durably.
func (m *machine) Write(name string, v any) error {
	kept := v
	if _, ok := v.(*ledger.State); !ok {
		b, err := json.Marshal(v)
		if err != nil {
			return err
		}
		kept = b
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fails != nil {
		return m.fails
	}
	m.files[name] = kept
	return nil
}

// wall is the machine's wall clock.
func (m *machine) wall() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return time.Now().Add(m.clock)
}

func (m *machine) running() *process {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.daemon
}

// picture is an image of the disk, as a backup takes it.
func (m *machine) picture() *image {
	i := &image{at: time.Now(), raft: m.disk.Image()}
	m.mu.Lock()
	defer m.mu.Unlock()
	i.files = maps.Clone(m.files)
	return i
}

// keeps remembers an image for later. One from before the machine was in a cluster
// would take it out again, and not its raft's folder.
func (m *machine) keeps(i *image) {
	if i.files[fileLedger] == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.images = append(m.images, i)
	if len(m.images) > keptImages {
		m.images = slices.Delete(m.images, 0, 1)
	}
}

const keptImages = 4

// imageOf is the newest image that is at least that old; nil: there is none.
func (m *machine) imageOf(age time.Duration) *image {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, i := range slices.Backward(m.images) {
		if time.Since(i.at) >= age && len(i.files) > 0 {
			return i
		}
	}
	return nil
}

// restore puts an image back, while the machine is off.
func (m *machine) restore(i *image) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if i != nil && m.daemon == nil {
		m.disk.Restore(i.raft)
		m.files = maps.Clone(i.files)
	}
}

// turnOn starts the machine's daemon, unless the machine is fenced or has left.
func (m *machine) turnOn() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.off = m.fenced > 0; m.off || m.left || m.daemon != nil || m.c.over() {
		return
	}
	m.daemon = newProcess(m)
}

// powerCut ends everything on the machine; of a write under way a part may stay.
func (m *machine) powerCut() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.daemon
	if p == nil {
		return false
	}
	m.daemon = nil
	m.off = true
	m.boot++
	p.dies()
	m.disk.Crash(func(n int) int { return m.rng.IntN(n + 1) })
	m.guests = map[guest.ID]guest.Term{}
	m.c.judge.off(m.id)
	return true
}

// kill ends the daemon p; what it wrote is written, and guests go on.
func (m *machine) kill(p *process) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p == nil || m.daemon != p {
		return false
	}
	m.daemon = nil
	p.dies()
	m.disk.Crash(func(n int) int { return n })
	return true
}

// fence keeps the machine off until the function that it returns is called; nil
// if it is not off.
func (m *machine) fence() (unfence func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.daemon != nil || !m.off || m.left {
		return nil
	}
	m.fenced++
	return func() {
		m.mu.Lock()
		m.fenced--
		m.mu.Unlock()
		if !m.c.suffering() { // Otherwise the fault that cut the power turns it on.
			m.turnOn()
		}
	}
}

// errDaemonEnded ends what a daemon was doing when it was killed.
var errDaemonEnded = errors.New("the daemon ended")
