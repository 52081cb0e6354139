package node

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
)

// Whereabouts is what a node gossips of a guest that it owns.
type Whereabouts struct {
	Term string `json:"term"`
}

const guestKey = "guest/"

// Announcement is what this node gossips, by key: each guest that it owns by
// the ledger as it knows it.
func Announcement(s *ledger.State, self guest.NodeID) map[string][]byte {
	out := map[string][]byte{}
	for id, g := range s.Guests {
		if g.Owner != self {
			continue
		}
		b, err := json.Marshal(Whereabouts{Term: g.Term.String()})
		if err != nil {
			continue // cannot happen: it is a string
		}
		out[guestKey+id.String()] = b
	}
	return out
}

// Disagreements compares what nodes gossip with the ledger, in sentences for the
// operator. A node whose word differs may just be behind; one that goes on
// claiming a guest which the ledger gives to another needs a person.
func Disagreements(s *ledger.State, entries map[guest.NodeID]map[string][]byte) []string {
	var out []string
	for node, said := range entries {
		for key, value := range said {
			id, err := guest.ParseID(strings.TrimPrefix(key, guestKey))
			if err != nil || !strings.HasPrefix(key, guestKey) {
				continue
			}
			var w Whereabouts
			if json.Unmarshal(value, &w) != nil {
				continue
			}
			g, ok := s.Guests[id]
			switch {
			case !ok:
				out = append(out, fmt.Sprintf("node %s says that it owns guest %s, which the ledger does not know", s.NameOf(node), id))
			case g.Owner != node:
				out = append(out, fmt.Sprintf("node %s says that it owns guest %s at term %s, but the ledger gives it to %s at term %s",
					s.NameOf(node), id, w.Term, s.NameOf(g.Owner), g.Term))
			}
		}
	}
	slices.SortFunc(out, cmp.Compare)
	return out
}
