package daemon

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/tandemd/tandem/pkg/zfs"
)

// A pool in trouble is told within 30 seconds, once in the journal and in every status, and when it is over.
func TestPools_TellOnceAndWhenItIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.InfoLevel)
		var mu sync.Mutex
		state := map[string]zfs.PoolTrouble{}
		var broken error
		change := func(f func()) { mu.Lock(); defer mu.Unlock(); f() }
		p := &pools{
			names: []string{"data", "tank"}, log: zap.New(core), now: time.Now, troubles: map[string]poolTrouble{},
			look: func(pool string) (zfs.PoolTrouble, error) { mu.Lock(); defer mu.Unlock(); return state[pool], broken },
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); p.run(ctx) }()
		after := func(want int, texts ...string) {
			t.Helper()
			time.Sleep(29 * time.Second)
			synctest.Wait()
			got := strings.Join(p.list(), "\n")
			for _, text := range texts {
				if !strings.Contains(got, text) {
					t.Errorf("the status says %q, want %q", got, text)
				}
			}
			if len(texts) == 0 && got != "" {
				t.Errorf("the status says %q, want nothing", got)
			}
			if n := logs.Len(); n != want {
				t.Errorf("%d lines in the journal, want %d: %v", n, want, logs.All())
			}
		}
		after(0)
		change(func() { state["tank"] = zfs.PoolSuspended })
		after(1, "pool tank is suspended since")
		after(1, "pool tank is suspended since")
		change(func() { state["data"] = zfs.PoolNotImported })
		after(2, "pool data is not imported", "pool tank is suspended")
		change(func() { clear(state) })
		after(4)
		change(func() { broken = errors.New("i/o error") })
		after(6, "pool data is in an unknown state: i/o error")
		cancel()
		<-done
	})
}
