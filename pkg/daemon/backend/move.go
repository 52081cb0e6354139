package backend

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/daemon/overview"
	"github.com/tandemd/tandem/pkg/daemon/poll"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/move/migrate"
	"github.com/tandemd/tandem/pkg/peer"
)

// The calls between the backends about migrations.
const (
	pathMigrate         = "/node/migrate"
	pathMigration       = "/node/migration"
	pathMigrationFind   = "/node/migration-find"
	pathMigrationCancel = "/node/migration-cancel"
)

type migrateRequest struct {
	api.MigrateRequest
	To guest.NodeID `json:"to_id"`
	By string       `json:"by"`
	// Index is how far the sender's ledger is.
	Index uint64 `json:"index"`
}

// handleMove answers the other nodes' backends about migrations and recoveries.
func (b *Backend) handleMove(mux *http.ServeMux) {
	peer.Handle(mux, pathMigrate, func(ctx context.Context, r migrateRequest) (api.StartedMigration, error) {
		b.catchUp(ctx, r.Index)
		return b.migrateHere(r)
	})
	peer.Handle(mux, pathMigration, b.watchMigration)
	peer.Handle(mux, pathMigrationFind, b.findHere)
	peer.Handle(mux, pathMigrationCancel, func(ctx context.Context, id guest.ID) (struct{}, error) {
		return struct{}{}, b.cancelHere(ctx, id)
	})
	b.handleRecovery(mux)
}

// Migrate begins to move a guest, on its owner.
func (b *Backend) Migrate(ctx context.Context, r api.MigrateRequest) (api.StartedMigration, error) {
	s, g, err := b.guest(r.ID)
	if err != nil {
		return api.StartedMigration{}, err
	}
	to, err := b.member(r.To)
	if err != nil {
		return api.StartedMigration{}, err
	}
	q := migrateRequest{MigrateRequest: r, To: to.ID, By: b.caller(ctx), Index: s.Index}
	var out api.StartedMigration
	if g.Owner == b.Self {
		out, err = b.migrateHere(q)
	} else {
		err = b.Peers.Call(ctx, g.Owner, pathMigrate, q, &out)
	}
	if err != nil {
		return api.StartedMigration{}, b.ownersWord(s, g, err)
	}
	return out, nil
}

// ownersWord is the failure of asking a guest's owner; where it does not answer, what
// that means.
func (b *Backend) ownersWord(s *ledger.State, g guest.Guest, err error) error {
	e := b.refusedOr(err)
	if a, ok := e.(*api.Error); ok && a.Code == api.CodeUnavailable && g.Owner != b.Self { //nolint:errorlint // it was just made
		return &api.Error{
			Code: a.Code, Message: fmt.Sprintf("node %s, which has guest %s, does not answer: %s", s.NameOf(g.Owner), g.ID, a.Message),
			Hint: fmt.Sprintf("if it is lost for good: `tandem guest recover %s`", g.ID),
		}
	}
	return e
}

func (b *Backend) migrateHere(r migrateRequest) (api.StartedMigration, error) {
	c, err := b.cluster()
	if err != nil {
		return api.StartedMigration{}, err
	}
	rec, err := c.Mover.Start(migrate.Request{Guest: r.ID, To: r.To, NoStart: r.NoStart, DeleteSource: r.DeleteSource, By: r.By})
	if err != nil {
		return api.StartedMigration{}, err
	}
	return b.started(rec), nil
}

func (b *Backend) started(r migrate.Record) api.StartedMigration {
	return api.StartedMigration{Guest: r.Guest, ID: r.ID, Node: b.Name, To: guest.NodeName(b.Book.Current().NameOf(r.To))}
}

// WatchMigration tells how a migration fares, from the node that does it.
func (b *Backend) WatchMigration(ctx context.Context, r api.WatchMigrationRequest) (api.Migration, error) {
	if _, err := b.cluster(); err != nil {
		return api.Migration{}, err
	}
	if r.Node == "" {
		found, err := b.find(ctx, r.Guest)
		if err != nil {
			return api.Migration{}, err
		}
		r.Node = found.Node
	}
	m, err := b.member(r.Node)
	if err != nil {
		return api.Migration{}, err
	}
	var out api.Migration
	if m.ID == b.Self {
		out, err = b.watchMigration(ctx, r)
	} else {
		err = b.Peers.Call(ctx, m.ID, pathMigration, r, &out)
	}
	if err != nil {
		return api.Migration{}, b.failure(err)
	}
	return out, nil
}

