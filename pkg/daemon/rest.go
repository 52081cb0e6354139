package daemon

import (
	"context"
	"time"
)

// restFor and restMost: follow rests for so many times as long as it worked. With a
// small ledger that is nothing; of a large one, which is copied and looked through,
// a storm of changes takes up a fifth of a processor.
const (
	restFor  = 4
	restMost = 100 * time.Millisecond
)

// rest comes after work, or ends with ctx.
func rest(ctx context.Context, worked time.Duration) { _ = pause(ctx, min(restFor*worked, restMost)) }
