package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/consensus"
	"github.com/tandemd/tandem/pkg/keeper/host"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/keeper"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/node"
	"github.com/tandemd/tandem/pkg/replicate"
	"github.com/tandemd/tandem/pkg/replicate/local"
)

// newKeeper builds the keeper of what runs here.
func (c *cluster) newKeeper(opts local.Options, mover keeper.Mover) (*keeper.Keeper, error) {
	d := c.d
	boot := d.bootID
	if boot == "" {
		var err error
		if boot, err = host.BootID(); err != nil {
			c.log.Error("guests are not started after a boot", zap.Error(err))
		}
	}
	return keeper.New(keeper.Options{
		Self: d.id.Node, Units: systemd{d.units},
		Disks: disks{host.Volumes{Storages: d.conf.Storages, List: opts.Together.List}, c.source},
		Mover: mover, Ledger: agreement{c}, Store: facts{d.state, d.troubles}, Files: host.Files{Dir: d.state.path("guests")},
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
		Running: u.Running(), Failed: u.Active == "failed", Absent: u.Load != "loaded", Since: u.Since, Enabled: u.Enabled,
	}, nil
}

// disks are the volumes of this node.
type disks struct {
	host.Volumes
	source *replicate.Source
}

// Claim marks a guest's volumes that carry no mark.
func (d disks) Claim(ctx context.Context, id guest.ID) error { return d.source.Claim(ctx, id) }

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
	return &api.Error{
		Code:    api.CodeNotQuorate,
		Message: fmt.Sprintf("not quorate: %d of %d votes, %d needed", v.Votes, v.Voters, v.Quorum),
		Hint: fmt.Sprintf("`tandem cluster status` shows which members are away: bring them back; "+
			"if they are off and stay off, `tandem cluster expected %d` lets this node go on without them", max(v.Votes, 1)),
	}
}

// unitWords are what gossip tells of the guests that are this node's or run here.
func (c *cluster) unitWords() map[guest.ID]node.UnitWord {
	out := map[guest.ID]node.UnitWord{}
	for id, cond := range c.keeper.Conditions() {
		if cond.State == "" || !cond.Own && cond.State != keeper.StateRunning {
			continue
		}
		w := node.UnitWord{State: cond.State}
		if !cond.Since.IsZero() {
			w.Since = cond.Since.Unix()
		}
		out[id] = w
	}
	return out
}

// guestRuns tells of all guests with a unit how they fare, by what their owners and
// the others gossip.
func (c *cluster) guestRuns() map[guest.ID]api.GuestRun {
	s := c.d.book.Current()
	words := map[guest.NodeID]map[guest.ID]node.UnitWord{c.d.id.Node: c.unitWords()}
	for id := range c.overview.Alive() {
		if id != c.d.id.Node {
			words[id] = node.UnitWords(c.gossip.Entries(id))
		}
	}
	out := map[guest.ID]api.GuestRun{}
	for id, g := range s.Guests {
		if g.Unit == "" {
			continue
		}
		run := api.GuestRun{State: keeper.StateUnknown, On: []guest.NodeName{}}
		if w, told := words[g.Owner][id]; told {
			run.State = w.State
			if w.Since != 0 {
				run.Since = time.Unix(w.Since, 0)
			}
		}
		for _, m := range s.MemberList() {
			if words[m.ID][id].State == keeper.StateRunning {
				run.On = append(run.On, m.Name)
			}
		}
		out[id] = run
	}
	return out
}

// aloud is gossip's announcements with what runs here.
func (c *cluster) aloud(s *ledger.State) map[string][]byte {
	out := node.Announcement(s, c.d.id.Node)
	maps.Copy(out, node.UnitAnnouncement(s, c.d.id.Node, c.unitWords()))
	return out
}
