package daemon

import (
	"context"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/unit"
)

// Units is what the daemon needs of systemd: *unit.Manager, or the in-memory one of
// tests.
type Units interface {
	// State of one that does not exist is no error.
	State(ctx context.Context, name string) (unit.State, error)
	// Start and Stop wait until it is done, and verify it.
	Start(ctx context.Context, name string) error
	Stop(ctx context.Context, name string) error
	// Launch starts a service without a file, which Stop ends.
	Launch(ctx context.Context, name string, t unit.Transient) error
	Freeze(ctx context.Context, name string) error
	Thaw(ctx context.Context, name string) error
	// Guard has systemd ask `tandem guest may-start ID` before it starts the unit.
	Guard(ctx context.Context, name string, id guest.ID) error
	Unguard(ctx context.Context, name string) error
	// Journal is the unit's last n lines.
	Journal(ctx context.Context, name string, n int) ([]string, error)
	// Adopt moves a process out of the daemon's control group, into a scope.
	Adopt(ctx context.Context, scope string, pid int) error
	// Close ends the connection.
	Close()
}

// runs says whether a unit runs on this node; one that does not exist does not.
func (c *cluster) runs(ctx context.Context, name string) (bool, error) {
	st, err := c.d.units.State(ctx, name)
	return st.Running(), err
}
