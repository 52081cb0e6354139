package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/consensus"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/history"
	"github.com/tandemd/tandem/pkg/keeper"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/move/migrate"
	"github.com/tandemd/tandem/pkg/peer"
	"github.com/tandemd/tandem/pkg/replicate"
	"github.com/tandemd/tandem/pkg/replicate/local"
	"github.com/tandemd/tandem/pkg/statefile"
)

// movesFolder holds the records of migrations, one for each guest.
const movesFolder = "moves"

// newMover builds what moves guests away from this node, and holds those that are in
// doubt since before a restart.
func (c *cluster) newMover(opts local.Options) (*migrate.Mover, error) {
	d := c.d
	if err := os.MkdirAll(d.state.path(movesFolder), 0o700); err != nil {
		return nil, fmt.Errorf("the state folder: %w", err)
	}
	m := migrate.New(migrate.Options{
		Self: d.id.Node, Ledger: moveLedger{agreement{c}}, Guests: moveGuests{c}, Volumes: moveVolumes{c},
		Files: moveFiles{d.state, d.troubles},
		Handover: func(ctx context.Context, id guest.ID, to guest.NodeID) (migrate.Handover, error) {
			return c.source.Handover(ctx, id, to)
		},
		Lock: func(ctx context.Context, id guest.ID) (func(), error) {
			return opts.Locks.Lock(ctx, local.GuestLock(id))
		},
		Check: c.checkMove, Landing: c.askLanding, Ended: c.moved, NewID: consensus.NewCommandID, Logger: c.log.Named("migrate"), Now: d.now,
	})
	return m, m.Load(context.Background())
}

// moved keeps a migration that has ended in the history, which may be lost without harm.
func (c *cluster) moved(r migrate.Record) {
	s := c.d.book.Current()
	if _, ok := s.Guests[r.Guest]; !ok {
		return
	}
	m := history.Move{
		ID: r.ID, Guest: r.Guest, Kind: history.Migration, From: guest.NodeName(s.NameOf(r.From)), To: guest.NodeName(s.NameOf(r.To)), By: r.By,
		Begun: r.Begun, Finished: r.Finished, Outcome: string(r.Outcome), Point: r.Point, Downtime: r.Downtime, Started: r.Started,
	}
	if r.Outcome != migrate.Moved {
		m.Reason = s.Named(r.Reason)
	}
	if r.To == "" { // Its record was lost, and with it where it was going to.
		m.To = ""
	}
	for _, x := range r.Rounds {
		m.Bytes += x.Bytes
	}
	for _, w := range r.Warnings {
		m.Warnings = append(m.Warnings, s.Named(w))
	}
	if err := c.d.history.AddMove(m); err != nil {
		c.log.Warn("a migration is not in the history", zap.Stringer("guest", r.Guest), zap.Error(err))
	}
}

// forgetMoves drops the history of guests that are removed.
func (c *cluster) forgetMoves(s *ledger.State) {
	for id := range c.guests {
		if _, ok := s.Guests[id]; ok {
			continue
		}
		if err := c.d.history.ForgetMoves(id); err != nil {
			c.log.Warn("the moves of a former guest are not forgotten", zap.Stringer("guest", id), zap.Error(err))
		}
	}
	c.guests = s.Guests
}

// moveLedger is the ledger as a migration sees it.
type moveLedger struct{ agreement }

// Confirm returns once View has all that was confirmed before.
func (l moveLedger) Confirm(ctx context.Context) error {
	_, err := l.agreement.Confirm(ctx)
	return err
}

// Propose tells apart what was not sent from what is not known.
func (l moveLedger) Propose(ctx context.Context, cmd ledger.Command) error {
	ctx, cancel := context.WithTimeout(ctx, proposeTimeout)
	defer cancel()
	_, err := l.c.cons.Propose(ctx, cmd)
	refused, isRefused := errors.AsType[*consensus.RefusedError](err)
	switch {
	case isRefused:
		return &migrate.RefusedError{Reason: refused.Reason}
	case errors.Is(err, consensus.ErrNotQuorate):
		return fmt.Errorf("%w: %w", migrate.ErrUnsent, l.c.notQuorate())
	case err != nil:
		return err
	}
	l.c.d.book.Learn(l.c.cons.View())
	return nil
}

