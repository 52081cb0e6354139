package poll_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tandemd/tandem/pkg/daemon/poll"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
)

func TestAll_WaitsShortForTheDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		hangs := func(ctx context.Context, to guest.NodeID, _ string, _, resp any) error {
			if to == "c" {
				*resp.(*string) = "there"
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		}
		got := poll.All(t.Context(), poll.Asker{Self: "a", Alive: map[guest.NodeID]bool{"c": true}, Call: hangs},
			[]ledger.Member{{ID: "a"}, {ID: "b"}, {ID: "c"}},
			poll.Question[int, string]{
				Path: "/p", Ask: 7, Patience: time.Minute,
				Here: func(_ context.Context, ask int) (string, error) { return "here", nil },
			})
		want := map[guest.NodeID]string{"a": "here", "b": "", "c": "there"}
		for id, text := range want {
			if d := cmp.Diff(text, got[id].Said); d != "" {
				t.Errorf("%s: %s", id, d)
			}
		}
		if !errors.Is(got["b"].Err, context.DeadlineExceeded) || got["c"].Err != nil {
			t.Errorf("errors: %v, %v", got["b"].Err, got["c"].Err)
		}
		if took := time.Since(begin); took != time.Second {
			t.Errorf("a dead node was waited for %s", took)
		}
	})
}
