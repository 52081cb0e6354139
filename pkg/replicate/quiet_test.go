package replicate_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/replicate"
	"github.com/tandemd/tandem/pkg/zfs"
)

// still freezes guests as it is told, and notes when.
type still struct {
	how     guest.Consistency
	warning string
	thaws   error
	stands  bool
	events  []string
}

func (s *still) Quiesce(_ context.Context, g guest.Guest) (guest.Consistency, func() error, string) {
	s.events = append(s.events, "freeze "+g.ID.String())
	s.stands = true
	return s.how, func() error {
		s.events = append(s.events, "thaw "+g.ID.String())
		s.stands = false
		return s.thaws
	}, s.warning
}

// withQuiescer has n1 quiesce guest 100.
func (w *world) withQuiescer(s *still) {
	w.t.Helper()
	w.change(func(st *ledger.State) {
		g := st.Guests[100]
		g.Quiesce = guest.QuiesceFreeze
		st.Guests = map[guest.ID]guest.Guest{100: g}
	})
	n1 := w.node("1")
	o := n1.options
	o.Quiescer = s
	var err error
	n1.source, err = replicate.NewSource(o, link{n1})
	must(w.t, err)
}

// consistency is what the newest points of n1 and n2 say of themselves, on each volume.
func (w *world) consistency() (out []guest.Consistency) {
	w.t.Helper()
	for _, n := range []string{"1", "2"} {
		list, err := w.node(n).pool.List(w.t.Context(), diskDS, rootDS)
		must(w.t, err)
		for _, d := range list {
			p, err := guest.ParsePoint(d.Snapshots[len(d.Snapshots)-1].Props[zfs.PropPoint])
			must(w.t, err)
			out = append(out, p.Consistency)
		}
	}
	return out
}

func TestQuiesce_EnclosesTheSnapshotAndIsRecorded(t *testing.T) {
	for name, c := range map[string]struct {
		still still
		want  guest.Consistency
		warns string
	}{
		"frozen":             {still: still{how: guest.Frozen}, want: guest.Frozen},
		"hook":               {still: still{how: guest.Hooked}, want: guest.Hooked},
		"agent that is away": {still: still{how: guest.Crash, warning: "the agent is away"}, want: guest.Crash, warns: "the agent is away"},
		"ran on before":      {still: still{how: guest.Frozen, thaws: errors.New("it ran on")}, want: guest.Crash, warns: "it ran on"},
		"guest does not run": {still: still{how: guest.Crash}, want: guest.Crash},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.run(job)
			s := &c.still
			w.withQuiescer(s)
			n1 := w.node("1")
			var during []bool
			n1.trap = func(what string) error {
				// What is destroyed and marked may wait until the guest runs again.
				if strings.HasPrefix(what, "n1 Change") && len(during) == 0 {
					during = append(during, s.stands)
				}
				return nil
			}
			for range 2 {
				n1.write(diskDS, 3, 4)
				r := w.run(job)
				if r.Consistency != c.want || !strings.Contains(strings.Join(r.Warnings, "\n"), c.warns) || c.warns == "" && len(r.Warnings) > 0 {
					t.Errorf("the run says %s, warnings %q", r.Consistency, r.Warnings)
				}
				if diff := cmp.Diff(slices.Repeat([]guest.Consistency{c.want}, 4), w.consistency()); diff != "" {
					t.Errorf("the points say (-want +got):\n%s", diff)
				}
			}
			if diff := cmp.Diff([]string{"freeze 100", "thaw 100", "freeze 100", "thaw 100"}, s.events); diff != "" {
				t.Errorf("the guest (-want +got):\n%s", diff)
			}
			if !slices.Equal(during, []bool{true}) {
				t.Errorf("while the snapshot was taken it stood still: %v", during)
			}
		})
	}
}

func TestQuiesce_ThawsWhenTheSnapshotFails(t *testing.T) {
	w := newWorld(t)
	w.run(job)
	s := &still{how: guest.Frozen}
	w.withQuiescer(s)
	n1 := w.node("1")
	n1.write(diskDS, 3, 4)
	n1.trap = func(what string) error {
		if strings.HasPrefix(what, "n1 Change") && s.stands {
			return &zfs.Error{Op: "change", Class: zfs.ClassSpace, Exit: 1, Stderr: "out of space"}
		}
		return nil
	}
	if _, err := n1.source.Run(t.Context(), replicate.Task{Job: job}); err == nil {
		t.Error("the sync succeeded")
	}
	if diff := cmp.Diff([]string{"freeze 100", "thaw 100"}, s.events); diff != "" {
		t.Errorf("the guest (-want +got):\n%s", diff)
	}
	n1.trap = nil
	w.run(job)
}

func TestQuiesce_NothingWrittenNothingFrozen(t *testing.T) {
	w := newWorld(t)
	w.run(job)
	s := &still{how: guest.Frozen}
	w.withQuiescer(s)
	if r := w.run(job); r.Kind != replicate.KindNothing || len(s.events) != 0 {
		t.Errorf("%s, the guest: %q", r.Kind, s.events)
	}
}
