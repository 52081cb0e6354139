package consensus

import (
	"fmt"
	"io"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/tandemd/tandem/pkg/consensus/guard"
	"github.com/tandemd/tandem/pkg/ledger"
)

// maxSnapshot bounds what a peer can make this node read into memory.
const maxSnapshot = 256 << 20

// news tells that the ledger or the leader changed.
type news struct {
	changed chan struct{}

	mu     sync.Mutex
	signal chan struct{}
}

func newNews() *news {
	return &news{changed: make(chan struct{}, 1), signal: make(chan struct{})}
}

func (n *news) tell() {
	n.mu.Lock()
	defer n.mu.Unlock()
	close(n.signal)
	n.signal = make(chan struct{})
	select {
	case n.changed <- struct{}{}:
	default: // one is waiting already
	}
}

// next is closed at the next change.
func (n *news) next() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.signal
}

// fsm applies committed commands to the ledger. Once a command cannot be
// applied it applies nothing more: a node never skips a command.
type fsm struct {
	news *news

	mu      sync.Mutex
	machine *ledger.Machine
	failed  error
	stopped bool
}

func newFSM(n *news) *fsm {
	return &fsm{news: n, machine: ledger.NewMachine()}
}

// Apply is called by raft for each committed command, in order.
func (f *fsm) Apply(l *raft.Log) any {
	out, err := f.apply(l)
	f.news.tell()
	if err != nil {
		return err
	}
	return out
}

func (f *fsm) apply(l *raft.Log) (ledger.Outcome, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.stopped:
		return ledger.Outcome{}, guard.ErrStopped
	case f.failed != nil:
		return ledger.Outcome{}, f.failed
	}
	out, err := f.machine.Apply(l.Index, l.Data)
	f.failed = err
	return out, err
}

// stop ends the applying: what raft reads while it is being closed may be wrong.
func (f *fsm) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stopped = true
}

// Snapshot is called by raft when its log has grown.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failed != nil {
		return nil, f.failed
	}
	b, err := f.machine.Encode()
	if err != nil {
		return nil, fmt.Errorf("encode the ledger: %w", err)
	}
	return encoded(b), nil
}

// Restore is called by raft with a snapshot of its own or of the leader.
func (f *fsm) Restore(r io.ReadCloser) error {
	m, err := readMachine(r)
	if err != nil {
		return err
	}
	f.mu.Lock()
	f.machine, f.failed = m, nil
	f.mu.Unlock()
	f.news.tell()
	return nil
}

func readMachine(r io.Reader) (*ledger.Machine, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxSnapshot+1))
	if err != nil {
		return nil, fmt.Errorf("read the ledger's snapshot: %w", err)
	}
	if len(b) > maxSnapshot {
		return nil, fmt.Errorf("the ledger's snapshot is larger than %d MiB", maxSnapshot>>20)
	}
	return ledger.DecodeMachine(b)
}

func (f *fsm) view() *ledger.State {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.machine.View()
}

// applied is the Index of view, without the copy that view makes after a change.
func (f *fsm) applied() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.machine.Index()
}

// changed is the Changed of view, in the same way.
func (f *fsm) changed() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.machine.Changed()
}

func (f *fsm) history() []ledger.Change {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.machine.History()
}

func (f *fsm) err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failed
}

// encoded is a ledger in bytes, ready for raft's snapshot store.
type encoded []byte

// Persist writes the snapshot.
func (e encoded) Persist(sink raft.SnapshotSink) error {
	if _, err := sink.Write(e); err != nil {
		_ = sink.Cancel()
		return fmt.Errorf("write the ledger's snapshot: %w", err)
	}
	return sink.Close()
}

// Release has nothing to free.
func (encoded) Release() {}
