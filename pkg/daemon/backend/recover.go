package backend

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/daemon/overview"
	"github.com/tandemd/tandem/pkg/daemon/poll"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/move/recovery"
	"github.com/tandemd/tandem/pkg/peer"
)

const pathRecovery = "/node/recovery"

// Recoverer is what a recovery needs of this node.
type Recoverer interface {
	// Points tells what this node has of a guest.
	Points(ctx context.Context, g guest.Guest) recovery.Word
	// Hears says that a node's daemon answers on the peer connection.
	Hears(ctx context.Context, node guest.NodeID) bool
	// DownSince is when gossip last had the node alive; zero: not known.
	DownSince(node guest.NodeID) time.Time
	// Conflict is why no owner may be changed; empty: one may.
	Conflict() string
	// Fences says that there is a fence command; Fence turns a node off by it.
	Fences() bool
	Fence(ctx context.Context, node guest.NodeName) error
}

type recoveryRequest struct {
	Guest guest.ID     `json:"guest"`
	Owner guest.NodeID `json:"owner"`
	Index uint64       `json:"index"`
}

func (b *Backend) handleRecovery(mux *http.ServeMux) {
	peer.Handle(mux, pathRecovery, b.recoveryHere)
}

// recoveryHere is this node's word: what it has, and whether it hears the owner.
func (b *Backend) recoveryHere(ctx context.Context, r recoveryRequest) (recovery.Word, error) {
	c, err := b.cluster()
	if err != nil {
		return recovery.Word{}, err
	}
	b.catchUp(ctx, r.Index)
	g, ok := b.Book.Current().Guests[r.Guest]
	if !ok {
		return recovery.Word{}, notFound("guest %s does not exist", r.Guest)
	}
	hears := make(chan bool, 1)
	go func() { hears <- c.Recoverer.Hears(ctx, r.Owner) }()
	w := c.Recoverer.Points(ctx, g)
	w.Hears = <-hears
	return w, nil
}

// planRecovery asks everybody and decides; more are the guests that nodes are to get beside those that they have.
func (b *Backend) planRecovery(ctx context.Context, c *Cluster, g guest.Guest, on guest.NodeID, more map[guest.NodeID]int) recovery.Plan {
	s := b.Book.Current()
	members := slices.DeleteFunc(s.MemberList(), func(m ledger.Member) bool { return m.ID == g.Owner && g.Owner != b.Self })
	answers := poll.All(ctx, b.asker(), members, poll.Question[recoveryRequest, recovery.Word]{
		Path: pathRecovery, Ask: recoveryRequest{Guest: g.ID, Owner: g.Owner, Index: s.Index}, Here: b.recoveryHere, Patience: overview.ReportTimeout,
	})
	votes := c.Overview.Votes()
	f := recovery.Facts{
		Self: b.Self, Guest: g, Members: s.Members, Alive: b.alive(), Quorate: votes.Quorate, DownSince: c.Recoverer.DownSince(g.Owner),
		Votes:    votes.Tally(),
		Conflict: c.Recoverer.Conflict(), Words: map[guest.NodeID]recovery.Word{}, On: on, Load: map[guest.NodeID]int{}, Jobs: map[guest.NodeID]int{},
	}
	for id, a := range answers {
		w := a.Said
		if a.Err != nil {
			w = recovery.Word{Silent: b.failure(a.Err).Error()}
		}
		f.Words[id] = w
	}
	for _, other := range s.Guests {
		f.Load[other.Owner]++
	}
	for id, n := range more {
		f.Load[id] += n
	}
	for _, j := range s.JobsOf(g.ID) {
		f.Jobs[j.Target] = j.ID.Number
	}
	return recovery.Make(f)
}

// RecoverGuest gives the guest of a lost node to another.
func (b *Backend) RecoverGuest(ctx context.Context, r api.RecoverRequest) (api.Recovery, error) {
	c, err := b.cluster()
	if err != nil {
		return api.Recovery{}, err
	}
	if !r.DryRun {
		if err := b.mayRecover(c, r.OwnerIsOff); err != nil {
			return api.Recovery{}, err
		}
	}
	return b.recoverGuest(ctx, c, r, nil, func(owner guest.NodeName) error { return b.fence(ctx, c, owner, r.OwnerIsOff) })
}

