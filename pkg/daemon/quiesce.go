package daemon

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/quiesce"
	"github.com/tandemd/tandem/pkg/unit"
)

// watchVerb is the hidden command of tandemd that thaws a guest when the daemon dies;
// self is the running program, also where its file was replaced meanwhile.
const (
	watchVerb = "watch-frozen"
	self      = "/proc/self/exe"
)

// adoptTimeout is for systemd to take the watchdog; the guest runs meanwhile.
const adoptTimeout = 5 * time.Second

// newQuiescer makes what freezes and thaws guests.
func (d *Daemon) newQuiescer(watchdog []string) (*quiesce.Quiescer, error) {
	d.standing = &standstill{log: d.log, byGuest: map[guest.ID]string{}}
	return quiesce.New(quiesce.Options{
		Dir: d.state.path(frozenFolder), Units: freezer{d.units}, Watchdog: watchdog, Report: d.standing.note,
		Adopt: func(ctx context.Context, id guest.ID, pid int) error {
			ctx, cancel := context.WithTimeout(ctx, adoptTimeout)
			defer cancel()
			return d.units.Adopt(ctx, fmt.Sprintf("tandem-thaw-%s-%d.scope", id, pid), pid)
		},
	})
}

// freezer is systemd as pkg/quiesce wants it.
type freezer struct {
	units interface {
		State(ctx context.Context, name string) (unit.State, error)
		Freeze(ctx context.Context, name string) error
		Thaw(ctx context.Context, name string) error
	}
}

// Running says whether anything of the unit runs.
func (f freezer) Running(ctx context.Context, name string) (bool, error) {
	s, err := f.units.State(ctx, name)
	return s.Running(), err
}

// Frozen says whether it stands still.
func (f freezer) Frozen(ctx context.Context, name string) (bool, error) {
	s, err := f.units.State(ctx, name)
	return s.Frozen, err
}

// Freeze has its processes stand still.
func (f freezer) Freeze(ctx context.Context, name string) error { return f.units.Freeze(ctx, name) }

// Thaw lets them run on.
func (f freezer) Thaw(ctx context.Context, name string) error { return f.units.Thaw(ctx, name) }

// standstill are the guests that stand still and cannot be thawed, as long as that
// lasts. The log says it once, and status as long as it is so.
type standstill struct {
	log *zap.Logger

	mu      sync.Mutex
	byGuest map[guest.ID]string
}

// note takes how the last attempt went; nil: well.
func (s *standstill) note(id guest.ID, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.byGuest[id]
	switch {
	case err == nil && was != "":
		delete(s.byGuest, id)
		s.log.Info("a guest that stood still runs again", zap.String("guest", id.String()))
	case err != nil && err.Error() != was:
		s.byGuest[id] = err.Error()
		s.log.Error("a guest stands still, or may; tandemd goes on trying to thaw it", zap.String("guest", id.String()), zap.Error(err))
	}
}

// list is one sentence for each.
func (s *standstill) list() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Values(s.byGuest))
}

// watchCmd is the process that the daemon starts before it freezes a guest.
func watchCmd() *cobra.Command {
	return &cobra.Command{
		Use: watchVerb + " NOTE", Hidden: true, Args: cobra.ExactArgs(1), SilenceUsage: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			units := unit.New(unit.Options{})
			defer units.Close()
			return quiesce.Watch(cmd.Context(), args[0], freezer{units}, os.Stdin, os.Stdout)
		},
	}
}
