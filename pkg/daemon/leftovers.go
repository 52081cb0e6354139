package daemon

import (
	"context"
	"time"

	"go.uber.org/zap"
)

// How often leftovers are looked for, and how soon again where the cluster could not confirm the ledger.
const (
	leftoversEvery = time.Hour
	leftoversRetry = time.Minute
)

// lookForLeftovers tells once of each thing that former jobs have left on this node, and takes away what nobody needs.
func (c *cluster) lookForLeftovers(ctx context.Context) {
	known := map[string]bool{}
	for {
		every := leftoversEvery
		// What an old copy of the ledger says may be wrong by now.
		if err := c.cons.Confirm(ctx); err != nil {
			every = leftoversRetry
		} else {
			known = c.leftoversNow(ctx, known)
			c.removeUnfinished(ctx)
		}
		if !pause(ctx, every) {
			return
		}
	}
}

// leftoversNow looks once. Known is what was told before; it returns what is known now.
func (c *cluster) leftoversNow(ctx context.Context, known map[string]bool) map[string]bool {
	list, err := c.finder.Run(ctx)
	if err != nil && ctx.Err() == nil {
		c.log.Warn("look for what former jobs have left", zap.Error(err))
	}
	now := map[string]bool{}
	for _, f := range list {
		fields := []zap.Field{zap.String("dataset", f.Dataset), zap.String("found", f.What)}
		switch key := f.Dataset + ": " + f.What; {
		case f.Removed:
			c.log.Info("took away what a former job has left", fields...)
		case known[key]:
			now[key] = true
		default:
			now[key] = true
			c.log.Warn("something is left of a former job", append(fields, zap.String("hint", f.Hint))...)
		}
	}
	return now
}
