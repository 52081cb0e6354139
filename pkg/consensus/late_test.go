package consensus_test

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/tandemd/tandem/pkg/consensus"
	"github.com/tandemd/tandem/pkg/ledger"
)

// pretender is a wire on which a test says to the second of two nodes what a leader
// might, while the first one, whose name it bears, is cut off.
type pretender struct {
	*rig
	wire *raft.InmemTransport
	term uint64
	// last is where the log of the second node ends.
	last uint64
}

// pretend makes a cluster of two whose second node has made a snapshot at the end
// of its log, and keeps so many entries before it.
func pretend(t *testing.T, trailing uint64) *pretender {
	t.Helper()
	r := newRig(t)
	r.options = func(n int, o *consensus.Options) {
		if n == 2 {
			o.Timing = consensus.Timing{Snapshot: 1, Trailing: trailing, Look: time.Second}
		}
	}
	r.found(2)
	for n := 100; n < 106; n++ {
		r.must(r.node(1), addGuest(n))
	}
	r.confirm(r.node(2))
	time.Sleep(10 * time.Second) // It makes its snapshot.
	r.isolate(1, true)
	// The first one notices that it does not lead any more; the second one misses it after 5 to 15 s.
	time.Sleep(20 * time.Second)
	_, w := raft.NewInmemTransportWithTimeout(raft.ServerAddress(nodeID(1)), time.Second)
	term, last := r.disks[nodeID(2)].Last(firstGeneration)
	return &pretender{rig: r, wire: w, term: term, last: last}
}

// dial connects it to the second node, which may have a new wire since.
func (p *pretender) dial() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wire.Connect(raft.ServerAddress(nodeID(2)), p.wires[address{nodeID(2), firstGeneration}])
}

func (p *pretender) header() raft.RPCHeader {
	return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(nodeID(1)), Addr: []byte(nodeID(1))}
}

// append sends entries that follow one of the pretender's term.
func (p *pretender) append(term, prev, commit uint64, entries ...*raft.Log) (raft.AppendEntriesResponse, error) {
	p.dial()
	var resp raft.AppendEntriesResponse
	err := p.wire.AppendEntries(raft.ServerID(nodeID(2)), raft.ServerAddress(nodeID(2)), &raft.AppendEntriesRequest{
		RPCHeader: p.header(), Term: term, PrevLogEntry: prev, PrevLogTerm: p.term, Entries: entries, LeaderCommitIndex: commit,
	}, &resp)
	return resp, err
}

// install sends a snapshot, of little more than the founding.
func (p *pretender) install(index, term uint64) (raft.InstallSnapshotResponse, error) {
	p.t.Helper()
	m := ledger.NewMachine()
	data, err := found().Encode()
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := m.Apply(3, data); err != nil {
		p.t.Fatal(err)
	}
	content, err := m.Encode()
	if err != nil {
		p.t.Fatal(err)
	}
	var servers raft.Configuration
	for n := 1; n <= 2; n++ {
		servers.Servers = append(servers.Servers, raft.Server{ID: raft.ServerID(nodeID(n)), Address: raft.ServerAddress(nodeID(n))})
	}
	p.dial()
	var resp raft.InstallSnapshotResponse
	err = p.wire.InstallSnapshot(raft.ServerID(nodeID(2)), raft.ServerAddress(nodeID(2)), &raft.InstallSnapshotRequest{
		RPCHeader: p.header(), SnapshotVersion: raft.SnapshotVersionMax, Term: p.term, LastLogIndex: index, LastLogTerm: term,
		Size: int64(len(content)), Configuration: raft.EncodeConfiguration(servers), ConfigurationIndex: 1,
	}, &resp, bytes.NewReader(content))
	return resp, err
}

func (p *pretender) entry(index, term uint64) *raft.Log {
	return &raft.Log{Index: index, Term: term, Type: raft.LogNoop}
}

// unharmed holds that the second node has all that was confirmed, and that the two go on
// together once they see each other.
func (p *pretender) unharmed() {
	p.t.Helper()
	if got := len(p.node(2).View().Guests); got != 6 {
		p.t.Errorf("%d guests are left of 6", got)
	}
	if term, last := p.disks[nodeID(2)].Last(firstGeneration); last < p.last || term < p.term {
		p.t.Errorf("its disk ends with entry %d of term %d, it was %d of %d: what it acknowledged is gone", last, term, p.last, p.term)
	}
	p.isolate(1, false)
	p.must(p.node(2), addGuest(200))
	p.confirm(p.node(1))
	p.confirm(p.node(2))
	for n := 1; n <= 2; n++ {
		if got := len(p.node(n).View().Guests); got != 7 {
			p.t.Errorf("node %d: %d guests of 7", n, got)
		}
	}
}

