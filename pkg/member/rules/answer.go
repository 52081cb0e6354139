package rules

import (
	"fmt"
	"strings"
	"time"

	"github.com/tandemd/tandem/pkg/ledger"
)

// Refusal is why something is not done, and what the operator can do.
type Refusal struct{ Reason, Advice string }

// Error is the reason.
func (r *Refusal) Error() string { return r.Reason }

// Hint is what the operator can do.
func (r *Refusal) Hint() string { return r.Advice }

// Refuse makes a Refusal.
func Refuse(advice, format string, args ...any) *Refusal {
	return &Refusal{Reason: fmt.Sprintf(format, args...), Advice: advice}
}

// Answer is what a node says on PathClaim.
type Answer struct {
	// Claim is empty while the node waits before it starts raft.
	Claim Claim `json:"claim"`
	// Remembered is the most that the answering node has heard of the caller.
	Remembered Record `json:"remembered"`
	// Removed is set where the caller is no member any more.
	Removed *Removal `json:"removed,omitempty"`
}

// Removal tells a node that it was taken off the member list.
type Removal struct {
	// Generation is that of the list, Index how far the list goes.
	Generation string `json:"generation"`
	Index      uint64 `json:"index"`
	ledger.Removal
}

// Reason tells the node's operator what happened.
func (r Removal) Reason() string {
	how := ""
	if r.Forced {
		how = ", on forced quorum"
	}
	return fmt.Sprintf("this node (%s) was removed from the cluster on %s by %s%s: it follows the ledger no longer; its guests and data stay as they are",
		r.Name, time.Unix(r.At, 0).UTC().Format(time.RFC3339), r.By, how)
}

// Hint tells the way back.
func (Removal) Hint() string {
	return "to come back, make a token on a member with `tandem cluster token`, then run `tandem cluster join ADDRESS TOKEN` here: " +
		"the node keeps its ID and its volumes"
}

func list(words []string) string { return strings.Join(words, ", ") }
