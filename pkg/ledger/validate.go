package ledger

import (
	"errors"
	"fmt"
	"strings"
)

// Validate refuses what no sequence of commands leads to: a state that was read from
// a file or came from another node and is to be relied upon without the log that
// made it. It says nothing of whether the state is new or of the right cluster.
func (s State) Validate() error {
	if !s.Founded() {
		return errors.New("it holds no cluster")
	}
	if !isName(s.Generation) {
		return fmt.Errorf("generation %q: must be 1 to 64 of a-z, 0-9 and hyphens", s.Generation)
	}
	if len(s.Gossip) == 0 {
		return errors.New("it holds no gossip key")
	}
	for _, k := range s.Gossip {
		if err := k.validate(); err != nil {
			return err
		}
	}
	return errors.Join(s.validateMembers(), s.validateGuests())
}

// isName says whether a generation can name a folder.
func isName(s string) bool {
	return s != "" && len(s) <= 64 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

func (s State) validateMembers() error {
	if len(s.Members) == 0 {
		return errors.New("it holds no member")
	}
	for id, m := range s.Members {
		if id != m.ID {
			return fmt.Errorf("node %s stands in the place of %s", m.ID.Short(), id.Short())
		}
		if err := checkMember(s, m); err != nil {
			return err
		}
	}
	return nil
}

func (s State) validateGuests() error {
	for id, g := range s.Guests {
		if id != g.ID {
			return fmt.Errorf("guest %s stands in the place of %s", g.ID, id)
		}
		if err := g.Validate(); err != nil {
			return err
		}
	}
	for id, j := range s.Jobs {
		if id != j.ID {
			return fmt.Errorf("job %s stands in the place of %s", j.ID, id)
		}
		if _, ok := s.Guests[id.Guest]; !ok {
			return fmt.Errorf("job %s belongs to no guest", id)
		}
		if err := j.Validate(); err != nil {
			return err
		}
	}
	return nil
}
