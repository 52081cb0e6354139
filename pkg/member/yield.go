package member

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/member/rules"
)

// fetchTimeout bounds the fetching of a ledger from one member, and the wait for
// commands under way.
const fetchTimeout = 10 * time.Second

// goOver takes this node into the generation that was decided on. From here on it
// acts no more; it asks once again when it has said so, so that never two sides
// give way to each other, and nothing that was done meanwhile is lost.
func (c *Convener) goOver(ctx context.Context, d rules.Decision) error {
	to := d.Verdict.Winner
	c.setYielding(to)
	defer c.setYielding("")
	defer c.o.Seat.Refuse(nil)
	if err := c.quiesce(ctx, d.Verdict.Reason); err != nil {
		return err
	}
	r := c.ask(ctx, c.members())
	if again := r.Decide(); !d.ByPerson && (!again.Goes || again.Verdict.Winner != to) {
		return fmt.Errorf("%w: %s", errChanged, cmp.Or(again.Verdict.Reason, "the other generation is out of reach"))
	}
	nodes := r.In(to)
	if slices.ContainsFunc(nodes, func(n guest.NodeID) bool { return r.Answers[n].Claim.Yielding != "" }) {
		return fmt.Errorf("%w: generation %s is going over to this one", errChanged, rules.Short(to))
	}
	state, err := c.fetch(ctx, nodes, to)
	if err != nil {
		return err
	}
	old := r.Ours.Generation
	c.o.Logger.Warn("going over to another generation of the cluster", zap.String("from", old), zap.String("to", to), zap.String("reason", d.Verdict.Reason))
	if err := c.o.Seat.Yield(ctx, state); err != nil {
		return fmt.Errorf("go over to generation %s: %w", rules.Short(to), err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left = append(slices.DeleteFunc(c.left, func(g string) bool { return g == to || g == old }), old)
	c.trouble, c.status.Alarm, c.status.Reason = "", "", d.Verdict.Reason
	c.restless = true
	return nil
}

// quiesce ends the acting of this node: no command is taken, and those under way
// have ended when it returns nil.
func (c *Convener) quiesce(ctx context.Context, reason string) error {
	// Not even the caller's end cuts it short: Refuse(nil) must not come before Refuse.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTimeout)
	defer cancel()
	quiet := make(chan struct{})
	go func() { // A hanging disk can hold a command up; it ends with raft at the latest.
		c.o.Seat.Refuse(rules.Refuse("try again in some seconds", "%s", reason))
		close(quiet)
	}()
	select {
	case <-quiet:
		return nil
	case <-ctx.Done():
		return errors.New("commands are still under way")
	}
}

func (c *Convener) setYielding(to string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.yielding = to
}

// fetch gets the ledger of a generation from one of its nodes.
func (c *Convener) fetch(ctx context.Context, nodes []guest.NodeID, generation string) (*ledger.State, error) {
	errs := []error{fmt.Errorf("the ledger of generation %s cannot be fetched", rules.Short(generation))}
	for _, node := range nodes {
		call, cancel := context.WithTimeout(ctx, fetchTimeout)
		s, err := c.o.Peers.Ledger(call, node)
		cancel()
		if err == nil {
			err = c.fits(s, generation)
		}
		if err == nil {
			return s, nil
		}
		errs = append(errs, fmt.Errorf("from %s: %w", c.o.Book.Current().NameOf(node), err))
	}
	return nil, errors.Join(errs...)
}

// fits refuses a ledger that this node cannot live with.
func (c *Convener) fits(s *ledger.State, generation string) error {
	switch {
	case s == nil || s.Cluster != c.o.Book.Current().Cluster || s.Generation != generation:
		return fmt.Errorf("it is not in generation %s any more", rules.Short(generation))
	case s.Format > ledger.Format:
		return fmt.Errorf("its ledger has format %d, this tandemd knows %d: upgrade it", s.Format, ledger.Format)
	case s.Members[c.o.Self].Fingerprint != c.o.Fingerprint:
		return rules.Refuse(rules.Removal{}.Hint(), "it does not list this node with its key")
	case len(s.Gossip) == 0:
		return errors.New("its ledger holds no gossip key")
	default:
		return nil
	}
}

// Yield gives up this node's generation for another one that was met, because a
// person says so: `tandem cluster yield`. Where only one other was met it need
// not be named; the beginning of its ID will do.
func (c *Convener) Yield(ctx context.Context, generation string) error {
	if !c.take(ctx) {
		return context.Cause(ctx)
	}
	defer c.give()
	r := c.ask(ctx, c.members())
	d := r.Decide()
	c.note(r, d)
	to, err := r.Choose(generation, c.o.Book.Current())
	if err != nil {
		return err
	}
	d.ByPerson = true
	d.Verdict = rules.Verdict{Kind: rules.Yield, Winner: to, Reason: fmt.Sprintf("generation %s yields to generation %s: an operator chose so", rules.Short(r.Ours.Generation), rules.Short(to))}
	err = c.goOver(ctx, d)
	if errors.Is(err, errChanged) {
		return rules.Refuse("see `tandem cluster status`", "nothing was changed: generation %s is going over to this one", rules.Short(to))
	}
	return err
}
