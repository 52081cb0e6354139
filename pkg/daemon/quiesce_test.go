package daemon_test

import (
	"strings"
	"testing"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/unit/unittest"
)

func TestQuiesce_IsRecordedAndShown(t *testing.T) {
	t.Parallel()
	n := cluster(t, 2)
	n[0].runGuest(100, guest.Boot{}, unittest.Spec{})
	way := guest.QuiesceFreeze
	if g, err := n[0].api.SetGuest(t.Context(), api.SetGuestRequest{ID: 100, Quiesce: &way}); err != nil || g.Quiesce != way {
		t.Fatalf("%q, %v", g.Quiesce, err)
	}
	id := n[0].replicate(0, "n2")
	for _, c := range []struct {
		spec  unittest.Spec
		want  guest.Consistency
		warns string
	}{{want: guest.Frozen}, {spec: unittest.Spec{CannotFreeze: true}, want: guest.Crash, warns: "was not quiesced"}} {
		n[0].units.Add(serviceOf(100), c.spec)
		n[0].write(volume(100).Name, string(c.want))
		if j := n[0].syncNow(id); j.Consistency != c.want {
			t.Errorf("status says %q, want %q", j.Consistency, c.want)
		}
		runs, err := n[1].api.Runs(t.Context(), id, 1)
		if err != nil || len(runs) != 1 || runs[0].Consistency != c.want {
			t.Errorf("the run says %+v, %v", runs, err)
			continue
		}
		var said []string
		for _, l := range runs[0].Log {
			said = append(said, l.Message)
		}
		if log := strings.Join(said, "\n"); !strings.Contains(log, c.warns) {
			t.Errorf("the run's log is\n%s", log)
		}
		if s, err := n[0].units.State(t.Context(), serviceOf(100)); err != nil || s.Frozen || !s.Running() {
			t.Errorf("afterwards the guest is %+v, %v", s, err)
		}
	}
}
