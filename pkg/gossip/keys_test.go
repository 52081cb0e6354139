package gossip_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/tandemd/tandem/pkg/gossip"
)

// The three steps of changing the key, under traffic, each node at its own pace:
// nobody is lost, and afterwards the old key opens nothing.
func TestSetKeys_ChangedUnderTraffic(t *testing.T) {
	w := newWorld(t)
	nodes := make([]*node, 4)
	for i := range nodes {
		nodes[i] = w.start(w.options(newID(), 1))
	}
	for _, n := range nodes {
		for _, other := range nodes {
			w.until(n, "alive", func() bool { return n.state(other.id) == gossip.Alive })
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	var traffic sync.WaitGroup
	defer traffic.Wait()
	defer cancel()
	for _, n := range nodes {
		traffic.Go(func() {
			tick := time.NewTicker(2 * time.Millisecond)
			defer tick.Stop()
			for i := 0; ctx.Err() == nil; i++ {
				if err := n.Publish("traffic", fmt.Append(nil, i)); err != nil {
					t.Error(err)
				}
				for _, other := range nodes {
					if got := n.state(other.id); got != gossip.Alive {
						t.Errorf("a node is %q while the key is changed", got)
						return
					}
				}
				select {
				case <-tick.C:
				case <-ctx.Done():
				}
			}
		})
	}
	first, second := w.key, key()
	for step, keys := range []gossip.Keys{
		{Primary: first, Others: [][]byte{second}},
		{Primary: second, Others: [][]byte{first}},
		{Primary: second},
	} {
		for i, n := range nodes {
			if err := n.SetKeys(keys); err != nil {
				t.Fatal(err)
			}
			// All hear each other at every point in between.
			mark := fmt.Sprintf("%d/%d", step, i)
			if err := n.Publish("mark", []byte(mark)); err != nil {
				t.Fatal(err)
			}
			for _, other := range nodes {
				w.until(other, "mark", other.hears(n.id, "mark", mark))
			}
		}
	}
	// A node that has missed it all hears nothing, and is told of as such.
	opts := w.options(newID(), 1)
	opts.Keys = gossip.Keys{Primary: first}
	tries := make(chan struct{}, 100)
	peers := opts.Peers
	opts.Peers = func() []gossip.Peer {
		select {
		case tries <- struct{}{}:
		default:
		}
		return peers()
	}
	late := w.start(opts)
	for range 5 {
		<-tries
	}
	if got := late.Members(); len(got) != 1 || len(late.Entries(nodes[0].id)) != 0 {
		t.Errorf("with the dropped key one sees %+v", got)
	}
	if got := nodes[0].state(late.id); got != "" {
		t.Errorf("a node with the dropped key is %q", got)
	}
	// It is let in as soon as it has learnt the key.
	if err := late.SetKeys(gossip.Keys{Primary: second}); err != nil {
		t.Fatal(err)
	}
	w.until(late, "alive", func() bool { return late.state(nodes[0].id) == gossip.Alive })
	w.until(nodes[0], "alive", func() bool { return nodes[0].state(late.id) == gossip.Alive })
}

func TestSetKeys_Refusals(t *testing.T) {
	w := newWorld(t)
	a, b := w.start(w.options(newID(), 1)), w.start(w.options(newID(), 1))
	w.until(a, "alive", func() bool { return a.state(b.id) == gossip.Alive })
	for name, keys := range map[string]gossip.Keys{
		"none":        {},
		"short":       {Primary: []byte("short")},
		"short other": {Primary: w.key, Others: [][]byte{make([]byte, 16)}},
	} {
		if err := a.SetKeys(keys); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	// Nothing has changed.
	if err := a.Publish("guest/100", []byte("x")); err != nil {
		t.Fatal(err)
	}
	w.until(b, "entry", b.hears(a.id, "guest/100", "x"))
}