// moveGuests is what runs on this node.
type moveGuests struct{ c *cluster }

// Pause keeps the keeper off a guest.
func (g moveGuests) Pause(ctx context.Context, id guest.ID) (func(), error) {
	return g.c.keeper.Pause(ctx, id)
}

// Running asks systemd, and the keeper whether it is about to start the guest.
func (g moveGuests) Running(ctx context.Context, x guest.Guest) (bool, error) {
	if x.Unit == "" {
		return false, nil
	}
	st, err := g.c.d.units.State(ctx, x.Unit)
	if err != nil || st.Running() {
		return st.Running(), err
	}
	return g.c.keeper.Due(ctx, x.ID)
}

// Stop stops the unit. A guest without one is whoever's who runs it: that nobody has
// its volumes open is looked at before they are sealed.
func (g moveGuests) Stop(ctx context.Context, x guest.Guest) error {
	if x.Unit == "" {
		return nil
	}
	return g.c.d.units.Stop(ctx, x.Unit)
}

// Start is the keeper's, which goes on trying.
func (g moveGuests) Start(ctx context.Context, id guest.ID) error {
	return g.c.keeper.StartAgain(ctx, id)
}

// moveVolumes are the volumes of this node.
type moveVolumes struct{ c *cluster }

// Seal is pkg/move/retire's.
func (v moveVolumes) Seal(ctx context.Context, cluster string, g guest.Guest) error {
	return v.c.retirer.Seal(ctx, cluster, g)
}

// Unseal makes them the owner's of the guest's present term, writable and mounted, as its start does.
func (v moveVolumes) Unseal(ctx context.Context, cluster string, g guest.Guest) error {
	_, err := v.c.promoter.Promote(ctx, cluster, g)
	v.c.keeper.Kick(g.ID) // It may have seen them read-only.
	return err
}

const (
	// retireWait is how long the keeper has to make a kept copy of what is left.
	retireWait = 2 * time.Minute
	retireTick = time.Second // Each look is a list of the volumes.
)

// Discard removes the kept copy of a guest that was moved away, once there is one.
func (v moveVolumes) Discard(ctx context.Context, id guest.ID) error {
	ctx, cancel := context.WithTimeout(ctx, retireWait)
	defer cancel()
	for {
		view := v.c.d.book.Current()
		g, ok := view.Guests[id]
		if !ok || g.Owner == v.c.d.id.Node {
			return fmt.Errorf("guest %s is not another node's", id)
		}
		former, err := v.c.retirer.Former(ctx, view.Cluster, g)
		if err != nil {
			return err
		}
		if !former {
			out, err := v.c.removeCopy(ctx, copyRequest{Guest: id, Node: v.c.d.id.Node, Index: view.Index})
			if err == nil && len(out.Left) > 0 {
				err = errors.New(strings.Join(out.Left, "; "))
			}
			return err
		}
		if !pause(ctx, retireTick) {
			return errors.New("it has not become a kept copy in time: see `tandem status`")
		}
	}
}

// moveFiles keeps the records of migrations. A broken one is left as it is.
type moveFiles struct {
	state    folder
	troubles *troubles
}

func (f moveFiles) path(id guest.ID) string { return f.state.path(movesFolder, id.String()+".json") }

// Read reads one; fs.ErrNotExist where there is none.
func (f moveFiles) Read(id guest.ID) (r migrate.Record, err error) {
	err = statefile.Read(f.path(id), &r)
	if errors.Is(err, fs.ErrNotExist) {
		return r, err
	}
	f.troubles.note(f.path(id), err)
	return r, err
}

// Write replaces one.
func (f moveFiles) Write(r migrate.Record) error {
	err := statefile.Write(f.path(r.Guest), r)
	f.troubles.note(f.path(r.Guest), err)
	return err
}

// All are the guests that have one.
func (f moveFiles) All() ([]guest.ID, error) {
	entries, err := os.ReadDir(f.state.path(movesFolder))
	if err != nil {
		return nil, err
	}
	var out []guest.ID
	for _, e := range entries {
		name, ok := strings.CutSuffix(filepath.Base(e.Name()), ".json")
		if id, err := guest.ParseID(name); ok && err == nil {
			out = append(out, id)
		}
	}
	return out, nil
}

