package member

import (
	"context"
	"errors"
	"fmt"

	"github.com/tandemd/tandem/pkg/ledger"
)

// PathJoin is the one call that a node without a listed key may make.
const PathJoin = "/join"

// JoinRequest asks to be taken in. The key is not part of it: it is the one
// with which the connection was made.
type JoinRequest struct {
	Token string `json:"token"`
	// Member describes the joiner; its fingerprint is filled in by the issuer.
	Member ledger.Member `json:"member"`
	// Force insists on it while the cluster runs on forced quorum.
	Force bool `json:"force,omitempty"`
}

// JoinReply is all that a new member needs to begin.
type JoinReply struct {
	Ledger *ledger.State `json:"ledger"`
}

// Issuer takes nodes in, by tokens that it made itself.
type Issuer struct {
	// Redeem burns the token on disk, or says why it cannot be used; of that the
	// stranger is told what a method Public of the error gives, if it has one.
	Redeem func(token, fingerprint string) error
	// Propose carries a command to the ledger and waits until it is applied here.
	Propose func(ctx context.Context, op ledger.Op) error
	// View is the ledger as applied here.
	View func() *ledger.State
	// Refused is told why a token was not taken, for the log.
	Refused func(fingerprint string, err error)
}

// ErrNoEntry is all that a stranger without a good token learns.
var ErrNoEntry = errors.New("the token was not accepted: make a new one with tandem cluster token on a member")

// noEntry is told to who has shown a token of ours that cannot be used.
type noEntry struct{ why string }

func (e *noEntry) Error() string        { return "the token was not accepted: " + e.why }
func (e *noEntry) Is(target error) bool { return target == ErrNoEntry }

// Admit takes a node in, one that was removed and comes again with its old ID and
// key included. The token is burnt before anything else happens.
func (i Issuer) Admit(ctx context.Context, fingerprint string, r JoinRequest) (JoinReply, error) {
	if err := i.Redeem(r.Token, fingerprint); err != nil {
		i.Refused(fingerprint, err)
		if p, ok := errors.AsType[interface {
			error
			Public() string
		}](err); ok {
			return JoinReply{}, &noEntry{p.Public()}
		}
		return JoinReply{}, ErrNoEntry
	}
	r.Member.Fingerprint = fingerprint
	if err := i.Propose(ctx, ledger.AddMember{Member: r.Member, Force: r.Force}); err != nil {
		return JoinReply{}, fmt.Errorf("%s was not taken in (the token is used up; make a new one to try again): %w", r.Member.Name, err)
	}
	view := i.View()
	if _, ok := view.Members[r.Member.ID]; !ok {
		return JoinReply{}, fmt.Errorf("%s was taken in, but this node does not see it yet: try again with a new token", r.Member.Name)
	}
	return JoinReply{Ledger: view}, nil
}

// Check refuses a reply that could not come from an honest issuer.
func (r JoinReply) Check(self ledger.Member) error {
	switch {
	case r.Ledger == nil || !r.Ledger.Founded():
		return errors.New("the answer to the join holds no cluster")
	case r.Ledger.Format > ledger.Format:
		return fmt.Errorf("the cluster's ledger has format %d, this tandemd knows %d: upgrade it", r.Ledger.Format, ledger.Format)
	case r.Ledger.Members[self.ID].Fingerprint != self.Fingerprint:
		return errors.New("the answer to the join does not list this node's key")
	case len(r.Ledger.Gossip) == 0:
		return errors.New("the answer to the join holds no gossip key")
	default:
		return nil
	}
}
