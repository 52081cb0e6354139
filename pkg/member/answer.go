package member

import (
	"errors"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/member/rules"
)

// PathClaim is the call that asks a node for its Answer. It is served to
// members, and on the join exchange too, where a removed node learns its fate.
const PathClaim = "/member/claim"

// Caller is who asks for a claim.
type Caller struct {
	// Node is empty for a key that is not on the list.
	Node        guest.NodeID
	Fingerprint string
}

// answerTo is what a node with the list s says to a caller, besides its claim.
// A stranger is told nothing.
func answerTo(s *ledger.State, m *Memory, c Caller) (rules.Answer, error) {
	if c.Node != "" {
		return rules.Answer{Remembered: m.Of(c.Node)}, nil
	}
	removed, ok := s.Removed[c.Fingerprint]
	if !ok {
		return rules.Answer{}, errors.New("this key is not on the member list")
	}
	return rules.Answer{Removed: &rules.Removal{Generation: s.Generation, Index: s.Index, Removal: removed}}, nil
}
