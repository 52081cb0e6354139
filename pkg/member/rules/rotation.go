package rules

import (
	"time"

	"github.com/tandemd/tandem/pkg/ledger"
)

const (
	// useAfter is when a new gossip key is used even if a live member does not have it yet.
	useAfter = 60 * time.Second
	// dropAfter is how long the old gossip key is understood after the new one is used.
	dropAfter = 30 * time.Second
)

// RotationKind is one of the three steps of a change of the gossip key.
type RotationKind string

// The steps.
const (
	NoRotation RotationKind = ""
	Install    RotationKind = "install"
	Use        RotationKind = "use"
	Forget     RotationKind = "drop"
)

// Rotation is a step of the change of the gossip key, with the number of its key.
type Rotation struct {
	Kind   RotationKind
	Number int
}

// KeyProgress is how far the last step has come.
type KeyProgress struct {
	// Since is when the leader first saw the last step done.
	Since time.Time
	// All: every live member has applied it.
	All bool
}

// NextRotation is the step of the change of the gossip key that is due: install,
// when a removed member knows the one in use; use, when all live members have it or
// after 60 s; drop, 30 s later, when all live members have done that. A change
// that has begun is carried to its end.
func NextRotation(s *ledger.State, p KeyProgress, now time.Time) Rotation {
	if len(s.Gossip) == 0 {
		return Rotation{}
	}
	used, newest, oldest := s.Gossip[0].Number, s.Gossip[0].Number, s.Gossip[0].Number
	for _, k := range s.Gossip {
		newest, oldest = max(newest, k.Number), min(oldest, k.Number)
	}
	waited := now.Sub(p.Since)
	switch {
	case len(s.Gossip) == 1 && s.Rotate:
		return Rotation{Install, newest + 1}
	case len(s.Gossip) == 1:
		return Rotation{}
	case used != newest && (p.All || waited >= useAfter):
		return Rotation{Use, newest}
	case used == newest && p.All && waited >= dropAfter:
		return Rotation{Forget, oldest}
	default:
		return Rotation{}
	}
}

// NextFormat is the format to which the ledger is raised, one at a time, once
// every member knows it, this node (known) included; else the one that it has.
func NextFormat(s *ledger.State, known int) int {
	for _, m := range s.Members {
		known = min(known, m.Format)
	}
	return min(max(known, s.Format), s.Format+1)
}
