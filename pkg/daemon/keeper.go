package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/consensus"
	"github.com/tandemd/tandem/pkg/daemon/backend"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/keeper"
	"github.com/tandemd/tandem/pkg/keeper/host"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/move/promote"
	"github.com/tandemd/tandem/pkg/move/retire"
	"github.com/tandemd/tandem/pkg/node"
	"github.com/tandemd/tandem/pkg/replicate/local"
)

// newKeeper builds the keeper of what runs here.
func (c *cluster) newKeeper(opts local.Options) (*keeper.Keeper, error) {
	d := c.d
	var err error
	if c.promoter, err = promote.New(opts, c.target); err != nil {
		return nil, err
	}
	if c.retirer, err = retire.New(opts); err != nil {
		return nil, err
	}
	files := host.Files{Dir: d.state.path("guests")}
	if err := files.EndPermits(); err != nil {
		c.log.Error("a forced start is still remembered", zap.Error(err))
	}
	boot := d.bootID
	if boot == "" {
		if boot, err = host.BootID(); err != nil {
			c.log.Error("guests are not started after a boot", zap.Error(err))
		}
	}
	return keeper.New(keeper.Options{
		Self: d.id.Node, Units: systemd{d.units},
		Disks: host.Volumes{Storages: d.conf.Storages, List: opts.Together.List}, Mover: mover{c.promoter, c.retirer},
		Ledger: agreement{c}, Store: facts{d.state, d.troubles}, Files: files,
		BootID: boot, Boottime: consensus.Boottime, Logger: c.log.Named("keeper"),
	})
}

// systemd is pkg/unit as the keeper sees it.
type systemd struct{ Units }

// State is how a unit fares.
func (s systemd) State(ctx context.Context, name string) (keeper.UnitState, error) {
	u, err := s.Units.State(ctx, name)
	if err != nil {
		return keeper.UnitState{}, err
	}
	return keeper.UnitState{
		Running: u.Running(), Passing: u.Passing(), Failed: u.Active == "failed", Absent: u.Load != "loaded", Since: u.Since, Enabled: u.Enabled,
	}, nil
}

// mover makes a guest's volumes here the owner's, or take them out of use.
type mover struct {
	promoter *promote.Promoter
	retirer  *retire.Retirer
}

// Promote makes them the owner's, and ready to be used.
func (m mover) Promote(ctx context.Context, cluster string, g guest.Guest) (told []string, err error) {
	out, err := m.promoter.Promote(ctx, cluster, g)
	for _, v := range out.Volumes {
		told = append(told, fmt.Sprintf("%s: %s", v.Dataset, v.State))
	}
	for _, aside := range out.Aside {
		told = append(told, "what was newer is kept in "+aside)
	}
	return append(told, out.Warnings...), err
}

// Retire makes them follow the owner that the view tells.
func (m mover) Retire(ctx context.Context, view *ledger.State, g guest.Guest) (told []string, err error) {
	out, err := m.retirer.Retire(ctx, view, g)
	for _, v := range out.Volumes {
		told = append(told, fmt.Sprintf("%s: %s", v.Dataset, v.State))
	}
	return append(told, out.Warnings...), err
}

// agreement is the ledger as the keeper sees it.
type agreement struct{ c *cluster }

// View never blocks.
func (a agreement) View() *ledger.State { return a.c.d.book.Current() }

// Confirm asks a majority.
func (a agreement) Confirm(ctx context.Context) (*ledger.State, error) {
	err := a.c.cons.Confirm(ctx)
	switch {
	case errors.Is(err, consensus.ErrNotQuorate), err != nil && !a.c.cons.Quorate():
		return nil, a.c.notQuorate()
	case err != nil:
		return nil, err
	}
	s := a.c.cons.View()
	a.c.d.book.Learn(s)
	return s, nil
}

// notQuorate says what is missing for a guest to be started, and what to do.
func (c *cluster) notQuorate() error {
	v := c.overview.Votes()
	why := "not quorate: " + v.Tally()
	if waits := c.gate.Waiting(); v.Voters == 0 && waits != "" { // Its part in the agreement has not begun.
		why = "not quorate: " + waits
	}
	return &api.Error{
		Code:    api.CodeNotQuorate,
		Message: why,
		Hint: fmt.Sprintf("`tandem cluster status` shows which members are away: bring them back; "+
			"if they are off and stay off, `tandem cluster expected %d` lets this node go on without them", max(v.Votes, 1)),
	}
}

// unitWords are what gossip tells of the guests that are this node's or run here.
func (c *cluster) unitWords() map[guest.ID]node.UnitWord {
	return backend.UnitWords(c.keeper.Conditions())
}

// heardUnits is what the others that are alive gossip of units.
func (c *cluster) heardUnits() map[guest.NodeID]map[guest.ID]node.UnitWord {
	out := map[guest.NodeID]map[guest.ID]node.UnitWord{}
	for id := range c.overview.Alive() {
		if id != c.d.id.Node {
			out[id] = node.UnitWords(c.gossip.Entries(id))
		}
	}
	return out
}

// aloud is gossip's announcements with what runs here.
func (c *cluster) aloud(s *ledger.State) map[string][]byte {
	out := node.Announcement(s, c.d.id.Node)
	maps.Copy(out, node.UnitAnnouncement(s, c.d.id.Node, c.unitWords()))
	return out
}
