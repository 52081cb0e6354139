package daemon

import (
	"context"
	"errors"
	"fmt"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/daemon/backend"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/move/migrate"
	"github.com/tandemd/tandem/pkg/replicate"
	"github.com/tandemd/tandem/pkg/replicate/fault"
)

// checkMove refuses a migration that would fail, before anything is done.
func (c *cluster) checkMove(ctx context.Context, g guest.Guest, r migrate.Record) error {
	view := c.d.book.Current()
	to, ok := view.Members[r.To]
	switch conflict := (recoverer{c}).Conflict(); {
	case !ok:
		return fault.Never("", "node %s is not a member", r.To.Short())
	case conflict != "":
		return fault.Never("`tandem cluster yield` on one side settles it", "no owner can be changed: %s", conflict)
	case !c.cons.Quorate():
		return c.notQuorate()
	case !c.overview.Alive()[r.To]:
		return fault.Never("see `tandem cluster status`", "node %s is not alive", to.Name)
	}
	if err := c.jobsAllow(view, g, r); err != nil {
		return err
	}
	for _, v := range g.Volumes {
		if !to.Has(v.Storage) {
			return fault.Never("add it to the storages in its configuration", "node %s has no storage %s, which volume %s needs", to.Name, v.Storage, v)
		}
	}
	if err := c.source.Claim(ctx, g.ID); err != nil {
		return err
	}
	ready, err := c.promoter.Ready(ctx, view.Cluster, g)
	if err == nil && !ready {
		err = fault.Retry("`tandem guest show "+g.ID.String()+"` tells how it fares", "guest %s is not in use here yet, or its volumes are read-only or not mounted", g.ID)
	}
	if err != nil {
		return err
	}
	if !r.NoStart {
		req := landingRequest{Guest: g.ID, Index: view.Index}
		if err := c.d.peer.Call(ctx, r.To, pathMoveCheck, req, nil); err != nil {
			return err
		}
	}
	return c.foreseeMove(ctx, r, to)
}

// jobsAllow refuses where a job is in the way.
func (c *cluster) jobsAllow(view *ledger.State, g guest.Guest, r migrate.Record) error {
	for _, j := range view.JobsOf(g.ID) {
		switch {
		case j.Target != r.To:
		case j.Removing:
			return fault.Retry("wait until `tandem list` shows it no more", "job %s to %s is being removed", j.ID, view.NameOf(r.To))
		case r.DeleteSource:
			return fault.Never("leave --delete-source out, or delete the job first",
				"job %s would point back to %s, which needs the copy that is left there", j.ID, view.NameOf(r.From))
		}
	}
	return nil
}

// foreseeMove plans the first sync, as the creation of a job does.
func (c *cluster) foreseeMove(ctx context.Context, r migrate.Record, to ledger.Member) error {
	p, err := c.source.ForeseeHandover(ctx, r.Guest, r.To)
	if err != nil {
		return err
	}
	if p.Silent != nil {
		return p.Silent
	}
	var standing []error
	for _, refusal := range p.Refusals {
		if replicate.Standing(refusal) {
			standing = append(standing, refusal)
		}
	}
	if len(standing) > 0 {
		return fmt.Errorf("%s cannot take it: %w", to.Name, errors.Join(standing...))
	}
	return nil
}

// moving are the migrations of this node that go on, for status.
func (c *cluster) moving() []api.Migration {
	var out []api.Migration
	for _, v := range c.mover.Active() {
		m := backend.MigrationOf(c.d.book.Current(), v, c.d.now())
		m.Lines = []api.LogLine{}
		out = append(out, m)
	}
	return out
}
