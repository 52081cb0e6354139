package overview

import (
	"fmt"
	"time"

	"github.com/tandemd/tandem/pkg/api"
)

// inDoubt warns of guests that are stopped on both nodes because nobody knows whose
// they are.
func inDoubt(list []api.Migration) []string {
	var out []string
	for _, m := range list {
		if m.InDoubt.IsZero() {
			continue
		}
		out = append(out, fmt.Sprintf("guest %s is in doubt between %s and %s since %s, and stopped on both (%s): %s",
			m.Guest, m.From, m.To, m.InDoubt.Format(time.RFC3339), m.Trouble, m.Advice))
	}
	return out
}
