package guard_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/consensus/guard"
)

// mute is a pair of transports, the second of which is behind a wire that is mute.
func mute(t *testing.T) (*raft.InmemTransport, *guard.Wire) {
	t.Helper()
	_, a := raft.NewInmemTransportWithTimeout("a", time.Minute)
	_, b := raft.NewInmemTransportWithTimeout("b", time.Minute)
	a.Connect("b", b)
	b.Connect("a", a)
	w, err := guard.NewWire(b)
	if err != nil {
		t.Fatal(err)
	}
	g := guard.New(guard.Options{Logger: zap.NewNop()})
	w.Start(idle{}, g.Log(raft.NewInmemStore(), guard.Entry{}), func() {})
	w.SetMuted(true)
	return a, w
}

// idle is a raft that was never told anything.
type idle struct{}

func (idle) CurrentTerm() uint64                               { return 0 }
func (idle) AppliedIndex() uint64                              { return 0 }
func (idle) LastIndex() uint64                                 { return 0 }
func (idle) LeaderWithID() (raft.ServerAddress, raft.ServerID) { return "", "" }

// TestWire_MuteRefusesAtOnceBothWays: nobody waits for a mute node, and a snapshot
// that is sent to it is read to its end, because more follows on that connection.
func TestWire_MuteRefusesAtOnceBothWays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, w := mute(t)
		defer func() { _ = w.Close() }()
		began := time.Now()
		snapshot := strings.NewReader("a snapshot")
		install := raft.InstallSnapshotRequest{
			SnapshotVersion: 1, LastLogIndex: 1, Size: snapshot.Size(), Configuration: raft.EncodeConfiguration(raft.Configuration{}),
		}
		in := errors.Join(
			a.AppendEntries("b", "b", &raft.AppendEntriesRequest{}, &raft.AppendEntriesResponse{}),
			a.RequestVote("b", "b", &raft.RequestVoteRequest{}, &raft.RequestVoteResponse{}),
			a.RequestPreVote("b", "b", &raft.RequestPreVoteRequest{}, &raft.RequestPreVoteResponse{}),
			a.TimeoutNow("b", "b", &raft.TimeoutNowRequest{}, &raft.TimeoutNowResponse{}),
			a.InstallSnapshot("b", "b", &install, &raft.InstallSnapshotResponse{}, snapshot),
		)
		_, pipe := w.AppendEntriesPipeline("a", "a")
		out := errors.Join(
			w.AppendEntries("a", "a", &raft.AppendEntriesRequest{}, &raft.AppendEntriesResponse{}),
			w.RequestVote("a", "a", &raft.RequestVoteRequest{}, &raft.RequestVoteResponse{}),
			w.RequestPreVote("a", "a", &raft.RequestPreVoteRequest{}, &raft.RequestPreVoteResponse{}),
			w.TimeoutNow("a", "a", &raft.TimeoutNowRequest{}, &raft.TimeoutNowResponse{}),
			w.InstallSnapshot("a", "a", &raft.InstallSnapshotRequest{}, &raft.InstallSnapshotResponse{}, snapshot),
			pipe,
		)
		if n := strings.Count(in.Error(), "silent"); n != 5 {
			t.Errorf("of 5 calls %d were refused: %v", n, in)
		}
		if n := strings.Count(out.Error(), "silent"); n != 6 {
			t.Errorf("of 6 calls to others %d were refused: %v", n, out)
		}
		if snapshot.Len() > 0 {
			t.Error("the snapshot was left on the connection")
		}
		if took := time.Since(began); took > 0 {
			t.Errorf("somebody waited for a mute node: %s", took)
		}
	})
}

// TestWire_ACallThatWaitsWhenItFallsSilentIsRefused: raft did not take it, because
// it hangs in a write.
func TestWire_ACallThatWaitsWhenItFallsSilentIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, w := mute(t)
		defer func() { _ = w.Close() }()
		w.SetMuted(false)
		done := make(chan error, 1)
		go func() { done <- a.AppendEntries("b", "b", &raft.AppendEntriesRequest{}, &raft.AppendEntriesResponse{}) }()
		synctest.Wait()
		w.SetMuted(true)
		if err := <-done; err == nil || !strings.Contains(err.Error(), "silent") {
			t.Errorf("got %v", err)
		}
		w.SetMuted(false)
		go func() { done <- a.RequestVote("b", "b", &raft.RequestVoteRequest{}, &raft.RequestVoteResponse{}) }()
		rpc := <-w.Consumer()
		rpc.Respond(&raft.RequestVoteResponse{Granted: true}, nil)
		if err := <-done; err != nil {
			t.Errorf("once it speaks again: %v", err)
		}
	})
}

func TestNewWire_WantsPreVotes(t *testing.T) {
	_, inmem := raft.NewInmemTransport("a")
	if _, err := guard.NewWire(struct{ raft.Transport }{inmem}); err == nil {
		t.Error("a transport that knows no pre-votes was taken")
	}
}
