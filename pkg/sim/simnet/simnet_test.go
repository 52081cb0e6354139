package simnet_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/sim/simnet"
)

func ids(s ...string) []guest.NodeID {
	var out []guest.NodeID
	for _, one := range s {
		out = append(out, guest.NodeID(one))
	}
	return out
}

// echo answers with who asked.
func echo(knows ...string) simnet.Server {
	return simnet.Server{
		Knows: func(n guest.NodeID) bool { return strings.Contains(strings.Join(knows, ""), string(n)) },
		Call: func(_ context.Context, from guest.NodeID, request any) (any, error) {
			return string(from) + " says " + request.(string), nil
		},
		Stranger: func(context.Context, guest.NodeID, any) (any, error) { return "who are you", nil },
	}
}

func bubble(t *testing.T, work func(ctx context.Context, n *simnet.Network)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { work(t.Context(), simnet.New(1)) })
}

func TestCall_ArrivesOrSaysThatItMayNotHave(t *testing.T) {
	bubble(t, func(ctx context.Context, n *simnet.Network) {
		a := n.Join("a", echo("b"))
		n.Join("b", echo("a"))
		n.Join("c", echo())
		if v, err := a.Call(ctx, "b", "hello"); v != "a says hello" || err != nil {
			t.Errorf("got %v, %v", v, err)
		}
		if _, err := a.Call(ctx, "c", "hello"); !errors.Is(err, simnet.ErrUnreachable) {
			t.Errorf("called a node that it does not know: %v", err)
		}
		if v, err := a.CallStranger(ctx, "c", "hello"); v != "who are you" || err != nil {
			t.Errorf("a stranger got %v, %v", v, err)
		}
		end := n.Add(simnet.Weather{From: ids("b"), To: ids("a"), Cut: true})
		if _, err := a.Call(ctx, "b", "hello"); !errors.Is(err, simnet.ErrNoAnswer) {
			t.Errorf("the answer was cut off, and the caller got %v", err)
		}
		if n.Open("b", "a") || !n.Open("a", "b") {
			t.Error("a cut in one direction is one in the other")
		}
		end()
		if _, err := a.Call(ctx, "b", "hello"); err != nil {
			t.Errorf("after the cut: %v", err)
		}
	})
}

func TestFreeze_WhatArrivesWaits(t *testing.T) {
	bubble(t, func(ctx context.Context, n *simnet.Network) {
		a, b := n.Join("a", echo("b")), n.Join("b", echo("a"))
		thaw := b.Freeze()
		time.AfterFunc(time.Minute, thaw)
		begun := time.Now()
		if _, err := a.Call(ctx, "b", "hello"); err != nil || time.Since(begun) < time.Minute {
			t.Errorf("answered after %s: %v", time.Since(begun), err)
		}
		b.Leave()
		if _, err := a.Call(ctx, "b", "hello"); err == nil {
			t.Error("a node that left answers")
		}
	})
}

func TestTransport_OtherGenerationIsRefused(t *testing.T) {
	bubble(t, func(_ context.Context, n *simnet.Network) {
		a, b := n.Join("a", echo("b")), n.Join("b", echo("a"))
		ours, err1 := a.Transport("g1")
		same, err2 := b.Transport("g1")
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		go func() {
			rpc := <-same.Consumer()
			rpc.Respond(&raft.RequestVoteResponse{Granted: true}, nil)
		}()
		var resp raft.RequestVoteResponse
		if err := ours.RequestVote("b", "b", &raft.RequestVoteRequest{}, &resp); err != nil || !resp.Granted {
			t.Errorf("vote %+v, %v", resp, err)
		}
		if err := same.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Transport("g2"); err != nil {
			t.Fatal(err)
		}
		if err := ours.RequestVote("b", "b", &raft.RequestVoteRequest{}, &resp); err == nil || !strings.Contains(err.Error(), "generation g1") {
			t.Errorf("asked a node of another generation: %v", err)
		}
	})
}
