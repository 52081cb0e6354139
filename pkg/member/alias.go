package member

import "github.com/tandemd/tandem/pkg/member/rules"

// What this package's loops take and give is that of the rules.
type (
	// Claim is what a node tells others of its generation.
	Claim = rules.Claim
	// Answer is what a node says on PathClaim.
	Answer = rules.Answer
	// Removal tells a node that it was taken off the member list.
	Removal = rules.Removal
	// Refusal is why something is not done, with a hint.
	Refusal = rules.Refusal
	// Change is one change of raft's configuration.
	Change = rules.Change
)

// The kinds of changes that a Council carries out.
const (
	NoChange    = rules.NoChange
	AddFollower = rules.AddFollower
	Promote     = rules.Promote
	Demote      = rules.Demote
	Drop        = rules.Drop
	HandOver    = rules.HandOver
)