// A snapshot that this node is long past takes nothing back: a leader sends one when
// its calls come late, or when it lost track of what this node has. Raft 1.8 would
// throw away its log, which it acknowledged, and go back; and then it panics, or
// leaves out a command.
func TestSnapshot_OneThatIsBehindTakesNothingBack(t *testing.T) {
	for name, trailing := range map[string]uint64{"log is kept": 100, "log is empty": 0} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pretend(t, trailing)
				defer p.close()
				for _, index := range []uint64{p.last - 3, p.last - 1, p.last} {
					if got, err := p.install(index, p.term); err != nil || !got.Success {
						t.Errorf("up to %d of %d: answered %+v, %v", index, p.last, got, err)
					}
				}
				if got, err := p.append(p.term, p.last, p.last+1, p.entry(p.last+1, p.term)); err != nil || !got.Success {
					t.Errorf("the entry after it: answered %+v, %v", got, err)
				}
				p.unharmed()
			})
		})
	}
}

// A leader that goes on before the end of this node's snapshot is told that all of
// it is here: raft 1.8 would ask for a snapshot, and get an older one, for ever.
func TestAppend_WhatTheSnapshotHoldsIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pretend(t, 0)
		defer p.close()
		for _, prev := range []uint64{p.last - 4, p.last - 1} {
			if got, err := p.append(p.term, prev, p.last); err != nil || !got.Success {
				t.Errorf("nothing after %d: answered %+v, %v", prev, got, err)
			}
		}
		two := []*raft.Log{p.entry(p.last-1, p.term), p.entry(p.last, p.term)}
		if got, err := p.append(p.term, p.last-2, p.last, two...); err != nil || !got.Success {
			t.Errorf("what it has: answered %+v, %v", got, err)
		}
		if got, err := p.append(p.term, p.last-2, p.last+1, append(two, p.entry(p.last+1, p.term))...); err != nil || !got.Success {
			t.Errorf("what it has and one more: answered %+v, %v", got, err)
		}
		if _, err := p.append(p.term, p.last-1, p.last, p.entry(p.last, p.term-1)); err == nil {
			t.Error("an entry that contradicts what was confirmed was taken")
		}
		p.unharmed()
	})
}

// A leader vouches for its log up to the entries that it sends. Raft 1.8 takes all
// that stands in its own log as confirmed, up to what the leader says is.
func TestAppend_WhatNoLeaderVouchedForIsNotConfirmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pretend(t, 100)
		defer p.close()
		command := ledger.Command{By: "test", Op: addGuest(300)}
		data, err := command.Encode()
		if err != nil {
			t.Fatal(err)
		}
		tail := &raft.Log{Index: p.last + 1, Term: p.term, Type: raft.LogCommand, Data: data}
		if got, err := p.append(p.term, p.last, p.last, tail); err != nil || !got.Success {
			t.Fatalf("an entry that is not confirmed: answered %+v, %v", got, err)
		}
		// The next leader has another entry there, which it has not sent yet.
		if got, err := p.append(p.term+1, p.last, p.last+1); err != nil || !got.Success {
			t.Fatalf("a new leader: answered %+v, %v", got, err)
		}
		time.Sleep(time.Second)
		if _, there := p.node(2).View().Guests[300]; there {
			t.Error("an entry was applied that only an earlier leader had")
		}
		if got, err := p.append(p.term+1, p.last, p.last+1, p.entry(p.last+1, p.term+1)); err != nil || !got.Success {
			t.Errorf("the entry in its place: answered %+v, %v", got, err)
		}
		p.unharmed()
	})
}

// A snapshot that contradicts the end of the log takes its place, though the log
// reached beyond it, and raft goes on from there.
func TestSnapshot_ReplacesALogThatContradictsIt(t *testing.T) {
	for name, longer := range map[string]uint64{"as long": 0, "longer": 2} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := pretend(t, 100)
				defer p.close()
				var tail []*raft.Log
				for i := range 2 + longer {
					tail = append(tail, p.entry(p.last+1+i, p.term))
				}
				if got, err := p.append(p.term, p.last, p.last, tail...); err != nil || !got.Success {
					t.Fatalf("entries that are not confirmed: answered %+v, %v", got, err)
				}
				was := p.term
				p.term++
				if got, err := p.install(p.last+2, p.term); err != nil || !got.Success {
					t.Fatalf("the snapshot: answered %+v, %v", got, err)
				}
				time.Sleep(100 * time.Millisecond)
				if got, err := p.append(p.term, p.last+2, p.last+3, p.entry(p.last+3, p.term)); err != nil || !got.Success {
					t.Errorf("the entry after it: answered %+v, %v", got, err)
				}
				if term, last := p.disks[nodeID(2)].Last(firstGeneration); last != p.last+3 || term != was+1 {
					t.Errorf("its disk ends with entry %d of term %d, want %d of %d", last, term, p.last+3, was+1)
				}
			})
		})
	}
}
