package node

import (
	"encoding/json"
	"strings"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
)

// UnitWord is what a node gossips of the unit of a guest that it owns or runs.
type UnitWord struct {
	// State is running, stopped, failed or unknown.
	State string `json:"state,omitempty"`
	// Since is when it entered it, by that node's clock, in seconds since 1970; 0: not
	// since that node has booted.
	Since int64 `json:"since,omitempty"`
}

// runsKey is of guests that run on a node that does not own them.
const runsKey = "runs/"

// UnitAnnouncement is what this node gossips of units, by key: in the place of the
// entries of Announcement for guests of its own, and for those of others that run
// here all the same.
func UnitAnnouncement(s *ledger.State, self guest.NodeID, words map[guest.ID]UnitWord) map[string][]byte {
	out := map[string][]byte{}
	for id, w := range words {
		key, term := runsKey, ""
		if g, ok := s.Guests[id]; ok && g.Owner == self {
			key, term = guestKey, g.Term.String()
		}
		b, err := json.Marshal(Whereabouts{Term: term, UnitWord: w})
		if err != nil {
			continue // cannot happen: they are strings and a number
		}
		out[key+id.String()] = b
	}
	return out
}

// UnitWords are a node's words on units, from its entries.
func UnitWords(entries map[string][]byte) map[guest.ID]UnitWord {
	out := map[guest.ID]UnitWord{}
	for key, value := range entries {
		rest, ours := strings.CutPrefix(key, guestKey)
		if !ours {
			rest, ours = strings.CutPrefix(key, runsKey)
		}
		id, err := guest.ParseID(rest)
		var w Whereabouts
		if !ours || err != nil || json.Unmarshal(value, &w) != nil || w.State == "" {
			continue
		}
		out[id] = w.UnitWord
	}
	return out
}