// mayRecover refuses where nobody says that the old node is off.
func (b *Backend) mayRecover(c *Cluster, ownerIsOff bool) error { //nolint:revive // flag-parameter: the operator's word
	if ownerIsOff || c.Recoverer.Fences() {
		return nil
	}
	return &api.Error{
		Code: api.CodeRefused, Message: "nothing was changed: nobody has said that the old node is off",
		Hint: "make sure that it is, then say --owner-is-off; or configure a fence_command",
	}
}

func (b *Backend) fence(ctx context.Context, c *Cluster, node guest.NodeName, ownerIsOff bool) error { //nolint:revive // flag-parameter: as above
	if ownerIsOff {
		return nil
	}
	if err := c.Recoverer.Fence(ctx, node); err != nil {
		return &api.Error{
			Code: api.CodeRefused, Message: fmt.Sprintf("nothing was changed: the fence command did not turn %s off: %v", node, err),
			Hint: "turn it off by hand, then say --owner-is-off",
		}
	}
	return nil
}

// recoverGuest plans, compares with what was shown, and carries it out.
func (b *Backend) recoverGuest(
	ctx context.Context, c *Cluster, r api.RecoverRequest, more map[guest.NodeID]int, fence func(guest.NodeName) error,
) (api.Recovery, error) {
	s, g, err := b.guest(r.ID)
	if err != nil {
		return api.Recovery{}, err
	}
	var on guest.NodeID
	if r.On != "" {
		m, err := b.member(r.On)
		if err != nil {
			return api.Recovery{}, err
		}
		on = m.ID
	}
	if err := b.asShown(s, g, r); err != nil {
		return api.Recovery{}, err
	}
	p := b.planRecovery(ctx, c, g, on, more)
	out := b.recoveryOf(c, p)
	if r.DryRun {
		return out, nil
	}
	if p.Refusal != nil {
		return out, b.failure(p.Refusal)
	}
	if r.Point != "" && r.Point != p.Chosen.Point.Name {
		return out, &api.Error{
			Code:    api.CodeRefused,
			Message: fmt.Sprintf("nothing was changed: guest %s would go on from %s now, not from %s, which was shown", g.ID, p.Chosen.Point.Name, r.Point),
			Hint:    "look at it again",
		}
	}
	if err := fence(out.Owner); err != nil {
		return out, err
	}
	begun := time.Now()
	if err := b.change(ctx, p, r.NoStart); err != nil {
		return out, err
	}
	b.recovered(ctx, p, begun)
	out.Done = true
	return out, nil
}

// asShown refuses where the guest has another owner or term than was shown.
func (b *Backend) asShown(s *ledger.State, g guest.Guest, r api.RecoverRequest) error {
	if (r.Owner == "" || string(r.Owner) == s.NameOf(g.Owner)) && (r.Term == "" || r.Term == g.Term.String()) {
		return nil
	}
	return b.forestalled(g, fmt.Sprintf("it was shown on %s", r.Owner))
}

// change proposes the owner change. Of two operators one wins, and the other is told who.
func (b *Backend) change(ctx context.Context, p recovery.Plan, noStart bool) error {
	op := p.Change()
	op.Beginning.Stopped = noStart
	err := b.edit(ctx, op)
	if err == nil {
		return nil
	}
	if now, ok := b.Book.Current().Guests[p.Guest.ID]; ok && (now.Owner != p.Guest.Owner || now.Term != p.Guest.Term) {
		if e, ok := errors.AsType[*api.Error](err); ok && e.Code != api.CodeUnknown {
			return b.forestalled(now, err.Error())
		}
	}
	return err
}

