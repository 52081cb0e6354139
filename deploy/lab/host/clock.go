// Package host is the machine that the lab runs on: its clock, its programs and Debian packages, and the processes that
// the lab leaves running. It knows nothing of the lab's machines. The lab's other packages call it.
package host

import (
	"context"
	"time"
)

// Now is the clock of the lab: it works with real machines, in real time.
func Now() time.Time {
	return time.Now() //nolint:forbidigo // the lab is an edge: it measures real machines
}

// Pause waits for d, or until ctx is done, and then returns its cause.
func Pause(ctx context.Context, d time.Duration) error {
	wait, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	<-wait.Done()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// Poll calls done every interval until it says true or fails, or until ctx is done.
func Poll(ctx context.Context, interval time.Duration, done func() (bool, error)) error {
	for {
		ok, err := done()
		if err != nil || ok {
			return err
		}
		if err := Pause(ctx, interval); err != nil {
			return err
		}
	}
}