// watchMigration waits until there is something to say, but not for long.
func (b *Backend) watchMigration(ctx context.Context, r api.WatchMigrationRequest) (api.Migration, error) {
	c, err := b.cluster()
	if err != nil {
		return api.Migration{}, err
	}
	enough := time.NewTimer(watchWait)
	defer enough.Stop()
	tick := time.NewTicker(watchTick)
	defer tick.Stop()
	for {
		v, ok := c.Mover.Look(r.Guest)
		if !ok {
			return api.Migration{}, notFound("node %s knows of no migration of guest %s", b.Name, r.Guest)
		}
		m := MigrationOf(b.Book.Current(), v, time.Now())
		news := m.Ended() || m.Phase != r.Phase || len(m.Lines) > r.Lines
		m.Lines = m.Lines[min(r.Lines, len(m.Lines)):]
		if news {
			return m, nil
		}
		select {
		case <-enough.C:
			return m, nil
		case <-ctx.Done():
			return m, context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// MigrationOf is a migration as clients see it.
func MigrationOf(s *ledger.State, v migrate.View, now time.Time) api.Migration {
	out := api.Migration{
		Version: api.Version, ID: v.ID, Guest: v.Guest, From: guest.NodeName(s.NameOf(v.From)), To: guest.NodeName(s.NameOf(v.To)), By: v.By,
		Begun: v.Begun, Time: now, Phase: string(v.Phase), Since: v.Since, Round: len(v.Rounds), Lines: []api.LogLine{},
		Trouble: s.Named(v.Trouble), Outcome: string(v.Outcome), Reason: s.Named(v.Reason), Started: v.Started,
		Finished: v.Finished,
	}
	if v.To == "" {
		out.To = ""
	}
	for _, w := range v.Warnings { // The record's own list is shared with whoever else looks.
		out.Warnings = append(out.Warnings, s.Named(w))
	}
	for _, r := range v.Rounds {
		out.Bytes += r.Bytes
	}
	if v.Downtime != nil {
		d := v.Downtime.Seconds()
		out.Downtime = &d
	}
	if p := v.Progress; p.Phase != "" {
		out.Round++
		out.Progress = &api.Progress{Started: v.Since, Phase: string(p.Phase), Sent: int64(p.Bytes), Total: int64(p.Total)} //nolint:gosec // bytes of one guest
	}
	for _, l := range v.Lines {
		out.Lines = append(out.Lines, api.LogLine{Time: l.Time, Level: "info", Message: l.Text})
	}
	switch {
	case v.Broken != nil:
		out.Phase, out.Trouble = string(migrate.Sent), v.Broken.Error()
		out.InDoubt = now
		out.Advice = fmt.Sprintf("`tandem guest migrate %s --cancel` makes sure that the guest stays here, and starts it if it starts at boot", v.Guest)
	case v.InDoubt():
		out.InDoubt = v.Doubt
		out.Advice = fmt.Sprintf("nobody needs to do anything: it is settled as soon as this node reaches a majority (`tandem cluster status`); "+
			"`tandem guest migrate %s --cancel` settles it for %s, unless the change was made already", v.Guest, s.NameOf(v.From))
	}
	return out
}

// findHere are the migrations of a guest on this node that go on.
func (b *Backend) findHere(_ context.Context, id guest.ID) ([]api.StartedMigration, error) {
	c, err := b.cluster()
	if err != nil {
		return nil, err
	}
	out := []api.StartedMigration{}
	for _, v := range c.Mover.Active() {
		if v.Guest == id {
			out = append(out, b.started(v.Record))
		}
	}
	return out, nil
}

// find is where a guest is being moved: the ledger may have another owner by now.
func (b *Backend) find(ctx context.Context, id guest.ID) (api.StartedMigration, error) {
	s, g, err := b.guest(id)
	if err != nil {
		return api.StartedMigration{}, err
	}
	answers := poll.All(ctx, b.asker(), s.MemberList(), poll.Question[guest.ID, []api.StartedMigration]{
		Path: pathMigrationFind, Ask: id, Here: b.findHere, Patience: overview.ReportTimeout,
	})
	for _, m := range s.MemberList() {
		if said := answers[m.ID].Said; len(said) > 0 {
			return said[0], nil
		}
	}
	if err := answers[g.Owner].Err; err != nil {
		return api.StartedMigration{}, &api.Error{
			Code: api.CodeUnavailable, Message: fmt.Sprintf("guest %s: its node %s does not answer, so whether it is being moved is not known: %v",
				id, s.NameOf(g.Owner), b.failure(err)),
		}
	}
	return api.StartedMigration{}, &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("guest %s is not being moved", id)}
}

// CancelMigration wants a migration undone.
func (b *Backend) CancelMigration(ctx context.Context, id guest.ID) (api.StartedMigration, error) {
	found, err := b.find(ctx, id)
	if err != nil {
		return found, err
	}
	m, err := b.member(found.Node)
	if err != nil {
		return found, err
	}
	if m.ID == b.Self {
		err = b.cancelHere(ctx, id)
	} else {
		err = b.Peers.Call(ctx, m.ID, pathMigrationCancel, id, nil)
	}
	if err != nil {
		return found, b.refusedOr(err)
	}
	return found, nil
}

func (b *Backend) cancelHere(ctx context.Context, id guest.ID) error {
	c, err := b.cluster()
	if err != nil {
		return err
	}
	return c.Mover.Cancel(ctx, id)
}

// migrationOf is what `guest show` tells: the one that goes on, wherever that is, or
// the last one of this node.
func (b *Backend) migrationOf(ctx context.Context, id guest.ID) *api.Migration {
	c, err := b.cluster()
	if err != nil {
		return nil
	}
	if found, err := b.find(ctx, id); err == nil && found.Node != b.Name {
		if m, err := b.WatchMigration(ctx, api.WatchMigrationRequest{Guest: id, Node: found.Node}); err == nil {
			m.Lines = []api.LogLine{}
			return &m
		}
	}
	v, ok := c.Mover.Look(id)
	if !ok {
		return nil
	}
	m := MigrationOf(b.Book.Current(), v, time.Now())
	m.Lines = []api.LogLine{}
	return &m
}
