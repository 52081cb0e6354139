package daemon_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/unit/unittest"
	"github.com/tandemd/tandem/pkg/zfs"
)

// drill has guest 100's replica on n2 tried, asked on this node, to its end.
func (m *machine) drill(r api.DrillRequest) api.Drill {
	m.t.Helper()
	r.Guest, r.On = 100, "n2"
	started, err := m.api.StartDrill(m.t.Context(), r)
	if err != nil {
		m.t.Fatal(err)
	}
	return m.drilled(started)
}

func (m *machine) drilled(s api.StartedDrill) api.Drill {
	m.t.Helper()
	for {
		d, err := m.api.WatchDrill(m.t.Context(), s.DrillID)
		if err != nil {
			m.t.Fatal(err)
		}
		if d.Result != nil {
			return d
		}
	}
}

// clones are the datasets of drills on a machine.
func (m *machine) clones() []zfs.Dataset {
	m.t.Helper()
	list, err := m.pool.Children(m.t.Context(), "tank/guests")
	if err != nil {
		m.t.Fatal(err)
	}
	return slices.DeleteFunc(list, func(d zfs.Dataset) bool { return !strings.Contains(d.Name, guest.DrillPrefix) })
}

// checkScript is an executable for drills. It waits for the file "go" beside it, if told to.
func checkScript(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "check")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// Asked on a third node, over real sockets: the check is run on the target, syncs go on meanwhile, and what came of it is told
// everywhere, over a restart too.
func TestDrill_FromAnotherNode(t *testing.T) {
	t.Parallel()
	n := cluster(t, 3)
	n[0].disk("vm-100-disk-0", "first")
	n[0].addGuest(100)
	id := guest.JobID{Guest: 100}
	if _, err := n[2].api.CreateJob(t.Context(), api.CreateJobRequest{ID: id, Target: "n2", Schedule: "weekly"}); err != nil {
		t.Fatal(err)
	}
	point := n[0].syncNow(id).Point
	dir := t.TempDir()
	path := checkScript(t, `echo "$TANDEM_POINT $1 $TANDEM_VOLUME_0"; touch `+dir+`/begun; while [ ! -e `+dir+`/go ]; do sleep 0.1; done`)
	started, err := n[2].api.StartDrill(t.Context(), api.DrillRequest{Guest: 100, On: "n2", Check: path})
	if err != nil {
		t.Fatal(err)
	}
	until(t, "the check runs", func() bool {
		if _, err := n[2].api.WatchDrill(t.Context(), started.DrillID); err != nil { // It keeps it going, too.
			t.Fatal(err)
		}
		_, err := os.Stat(filepath.Join(dir, "begun"))
		return err == nil
	})
	if list := n[1].clones(); len(list) != 1 || list[0].Props[zfs.PropRole] != zfs.RoleDrill || list[0].ReadOnly {
		t.Errorf("the clones are %+v", list)
	}
	for i := range 3 {
		n[0].write("vm-100-disk-0", fmt.Sprintf("more %d", i))
		if j := n[0].syncNow(id); j.State != api.StateOK || j.Point == point {
			t.Errorf("a sync while a replica is drilled: %+v", j)
		}
	}
	runs, err := n[0].api.Runs(t.Context(), id, 3)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range runs {
		for _, l := range r.Log {
			if l.Level == "warn" {
				t.Errorf("run %d warns: %s", r.ID, l.Message)
			}
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d := n[2].drilled(started)
	if d.Result.Outcome != api.DrillPassed || d.Point != point || d.Node != "n2" || fmt.Sprint(d.Result.Output) != fmt.Sprintf("[%s 100 %s]", point, volume(100)) {
		t.Errorf("%+v, %+v", d, d.Result)
	}
	bad := checkScript(t, "echo page 7 is torn; exit 3")
	if d := n[0].drill(api.DrillRequest{Check: bad}); d.Result.Outcome != api.DrillFailed || !strings.Contains(d.Result.Error, "exit status 3") {
		t.Errorf("%+v", d.Result)
	}
	n[1].stop()
	n[1].start()
	until(t, "what came of it is known again", func() bool {
		s, err := n[2].api.Status(t.Context(), api.Filter{})
		if err != nil {
			t.Fatal(err)
		}
		x := s.Jobs[0].Drilled
		return x != nil && x.PassedPoint == point && !x.Failed.IsZero() && strings.Contains(strings.Join(s.Warnings, "\n"), "node n2: the replica of guest 100 failed its drill")
	})
	if left := n[1].clones(); len(left) > 0 {
		t.Errorf("%v is left", left)
	}
}

// A drill's daemon dies: the next one takes the clone away, and the guest's service.
func TestDrill_ItsDaemonEnds(t *testing.T) {
	t.Parallel()
	n := cluster(t, 2)
	n[0].disk("vm-100-disk-0", "first")
	if _, err := n[0].api.AddGuest(t.Context(), api.AddGuestRequest{
		ID: 100, Type: guest.VM, Name: "web", Volumes: []guest.Volume{volume(100)}, Unit: "tandem-vm@100.service", Config: "memory = 64\n",
	}); err != nil {
		t.Fatal(err)
	}
	n[0].replicate(0, "n2")
	words := make(chan []string, 8)
	n[1].units.Transients = func(unit string, args []string) unittest.Spec {
		words <- append([]string{unit}, args...)
		return unittest.Spec{}
	}
	if _, err := n[0].api.StartDrill(t.Context(), api.DrillRequest{Guest: 100, On: "n2"}); err != nil {
		t.Fatal(err)
	}
	got := <-words
	clone := n[1].clones()[0].Name
	line := strings.Join(got[1:], " ")
	if !strings.HasPrefix(got[0], guest.DrillPrefix) || !strings.HasPrefix(line, "guest exec-drill 100 --type vm --folder "+n[1].conf.StateDir) ||
		!strings.HasSuffix(line, " --disk local-zfs:vm-100-disk-0="+clone) {
		t.Errorf("launched %q", got)
	}
	// What its end cannot take away, because somebody has it open, the next one does.
	n[1].pool.SetBusy(clone, true)
	n[1].stop()
	if left := n[1].clones(); len(left) != 1 {
		t.Fatalf("%v is there", left)
	}
	n[1].pool.SetBusy(clone, false)
	n[1].start()
	until(t, "nothing is left of it", func() bool {
		files, err := os.ReadDir(filepath.Join(n[1].conf.StateDir, "drills"))
		return len(n[1].clones()) == 0 && err == nil && len(files) == 0
	})
	if s, err := n[1].units.State(t.Context(), got[0]); err != nil || s.Running() {
		t.Errorf("its service: %+v, %v", s, err)
	}
	until(t, "it can be drilled again", func() bool {
		started, err := n[0].api.StartDrill(t.Context(), api.DrillRequest{Guest: 100, On: "n2"})
		return err == nil && n[0].api.CancelDrill(t.Context(), started.DrillID) == nil
	})
}

// A recovery takes the replica while it is drilled: the drill ends, the guest goes on there.
func TestDrill_LosesAgainstAnotherOwner(t *testing.T) {
	t.Parallel()
	n := herd(t)
	n[0].replicate(0, "n2")
	started, err := n[0].api.StartDrill(t.Context(), api.DrillRequest{Guest: 100, On: "n2", Check: checkScript(t, "sleep 3600")})
	if err != nil {
		t.Fatal(err)
	}
	until(t, "it is being tried", func() bool { return len(n[1].clones()) == 1 })
	n[0].write("vm-100-disk-0", "written since")
	if m := n[0].migrate(api.MigrateRequest{To: "n2"}); m.Outcome != api.MigrationMoved || !m.Started {
		t.Fatalf("%+v", m)
	}
	if d := n[0].drilled(started); d.Result.Outcome != api.DrillEnded || !strings.Contains(d.Result.Error, "another owner") {
		t.Errorf("%+v", d.Result)
	}
	if left := n[1].clones(); len(left) > 0 {
		t.Errorf("%v is left", left)
	}
	data, err := n[1].pool.Read("tank/guests/vm-100-disk-0")
	if err != nil || !bytes.Contains(data, []byte("written since")) {
		t.Errorf("n2 does not have what was written: %v", err)
	}
}

func TestDrill_Refusals(t *testing.T) {
	t.Parallel()
	n := cluster(t, 2)
	n[0].disk("vm-100-disk-0", "first")
	n[0].addGuest(100)
	n[0].replicate(0, "n2")
	refused := func(r api.DrillRequest, code api.Code, text string) {
		t.Helper()
		_, err := n[0].api.StartDrill(t.Context(), r)
		var e *api.Error
		if !errors.As(err, &e) || e.Code != code || !strings.Contains(e.Message, text) {
			t.Errorf("got %v, want %s with %q", err, code, text)
		}
	}
	refused(api.DrillRequest{Guest: 101, On: "n2"}, api.CodeNotFound, "guest 101 does not exist")
	refused(api.DrillRequest{Guest: 100, On: "n9"}, api.CodeNotFound, "n9")
	refused(api.DrillRequest{Guest: 100, On: "n1"}, api.CodeRefused, "n1's own")
	refused(api.DrillRequest{Guest: 100, On: "n2"}, api.CodeRefused, "cannot be started beside itself")
	refused(api.DrillRequest{Guest: 100, On: "n2", Check: "/nowhere/check"}, api.CodeRefused, "no such file")
	refused(api.DrillRequest{Guest: 100, On: "n2", Timeout: -1}, api.CodeInvalid, "timeout")
	n[1].stop()
	refused(api.DrillRequest{Guest: 100, On: "n2", Check: "/nowhere/check"}, api.CodeUnavailable, "node n2, which is to have the replica, did not answer")
}
