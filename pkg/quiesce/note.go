package quiesce

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
)

// errUntouched: nothing was done to the guest, so that there is nothing to thaw.
var errUntouched = errors.New("nothing was frozen")

// note is how a guest is frozen: all that is needed to thaw it.
type note struct {
	Guest guest.ID      `json:"guest"`
	Way   guest.Quiesce `json:"way"`
	Unit  string        `json:"unit,omitempty"`
	Agent string        `json:"agent,omitempty"`
	Since time.Time     `json:"since"`
	// Within is how long it may stand still.
	Within time.Duration `json:"within"`
}

// how is what a point is that is taken while the guest stands still.
func (n note) how() guest.Consistency {
	if _, hook := n.Way.Hook(); hook {
		return guest.Hooked
	}
	return guest.Frozen
}

// freeze returns when the guest stands still. After an error it may, or in part.
func (n note) freeze(ctx context.Context, units Units) error {
	if path, hook := n.Way.Hook(); hook {
		return runHook(ctx, path, "freeze", n.Guest)
	}
	switch n.Way {
	case guest.QuiesceAgent:
		frozen, err := askAgent(ctx, n.Agent, "guest-fsfreeze-freeze")
		if err == nil && frozen == 0 {
			err = errors.New("its agent froze no filesystem")
		}
		return err
	case guest.QuiesceFreeze:
		return units.Freeze(ctx, n.Unit)
	default:
		return fmt.Errorf("%w: quiesce %q is not known to this version", errUntouched, string(n.Way))
	}
}

// thaw lets the guest run on, wherever it stands. Held says that it was frozen until then.
func (n note) thaw(ctx context.Context, units Units) (held bool, err error) {
	if path, hook := n.Way.Hook(); hook {
		return true, runHook(ctx, path, "thaw", n.Guest)
	}
	if n.Way == guest.QuiesceAgent {
		thawed, err := askAgent(ctx, n.Agent, "guest-fsfreeze-thaw")
		if err != nil && n.gone(ctx, units) {
			return false, nil
		}
		return thawed > 0, err
	}
	held, err = units.Frozen(ctx, n.Unit)
	return held, errors.Join(err, units.Thaw(ctx, n.Unit))
}

// gone says that the guest does not run any more: nobody is left to be thawed.
func (n note) gone(ctx context.Context, units Units) bool {
	if n.Unit == "" {
		return false
	}
	running, err := units.Running(ctx, n.Unit)
	return err == nil && !running
}
