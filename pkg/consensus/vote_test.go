package consensus_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/tandemd/tandem/pkg/ledger"
)

// A node that was away while another one was given a vote meets it as a candidate.
// Whoever else had the news may have lost its disk.
func TestVote_ACandidateIsBelievedByItsLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pretend(t, 2)
		defer p.close()
		p.dial()
		header := raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(nodeID(3)), Addr: []byte(nodeID(3))}
		to, at := raft.ServerID(nodeID(2)), raft.ServerAddress(nodeID(2))
		for _, tc := range []struct {
			beyond uint64
			want   bool
		}{{0, false}, {1, true}} {
			var would raft.RequestPreVoteResponse
			must(t, p.wire.RequestPreVote(to, at, &raft.RequestPreVoteRequest{
				RPCHeader: header, Term: p.term + 10, LastLogTerm: p.term, LastLogIndex: p.last + tc.beyond,
			}, &would))
			var votes raft.RequestVoteResponse
			must(t, p.wire.RequestVote(to, at, &raft.RequestVoteRequest{
				RPCHeader: header, Term: p.term + 10 + tc.beyond, LastLogTerm: p.term, LastLogIndex: p.last + tc.beyond,
			}, &votes))
			if would.Granted != tc.want || votes.Granted != tc.want {
				t.Errorf("a stranger whose log is %d entries beyond: it would get the vote: %v, it got it: %v, want %v", tc.beyond, would.Granted, votes.Granted, tc.want)
			}
		}
	})
}

func TestRemoveMember_WaitsUntilTheNodeHasNoVote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := founded(t, 2)
		defer r.close()
		leader := r.node(1)
		op := ledger.RemoveMember{ID: nodeID(2)}
		if err := r.propose(leader, op, 2*time.Second); err == nil || !strings.Contains(err.Error(), "has to go first") {
			t.Fatalf("a node was removed that votes: %v", err)
		}
		if !leader.Leaving()[nodeID(2)] {
			t.Error("nobody is told that the node's vote has to go")
		}
		must(t, leader.Demote(nodeID(2)))
		must(t, r.propose(leader, op, 5*time.Second))
		time.Sleep(time.Minute)
		if leader.Leaving()[nodeID(2)] {
			t.Error("the node would never get a vote again")
		}
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
