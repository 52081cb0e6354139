package node

import (
	"golang.org/x/time/rate"
)

const (
	// frame is what one write of a stream may carry at most: no bucket is smaller.
	frame = 256 << 10
	// bucketsPerSecond makes the bucket of a fast limit larger than a frame, so that
	// a timer that fires late on a busy machine costs nothing: what was missed by a
	// twentieth of a second is made up for.
	bucketsPerSecond = 20
)

// NewLimiter makes a token bucket for a rate in MB/s (10^6 bytes per second);
// 0 is no limit. WaitN may be asked for up to 256 KiB.
func NewLimiter(mbps float64) *rate.Limiter {
	l := rate.NewLimiter(rate.Inf, frame)
	SetRate(l, mbps)
	return l
}

// SetRate changes the limit, also while it is waited for.
func SetRate(l *rate.Limiter, mbps float64) {
	if mbps <= 0 {
		l.SetLimit(rate.Inf)
		return
	}
	l.SetBurst(max(frame, int(mbps*1e6/bucketsPerSecond)))
	l.SetLimit(rate.Limit(mbps * 1e6))
}
