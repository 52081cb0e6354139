package consensus

import (
	"fmt"
	"io"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/tandemd/tandem/pkg/ledger"
)

// maxSnapshot bounds what a peer can make this node read into memory.
const maxSnapshot = 256 << 20

// fsm applies committed commands to the ledger. Once a command cannot be
// applied it applies nothing more: a node never skips a command.
type fsm struct {
	changed chan struct{}

	mu      sync.Mutex
	machine *ledger.Machine
	failed  error
	signal  chan struct{}
}

func newFSM() *fsm {
	return &fsm{changed: make(chan struct{}, 1), machine: ledger.NewMachine(), signal: make(chan struct{})}
}

// Apply is called by raft for each committed command, in order.
func (f *fsm) Apply(l *raft.Log) any {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failed != nil {
		return f.failed
	}
	out, err := f.machine.Apply(l.Index, l.Data)
	if err != nil {
		f.failed = err
		f.notifyLocked()
		return err
	}
	f.notifyLocked()
	return out
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
	b, err := io.ReadAll(io.LimitReader(r, maxSnapshot+1))
	if err != nil {
		return fmt.Errorf("read the ledger's snapshot: %w", err)
	}
	if len(b) > maxSnapshot {
		return fmt.Errorf("the ledger's snapshot is larger than %d MiB", maxSnapshot>>20)
	}
	m, err := ledger.DecodeMachine(b)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.machine, f.failed = m, nil
	f.notifyLocked()
	return nil
}

func (f *fsm) notify() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.notifyLocked()
}

func (f *fsm) notifyLocked() {
	close(f.signal)
	f.signal = make(chan struct{})
	select {
	case f.changed <- struct{}{}:
	default: // one is waiting already
	}
}

// next is closed at the next change.
func (f *fsm) next() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.signal
}

func (f *fsm) view() *ledger.State {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.machine.View()
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
