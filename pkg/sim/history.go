package sim

import (
	"strings"
	"sync"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
)

// Verdict is what a client was told.
type Verdict string

// The verdicts.
const (
	// Done: the command was carried out, or the read confirmed.
	Done Verdict = "done"
	// Refused: the ledger refused it, nothing was changed.
	Refused Verdict = "refused"
	// NotSent: nothing was sent, nothing was changed.
	NotSent Verdict = "not sent"
	// Unknown: sent and not confirmed.
	Unknown Verdict = "unknown"
)

// Entry is one command or confirmed read on one guest, as its client saw it.
type Entry struct {
	Client int
	Guest  guest.ID
	// Call and Return order the entries by what happened before what.
	Call, Return int64
	// Tag names the command in the ledger's history; empty for a read.
	Tag string
	// Op is the command; nil for a read.
	Op ledger.Op
	// SeenGuest and SeenJob are what the author of a change with a digest saw.
	SeenGuest guest.Guest
	SeenJob   guest.Job
	Verdict   Verdict
	// Reason is that of a refusal.
	Reason string
	// Read is what a confirmed read showed.
	Read Shown
}

// Shown is a guest with its jobs.
type Shown struct {
	Exists bool
	Guest  guest.Guest
	Jobs   []guest.Job
}

func show(s *ledger.State, id guest.ID) Shown {
	g, ok := s.Guests[id]
	return Shown{Exists: ok, Guest: g, Jobs: s.JobsOf(id)}
}

// history is what all clients of a run did.
type history struct {
	mu      sync.Mutex
	clock   int64
	entries []*Entry
}

func (h *history) call(e *Entry) *Entry {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clock++
	e.Call, e.Verdict = h.clock, Unknown
	h.entries = append(h.entries, e)
	return e
}

func (h *history) end(e *Entry, v Verdict, reason string, read Shown) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clock++
	e.Return, e.Verdict, e.Reason, e.Read = h.clock, v, reason, read
}

// settled is the history once the ledger's own tells what became of the commands
// whose outcome no client knows: done are the tags of those that were carried out.
func (h *history) settled(done map[string]bool) []Entry {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []Entry
	for _, e := range h.entries {
		switch {
		case e.Verdict == NotSent, e.Op == nil && e.Verdict != Done:
			continue // It did nothing.
		case e.Verdict == Refused && foreign(e.Reason):
			continue // For a reason that is not in this guest's own history.
		case e.Verdict == Unknown && !done[e.Tag]:
			continue
		}
		x := *e
		if x.Verdict == Unknown {
			x.Verdict, x.Return = Done, h.clock+1
		}
		out = append(out, x)
	}
	return out
}

// foreign refusals are about members, which come and go.
func foreign(reason string) bool {
	return strings.Contains(reason, "is not a member") || strings.Contains(reason, "owns guest")
}

// tagMark begins what a simulated client says it is called.
const tagMark = "client-"

func isTag(by string) bool { return strings.HasPrefix(by, tagMark) }
