package daemon

import (
	"testing"
	"time"

	"go.uber.org/zap"
)

// Only the time in which the node was quorate counts, over a restart too.
func TestQuorateTime_CountsWhileQuorate(t *testing.T) {
	state, err := openFolder(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	f := facts{state, newTroubles(zap.NewNop())}
	lasts := time.Duration(0)
	q := newQuorateTime(f, func() time.Duration { return lasts })
	for _, step := range []struct{ passed, lasts, want time.Duration }{
		{time.Minute, 0, 0},
		{time.Minute, 20 * time.Second, 20 * time.Second},
		{time.Minute, 80 * time.Second, 80 * time.Second},
		{time.Minute, 0, 80 * time.Second},
	} {
		lasts = step.lasts
		q.count(step.passed)
		if got := q.get(); got != step.want {
			t.Errorf("after %+v: %v, want %v", step, got, step.want)
		}
	}
	q.keep()
	if got := newQuorateTime(f, q.lasts).get(); got != 80*time.Second {
		t.Errorf("after a restart: %v", got)
	}
}
