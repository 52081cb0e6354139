package gossip_test

import (
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// A member that is short of time opens a connection and gives up before it has sent its
// message, or in the middle of it. That is no stranger, and nothing to warn of.
func TestGossip_AMemberThatGivesUpIsNoStranger(t *testing.T) {
	w := newWorld(t)
	core, logs := observer.New(zapcore.DebugLevel)
	written := make(chan struct{}, 1)
	opts := w.options(newID(), 1)
	opts.Logger = zap.New(core, zap.Hooks(func(zapcore.Entry) error {
		select {
		case written <- struct{}{}:
		default:
		}
		return nil
	}))
	n := w.start(opts)
	for _, tc := range []struct {
		sent string
		told func(observer.LoggedEntry) bool
	}{
		{"", func(e observer.LoggedEntry) bool {
			line, _ := e.ContextMap()["line"].(string)
			return strings.HasPrefix(line, "discarding stream with unacceptable label")
		}},
		{"\xf4\x20" + clusterID + "\x0a\x00", func(e observer.LoggedEntry) bool {
			return e.Message == "gossip: a connection ended before its message had come"
		}},
	} {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", n.Addr())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte(tc.sent)); err != nil {
			t.Fatal(err)
		}
		c.Close()
		limit := time.After(time.Minute)
		for logs.Filter(tc.told).Len() == 0 {
			select {
			case <-written:
			case <-limit:
				t.Fatalf("after %q nothing was told: %v", tc.sent, logs.All())
			}
		}
	}
	for _, e := range logs.All() {
		if e.Level >= zapcore.WarnLevel {
			t.Errorf("%s: %s %v", e.Level, e.Message, e.ContextMap())
		}
	}
	if got := n.Strangers(); len(got) > 0 {
		t.Errorf("taken for strangers: %+v", got)
	}
}
