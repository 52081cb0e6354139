package local

import (
	"context"
	"time"

	"github.com/tandemd/tandem/pkg/zfs"
)

const (
	// lookAgain is for how long somebody may have a volume open who only looks into it: udev does after every change.
	lookAgain = 5 * time.Second
	lookEvery = 250 * time.Millisecond
)

// Users are who has the datasets open or mounted and does not let them go within a moment. That it cannot be told may pass in
// that time, too. look is [ZFS.Users].
func Users(ctx context.Context, look func(ctx context.Context, datasets ...string) ([]zfs.User, error), datasets ...string) ([]zfs.User, error) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for waited := time.Duration(0); ; waited += lookEvery {
		users, err := look(ctx, datasets...)
		if err == nil && len(users) == 0 || waited >= lookAgain {
			return users, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
