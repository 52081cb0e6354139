package member

import (
	"crypto/rand"
	"encoding/hex"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
)

// NewFork begins a generation on this node; Index and Term are filled in when the
// log is copied.
func NewFork(s *ledger.State, self guest.NodeID, by string, at time.Time) ledger.Fork {
	var id [guest.GenerationLen / 2]byte
	_, _ = rand.Read(id[:]) // never fails
	return ledger.Fork{Generation: hex.EncodeToString(id[:]), Parent: s.Generation, Node: self, By: by, At: at.Unix()}
}
