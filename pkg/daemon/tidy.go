package daemon

import (
	"context"

	"go.uber.org/zap"
)

// tidy ends what a power cut left of copies that nobody needs.
func (c *cluster) tidy(ctx context.Context) {
	switch n, err := c.target.Tidy(ctx); {
	case err != nil && ctx.Err() == nil:
		c.log.Warn("look for what was set aside and is not needed", zap.Error(err))
	case n > 0:
		c.log.Info("destroyed what was set aside and is not needed", zap.Int("copies", n))
	}
}
