package gossip_test

import (
	"strings"
	"testing"

	"github.com/tandemd/tandem/pkg/gossip"
)

func TestStart_Refusals(t *testing.T) {
	w := newWorld(t)
	for name, tc := range map[string]struct {
		change func(*gossip.Options)
		says   string
	}{
		"no key":          {func(o *gossip.Options) { o.Keys.Primary = nil }, "key"},
		"short key":       {func(o *gossip.Options) { o.Keys.Primary = make([]byte, 16) }, "32"},
		"short other key": {func(o *gossip.Options) { o.Keys.Others = [][]byte{{1}} }, "32"},
		"no cluster":      {func(o *gossip.Options) { o.Cluster = "" }, "cluster ID"},
		"no boot":         {func(o *gossip.Options) { o.Boot = 0 }, "boot counter"},
		"no node ID":      {func(o *gossip.Options) { o.Node = "n1" }, `"n1"`},
		"bad address":     {func(o *gossip.Options) { o.Bind = "n1:7946" }, `"n1:7946"`},
		"bad advertised":  {func(o *gossip.Options) { o.Advertise = "n1" }, `"n1"`},
		"not our address": {func(o *gossip.Options) { o.Bind = "192.0.2.1:7946" }, "192.0.2.1:7946"},
		"too much to say": {func(o *gossip.Options) { o.Meta.Peer = strings.Repeat("x", 600) }, "512"},
	} {
		opts := w.options(newID(), 1)
		tc.change(&opts)
		g, err := gossip.Start(opts)
		if err == nil {
			g.Close()
		}
		if err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: got %v, want an error with %q", name, err, tc.says)
		}
	}
}

func TestPublish_Refusals(t *testing.T) {
	w := newWorld(t)
	a := w.start(w.options(newID(), 1))
	for name, err := range map[string]error{
		"no key":      a.Publish("", nil),
		"long key":    a.Publish(strings.Repeat("k", gossip.MaxKey+1), nil),
		"large value": a.Publish("k", make([]byte, gossip.MaxValue+1)),
		"large meta":  a.SetMeta(gossip.Meta{Peer: strings.Repeat("x", 600)}),
	} {
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := a.Delete("never published"); err != nil {
		t.Error(err)
	}
	if got := a.Entries(a.id); len(got) != 0 {
		t.Errorf("entries are %v", got)
	}
}
