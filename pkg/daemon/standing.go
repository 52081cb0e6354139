package daemon

import (
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/guest"
)

// standing tells clients of other generations, of this node's removal, and of what
// it waits for.
func (c *cluster) standing() api.Standing {
	st, s := c.convener.Status(), c.d.book.Current()
	out := api.Standing{Yielding: st.Yielding, Waiting: c.gate.Waiting(), Meeting: st.Reason}
	if st.Alarm != "" {
		out.Alarms, out.Meeting = []string{s.Named(st.Alarm)}, ""
	}
	if st.Removed != nil {
		out.Removed = &api.Removed{At: time.Unix(st.Removed.At, 0), By: st.Removed.By}
	}
	for _, id := range slices.Sorted(maps.Keys(st.Others)) {
		g := api.Generation{ID: id}
		for _, n := range st.Others[id] {
			g.Nodes = append(g.Nodes, guest.NodeName(s.NameOf(n)))
		}
		out.Others = append(out.Others, g)
	}
	out.Aside = c.aside(s.Generation)
	return out
}

// aside are the folders of the ledger that this node keeps beside the present one:
// of generations that it left, and what was set aside.
func (c *cluster) aside(generation string) (out []string) {
	entries, err := os.ReadDir(c.d.state.path("raft"))
	if err != nil {
		c.log.Warn("look for folders of the ledger that are kept", zap.Error(err))
	}
	for _, e := range entries {
		if e.Name() != generation && !strings.HasSuffix(e.Name(), ".draft") {
			out = append(out, c.d.state.path("raft", e.Name()))
		}
	}
	return out
}