// forestalled says who was faster.
func (b *Backend) forestalled(g guest.Guest, why string) error {
	s := b.Book.Current()
	who := ""
	if c, err := b.cluster(); err == nil {
		for _, h := range slices.Backward(c.History()) {
			if strings.HasPrefix(h.What, "guest "+g.ID.String()+" ") {
				who = fmt.Sprintf(" (%s, by %s at %s)", h.What, h.By, time.Unix(h.At, 0).UTC().Format(time.RFC3339))
				break
			}
		}
	}
	return &api.Error{
		Code: api.CodeRefused, Hint: fmt.Sprintf("see it with `tandem guest show %s`", g.ID),
		Message: fmt.Sprintf("nothing was changed: guest %s is on %s at term %s now%s: %s", g.ID, s.NameOf(g.Owner), g.Term, who, why),
	}
}

func (b *Backend) recoveryOf(c *Cluster, p recovery.Plan) api.Recovery {
	s := b.Book.Current()
	g := p.Guest
	out := api.Recovery{
		Version: api.Version, Guest: g.ID, Name: g.Name, Owner: guest.NodeName(s.NameOf(g.Owner)), Term: g.Term.String(),
		Candidates: []api.RecoveryCandidate{}, Tie: p.Tie, Loss: some(p.Loss), Fence: c.Recoverer.Fences(),
	}
	for _, x := range p.Candidates {
		rc := api.RecoveryCandidate{Node: guest.NodeName(s.NameOf(x.Node)), Lacks: x.Lacks, Why: x.Why, Newer: x.Newer}
		if x.Point != nil {
			rc.Point, rc.Taken = x.Point.Name, x.Point.Taken
		}
		out.Candidates = append(out.Candidates, rc)
	}
	if p.Chosen != nil {
		out.On, out.Point = guest.NodeName(s.NameOf(p.Chosen.Node)), p.Chosen.Point.Name
	}
	if p.Refusal != nil {
		out.Refused, out.Hint = s.Named(p.Refusal.Text), s.Named(p.Refusal.Advice)
	}
	return out
}

// RecoverNode recovers all guests of a lost node, one by one; what fails does not
// keep the others from it.
func (b *Backend) RecoverNode(ctx context.Context, r api.RecoverNodeRequest) (api.NodeRecovery, error) {
	c, err := b.cluster()
	if err != nil {
		return api.NodeRecovery{}, err
	}
	m, err := b.member(r.Node)
	if err != nil {
		return api.NodeRecovery{}, err
	}
	if !r.DryRun {
		if err := b.mayRecover(c, r.OwnerIsOff); err != nil {
			return api.NodeRecovery{}, err
		}
	}
	out := api.NodeRecovery{Version: api.Version, Node: m.Name, Guests: []api.Recovery{}, Fence: c.Recoverer.Fences()}
	var fenced error
	tried := false
	once := func(node guest.NodeName) error {
		if !tried {
			tried, fenced = true, b.fence(ctx, c, node, r.OwnerIsOff)
		}
		return fenced
	}
	planned := map[guest.NodeID]int{}
	for _, q := range b.toRecover(m.ID, r) {
		res, err := b.recoverGuest(ctx, c, q, planned, once)
		if on, ok := b.Book.Current().MemberByName(res.On); ok && r.DryRun {
			planned[on.ID]++ // What is carried out the ledger counts.
		}
		if err != nil {
			res.Guest = q.ID
			res.Error, _ = errors.AsType[*api.Error](b.failure(err))
		}
		out.Guests = append(out.Guests, res)
	}
	return out, nil
}

// toRecover are the requests for the guests of a node: those that were shown, or all.
func (b *Backend) toRecover(node guest.NodeID, r api.RecoverNodeRequest) []api.RecoverRequest {
	var out []api.RecoverRequest
	for _, q := range r.Shown {
		q.DryRun, q.OwnerIsOff, q.NoStart = r.DryRun, r.OwnerIsOff, r.NoStart
		out = append(out, q)
	}
	if r.Shown != nil {
		return out
	}
	for _, g := range b.Book.Current().GuestList() {
		if g.Owner == node {
			out = append(out, api.RecoverRequest{ID: g.ID, DryRun: r.DryRun, OwnerIsOff: r.OwnerIsOff, NoStart: r.NoStart})
		}
	}
	return out
}
