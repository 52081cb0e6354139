package daemon

import (
	"context"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/daemon/backend"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/hook"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/move/drill"
	"github.com/tandemd/tandem/pkg/replicate/local"
	"github.com/tandemd/tandem/pkg/unit"
)

// newProofs builds what compares replicas with their sources, and what tries them.
func (c *cluster) newProofs(opts local.Options) (err error) {
	if c.verification, err = c.newVerification(opts); err != nil {
		return err
	}
	c.drills, err = c.newDrills(opts)
	return err
}

// newDrills builds what tries replicas on this node.
func (c *cluster) newDrills(opts local.Options) (*drill.Drills, error) {
	opts, err := opts.WithDefaults()
	if err != nil {
		return nil, err
	}
	return drill.New(drill.Options{
		Options: opts, ZFS: c.d.zfs, Stage: stage{c.d.units}, Check: runCheck, Checkable: hook.Check,
		Folder: c.d.state.path(drillFolder), Logger: c.log.Named("drill"), Settle: c.d.settle,
	}), nil
}

// drilling keeps what tries replicas tidy until ctx ends, and then ends it.
func (c *cluster) drilling(ctx context.Context) {
	for more := true; more; more = pause(ctx, sweepEvery) {
		err := c.drills.Sweep(ctx)
		if ctx.Err() != nil {
			break
		}
		c.d.troubles.note("drills", err)
	}
	c.drills.Close()
}

// drillsLearn tells the drills what the ledger says.
func (c *cluster) drillsLearn(s *ledger.State) {
	c.drills.Learn(s)
	if err := c.drills.Forget(s); err != nil {
		c.log.Warn("how a former guest was drilled is not forgotten", zap.Error(err))
	}
}

// drilled is what status tells of this node's drills.
func (c *cluster) drilled() map[guest.ID]api.Drilled {
	out := map[guest.ID]api.Drilled{}
	for id, r := range c.drills.Records() {
		d := backend.Drilled(r)
		d.Running = c.drills.Running(id)
		out[id] = d
	}
	return out
}

func runCheck(ctx context.Context, c drill.Check) (said string, err error) {
	return hook.Run(ctx, hook.Call{Path: c.Path, Args: c.Args, Env: c.Env, Dir: c.Dir, EndAll: true})
}

// stage is systemd, as far as a drill needs it.
type stage struct{ units Units }

// Launch starts the guest as a service without a file, and without a network.
func (s stage) Launch(ctx context.Context, name string, p drill.Play) error {
	args := []string{"guest", "exec-drill", p.Guest.ID.String(), "--type", string(p.Guest.Type), "--folder", p.Folder}
	for _, disk := range p.Disks {
		args = append(args, "--disk", disk.Volume.String()+"="+disk.Dataset)
	}
	container := p.Guest.Type == guest.CT
	return s.units.Launch(ctx, name, unit.Transient{
		Description: "Drill of guest " + p.Guest.ID.String() + " of Tandem", Args: args, Lifetime: p.Lifetime,
		// A container says when it is set up, has a control group of its own, and is given no network by systemd-nspawn.
		Notify: container, Delegate: container, Isolated: !container,
	})
}

// Running says that it has not ended.
func (s stage) Running(ctx context.Context, name string) (bool, error) {
	st, err := s.units.State(ctx, name)
	return st.Running(), err
}

// Stop ends it.
func (s stage) Stop(ctx context.Context, name string) error { return s.units.Stop(ctx, name) }

// Journal is what it said.
func (s stage) Journal(ctx context.Context, name string, n int) ([]string, error) {
	return s.units.Journal(ctx, name, n)
}
