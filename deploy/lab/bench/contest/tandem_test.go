//go:build lab

package contest_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/guest"
)

// never is a schedule that does not come while the contest runs.
const never = "sun 03:07"

// daemons are the two nodes; the client is of the source.
type daemons struct {
	*api.Client
	group *group
	pids  [2]int
}

// nodes have the names of their pools.
var nodes = [2]struct{ name, address string }{{"source", "127.0.0.2"}, {"target", "127.0.0.3"}}

func socketOf(name string) string { return "/run/bench/" + name + ".sock" }
func fileOf(name string) string   { return "/etc/bench-" + name + ".toml" }

// configure writes both configurations, and tells the daemons that run.
func (d *daemons) configure(t *testing.T, perTarget int) {
	t.Helper()
	for i, node := range nodes {
		text := fmt.Sprintf("node_name = %[1]q\npeer = \"%[2]s:7947\"\ngossip = \"%[2]s:7946\"\nstate_dir = \"/var/lib/bench/%[1]s\"\nsocket = %[3]q\n"+
			"[storages]\nlocal-zfs = \"%[1]s/tandem\"\n[limits]\nmax_jobs_per_target = %[4]d\n", node.name, node.address, socketOf(node.name), perTarget)
		if err := os.WriteFile(fileOf(node.name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if d.pids[i] != 0 {
			if err := syscall.Kill(d.pids[i], syscall.SIGHUP); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// perTarget is what Tandem has by itself.
const perTarget = 24

// startDaemons makes a cluster of two.
func startDaemons(t *testing.T, g *group) *daemons {
	t.Helper()
	var clients [2]*api.Client
	d := &daemons{group: g}
	d.configure(t, perTarget)
	for i, node := range nodes {
		clients[i] = api.NewClient(socketOf(node.name))
		if err := os.MkdirAll("/var/lib/bench/"+node.name, 0o700); err != nil {
			t.Fatal(err)
		}
		d.pids[i] = start(t, g, "/var/log/bench-"+node.name, "tandemd", "--config", fileOf(node.name)).Process.Pid
		until(t, "the daemon of "+node.name+" serves", func() bool {
			_, err := os.Stat(socketOf(node.name))
			return err == nil
		})
	}
	d.Client = clients[0]
	if _, err := d.InitCluster(t.Context(), api.InitRequest{}); err != nil {
		t.Fatal(err)
	}
	token, err := d.Token(t.Context(), api.TokenRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := clients[1].Join(t.Context(), api.JoinRequest{Address: token.Address, Token: token.Text}); err != nil {
		t.Fatal(err)
	}
	until(t, "both nodes vote", func() bool {
		c, err := d.Cluster(t.Context())
		return err == nil && c.Quorate && c.Voters == 2 && c.Votes == 2
	})
	return d
}

func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Minute); !done(); {
		if time.Now().After(deadline) {
			t.Fatalf("not within ten minutes: %s", what)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// dataset is the volume of a guest on the source.
func dataset(id int) string { return fmt.Sprintf("source/tandem/vm-%d-disk-0", id) }

func jobOf(id int) guest.JobID {
	job, err := guest.ParseJobID(fmt.Sprintf("%d-0", id))
	if err != nil {
		panic(err) // the number is one of ours
	}
	return job
}

// take makes guests of volumes that are there.
func (d *daemons) take(t *testing.T, ids ...int) {
	t.Helper()
	d.each(t, ids, func(id int) error {
		volume, err := guest.ParseVolume(fmt.Sprintf("local-zfs:vm-%d-disk-0", id))
		if err != nil {
			return err
		}
		_, err = d.AddGuest(t.Context(), api.AddGuestRequest{
			ID: guest.ID(id), Type: guest.VM, Name: fmt.Sprintf("bench-%d", id), Volumes: []guest.Volume{volume}, //nolint:gosec // a small number
		})
		return err
	})
}

// jobs makes their jobs.
func (d *daemons) jobs(t *testing.T, ids ...int) {
	t.Helper()
	d.each(t, ids, func(id int) error {
		_, err := d.CreateJob(t.Context(), api.CreateJobRequest{ID: jobOf(id), Target: "target", Schedule: never})
		return err
	})
}

// end deletes jobs and waits until they are gone with their replicas.
func (d *daemons) end(t *testing.T, ids ...int) {
	t.Helper()
	d.each(t, ids, func(id int) error {
		_, err := d.DeleteJob(t.Context(), api.DeleteJobRequest{ID: jobOf(id)})
		return err
	})
	until(t, "the jobs are gone", func() bool {
		jobs, err := d.Jobs(t.Context())
		return err == nil && !slices.ContainsFunc(jobs, func(j api.Job) bool { return slices.Contains(ids, int(j.ID.Guest)) })
	})
}

func (d *daemons) each(t *testing.T, ids []int, do func(id int) error) {
	t.Helper()
	var all sync.WaitGroup
	for _, id := range ids {
		all.Go(func() {
			if err := do(id); err != nil {
				t.Errorf("guest %d: %v", id, err)
			}
		})
	}
	all.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// run is `tandem run`, as an operator types it.
func (d *daemons) run(ctx context.Context, id int) error {
	return shell(ctx, d.group, fmt.Sprintf("exec tandem --socket %s run %s", socketOf("source"), jobOf(id)))
}

// lastRun waits for the end of a job's run that began after a time, and fails where that failed.
func (d *daemons) lastRun(t *testing.T, id int, after time.Time) api.Run {
	t.Helper()
	var found api.Run
	until(t, fmt.Sprintf("job %s has run", jobOf(id)), func() bool {
		runs, err := d.Runs(t.Context(), jobOf(id), 1)
		if err != nil {
			t.Fatal(err)
		}
		if len(runs) == 0 || runs[0].Start.Before(after) || runs[0].End.IsZero() {
			return false
		}
		found = runs[0]
		return true
	})
	if found.Error != "" {
		t.Fatalf("job %s: %s", jobOf(id), found.Error)
	}
	return found
}

// all waits for the runs of several jobs and returns from when to when they ran.
func (d *daemons) all(t *testing.T, ids []int, after time.Time) (first, last time.Time) {
	t.Helper()
	for _, id := range ids {
		run := d.lastRun(t, id, after)
		if first.IsZero() || run.Start.Before(first) {
			first = run.Start
		}
		if run.End.After(last) {
			last = run.End
		}
	}
	return first, last
}

// now asks for syncs of several guests in the same moment.
func (d *daemons) now(t *testing.T, ids []int) {
	t.Helper()
	d.each(t, ids, func(id int) error { return d.ScheduleNow(t.Context(), jobOf(id)) })
}

// soon is how far away the next sync is after each that is measured: the owner's clean-up goes with the next snapshot, as it does
// where guests are replicated every minute, and no sync comes by itself while something else is measured.
const soon = 14 * time.Minute

// schedule gives jobs a schedule.
func (d *daemons) schedule(t *testing.T, schedule string, ids ...int) {
	t.Helper()
	d.each(t, ids, func(id int) error {
		_, err := d.UpdateJob(t.Context(), api.UpdateJobRequest{ID: jobOf(id), Schedule: &schedule})
		return err
	})
}

// later makes jobs due a while from now.
func (d *daemons) later(t *testing.T, ids ...int) {
	t.Helper()
	d.schedule(t, time.Now().UTC().Add(soon).Format("*:04"), ids...)
}

// due makes jobs due together at the next minute that leaves time to say so, and a while later, and returns that a moment before.
func (d *daemons) due(t *testing.T, ids []int) time.Time {
	t.Helper()
	minute := time.Now().UTC().Add(10 * time.Second).Truncate(time.Minute).Add(time.Minute)
	d.schedule(t, minute.Format("*:04,")+minute.Add(soon).Format("04"), ids...)
	if time.Until(minute) < time.Second {
		t.Fatalf("to give %d jobs a schedule took until it was due", len(ids))
	}
	time.Sleep(time.Until(minute) - 500*time.Millisecond)
	return minute
}