// SetAside moves a broken one out of the way; what it held stays to be looked at.
func (f moveFiles) SetAside(id guest.ID) error {
	if _, err := statefile.SetAside(f.path(id)); err != nil {
		return err
	}
	f.troubles.note(f.path(id), nil)
	return nil
}

// The calls between daemons about migrations.
const (
	pathLanding   = "/move/landing"
	pathMoveCheck = "/move/check"
	pathCopy      = "/move/remove-copy"
)

type landingRequest struct {
	Guest guest.ID `json:"guest"`
	// Index is how far the sender's ledger is.
	Index uint64 `json:"index"`
	// Stopped: it is not to be started.
	Stopped bool `json:"stopped,omitempty"`
}

// moveCalls are the calls of the target's side of a migration.
func moveCalls(d *Daemon, mux *http.ServeMux) {
	peer.Handle(mux, pathLanding, withCluster(d, func(ctx context.Context, c *cluster, r landingRequest) (migrate.Landing, error) {
		return c.landing(ctx, r)
	}))
	peer.Handle(mux, pathMoveCheck, withCluster(d, func(ctx context.Context, c *cluster, r landingRequest) (struct{}, error) {
		return struct{}{}, c.couldStart(ctx, r)
	}))
	peer.Handle(mux, pathCopy, withCluster(d, func(ctx context.Context, c *cluster, r copyRequest) (replicate.RemoveResult, error) {
		return c.copyOfOwn(ctx, r)
	}))
}

// landingWait is how long the target waits for the start before it answers that
// there is none yet.
const landingWait = 8 * time.Second

func (c *cluster) askLanding(ctx context.Context, r migrate.Record) (migrate.Landing, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*landingWait)
	defer cancel()
	var out migrate.Landing
	req := landingRequest{Guest: r.Guest, Index: c.d.book.Current().Index, Stopped: r.Beginning().Stopped}
	err := c.d.peer.Call(ctx, r.To, pathLanding, req, &out)
	return out, err
}

// landing waits a little for a guest that was moved here to be in use: the keeper
// tells.
func (c *cluster) landing(ctx context.Context, r landingRequest) (migrate.Landing, error) {
	wait, cancel := context.WithTimeout(ctx, landingWait)
	defer cancel()
	if err := (view{c}).WaitApplied(wait, r.Index); err != nil {
		return migrate.Landing{Trouble: "its ledger is behind"}, nil
	}
	g, ok := c.d.book.Current().Guests[r.Guest]
	if !ok || g.Owner != c.d.id.Node {
		return migrate.Landing{}, fmt.Errorf("guest %s is not this node's", r.Guest)
	}
	starts := g.Unit != "" && !r.Stopped
	here := func(x keeper.Condition) bool { return x.Own && x.Term == g.Term }
	cond := c.keeper.Await(wait, r.Guest, func(x keeper.Condition) bool {
		return here(x) && (starts && x.State == keeper.StateRunning || !starts && x.Usable)
	})
	l := migrate.Landing{Ready: here(cond) && cond.Usable, Trouble: cond.Trouble}
	if !starts || !here(cond) || cond.State != keeper.StateRunning {
		return l, nil
	}
	st, err := c.d.units.State(ctx, g.Unit)
	if err == nil && st.Active == "active" {
		l = migrate.Landing{Ready: true, Running: true, Ago: st.Age}
	}
	return l, err
}

// couldStart refuses a guest whose unit this node does not have.
func (c *cluster) couldStart(ctx context.Context, r landingRequest) error {
	g, ok := c.d.book.Current().Guests[r.Guest]
	if !ok || g.Unit == "" {
		return nil
	}
	st, err := c.d.units.State(ctx, g.Unit)
	if err != nil {
		return err
	}
	if st.Load != "loaded" {
		return &callError{
			code: string(replicate.ClassPerson), hint: "install the unit there, or move the guest with --no-start",
			err: fmt.Errorf("node %s does not have the unit %s: %s", c.d.conf.NodeName, g.Unit, st.Load),
		}
	}
	if st.Running() {
		return &callError{
			code: string(replicate.ClassPerson), hint: "stop it there",
			err: fmt.Errorf("the unit %s runs on node %s already", g.Unit, c.d.conf.NodeName),
		}
	}
	return nil
}
