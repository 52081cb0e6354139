package peer_test

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/tandemd/tandem/pkg/peer"
)

func TestRaftLayer_CarriesRaft(t *testing.T) {
	a, b := two(t)
	from, err := a.RaftLayer("g1")
	if err != nil {
		t.Fatal(err)
	}
	to, err := b.RaftLayer("g1")
	if err != nil {
		t.Fatal(err)
	}
	// raft itself, on top.
	client := raft.NewNetworkTransport(from, 2, 5*time.Second, io.Discard)
	defer client.Close()
	server := raft.NewNetworkTransport(to, 2, 5*time.Second, io.Discard)
	defer server.Close()
	if got := server.LocalAddr(); got != raft.ServerAddress(b.id) {
		t.Errorf("raft's address is %q, want the node ID", got)
	}
	go func() {
		rpc := <-server.Consumer()
		rpc.Respond(&raft.RequestVoteResponse{Term: 7, Granted: true}, nil)
	}()
	var answer raft.RequestVoteResponse
	if err := client.RequestVote(raft.ServerID(b.id), raft.ServerAddress(b.id), &raft.RequestVoteRequest{Term: 7}, &answer); err != nil {
		t.Fatal(err)
	}
	if answer.Term != 7 || !answer.Granted {
		t.Errorf("answer is %+v", answer)
	}
}

func TestRaftLayer_OtherGenerationIsRefused(t *testing.T) {
	a, b := two(t)
	if _, err := b.RaftLayer("g2"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.RaftLayer("g2"); err == nil {
		t.Error("two layers of one generation")
	}
	layer, err := a.RaftLayer("g1")
	if err != nil {
		t.Fatal(err)
	}
	_, err = layer.Dial(raft.ServerAddress(b.id), 5*time.Second)
	remote, _ := errors.AsType[*peer.RemoteError](err)
	if remote == nil || remote.Code != peer.CodeGeneration || !strings.Contains(remote.Message, "g2") {
		t.Errorf("got %v, want a refusal that names g2", err)
	}
	// A layer that is closed is no layer.
	second, err := b.RaftLayer("g1")
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := layer.Dial(raft.ServerAddress(b.id), 5*time.Second); err == nil {
		t.Error("a closed layer took a connection")
	}
	if _, err := layer.Dial("n2:7947", 5*time.Second); err == nil {
		t.Error("an address that is no node ID was dialled")
	}
}
