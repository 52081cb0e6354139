package daemon_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/config"
	"github.com/tandemd/tandem/pkg/consensus"
	"github.com/tandemd/tandem/pkg/daemon"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/unit/unittest"
	"github.com/tandemd/tandem/pkg/zfs/zfstest"
)

const mib = 1 << 20

// machine is one daemon with real sockets on loopback and a ZFS in memory.
type machine struct {
	t    testing.TB
	conf config.Config
	pool *zfstest.Pool
	api  *api.Client
	stop func()

	daemon *daemon.Daemon
	timing consensus.Timing
	// units are its services, and boot is which run of it this is.
	units *unittest.Manager
	boot  string
	// log takes what the daemon logs, and now is its clock; nil for the usual ones.
	log *zap.Logger
	now func() time.Time
}

func newMachine(tb testing.TB, name string, changes ...func(*config.Config)) *machine {
	tb.Helper()
	m := stoppedMachine(tb, name, changes...)
	m.start()
	return m
}

func (m *machine) configure(name string, changes ...func(*config.Config)) {
	tb := m.t
	tb.Helper()
	dir := tb.TempDir()
	m.conf.NodeName = guest.NodeName(name)
	m.conf.Peer, m.conf.Gossip = freePort(tb), freePort(tb)
	m.conf.StateDir, m.conf.Socket = filepath.Join(dir, "state"), filepath.Join(dir, "tandemd.sock")
	m.conf.Storages = map[string]string{"local-zfs": "tank/guests", "lost": "tank/nowhere"}
	m.conf.Limits.StartSpread = 0
	for _, change := range changes {
		change(&m.conf)
	}
	if err := m.pool.Create("tank/guests", 0, nil); err != nil {
		tb.Fatal(err)
	}
}

// stoppedMachine is a machine whose daemon was never started.
func stoppedMachine(tb testing.TB, name string, changes ...func(*config.Config)) *machine {
	tb.Helper()
	m := &machine{t: tb, conf: config.Default(), pool: zfstest.New(zfstest.Options{Node: name}), timing: consensus.Timing{Heartbeat: time.Second}}
	m.units, m.boot = unittest.New(), "boot-1"
	m.units.MayStart = func(ctx context.Context, id guest.ID) error { return m.api.MayStart(ctx, id) }
	m.configure(name, changes...)
	m.stop = func() {}
	return m
}

// freePort is an address below the ports that connections begin at, so that none takes
// it while its daemon is stopped.
func freePort(tb testing.TB) string {
	tb.Helper()
	var lc net.ListenConfig
	for range 1000 {
		addr := fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(20_000))
		tcp, err := lc.Listen(tb.Context(), "tcp", addr)
		if err != nil {
			continue
		}
		udp, err := lc.ListenPacket(tb.Context(), "udp", addr)
		tcp.Close()
		if err == nil {
			udp.Close()
			return addr
		}
	}
	tb.Fatal("no port is free")
	return ""
}

func (m *machine) start() {
	m.t.Helper()
	if err := m.tryStart(); err != nil {
		m.t.Fatalf("%s: %v", m.conf.NodeName, err)
	}
}

// tryStart starts the daemon, or says why it does not start.
func (m *machine) tryStart() error {
	log := zap.NewNop()
	if testing.Verbose() {
		log = zaptest.NewLogger(m.t).Named(string(m.conf.NodeName))
	}
	if m.log != nil {
		log = m.log
	}
	d, err := daemon.New(daemon.Options{
		Config: m.conf, Version: "test", Logger: log, ZFS: m.pool, Timing: m.timing, Now: m.now,
		Units: m.units, BootID: m.boot,
	})
	if err != nil {
		return err
	}
	m.api = api.NewClient(m.conf.Socket)
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- d.Run(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-done:
		cancel()
		return err
	}
	m.daemon = d
	stopped := false
	m.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			m.t.Errorf("%s: %v", m.conf.NodeName, err)
		}
	}
	m.t.Cleanup(m.stop)
	return nil
}

// cluster is n machines in one cluster.
func cluster(t *testing.T, n int, changes ...func(*config.Config)) []*machine {
	t.Helper()
	first := newMachine(t, "n1", changes...)
	if _, err := first.api.InitCluster(t.Context(), api.InitRequest{Name: "lab"}); err != nil {
		t.Fatal(err)
	}
	all := []*machine{first}
	for i := 2; i <= n; i++ {
		m := newMachine(t, fmt.Sprintf("n%d", i))
		m.joinPatiently(first)
		all = append(all, m)
	}
	return all
}

// until asks a question whose answer takes real time to become true: much of it where the machine is busy.
func until(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	deadline := time.NewTimer(3 * time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			tb.Fatalf("after three minutes still not: %s", what)
		}
	}
}

func (m *machine) disk(name string, data string) {
	m.t.Helper()
	if err := m.pool.Create("tank/guests/"+name, 16*mib, nil); err != nil {
		m.t.Fatal(err)
	}
	m.write(name, data)
}

func (m *machine) write(name, data string) {
	m.t.Helper()
	block := make([]byte, 4096)
	copy(block, data)
	if err := m.pool.Write("tank/guests/"+name, 0, block); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) addGuest(id guest.ID) {
	m.t.Helper()
	_, err := m.api.AddGuest(m.t.Context(), api.AddGuestRequest{ID: id, Type: guest.VM, Name: "web", Volumes: []guest.Volume{volume(id)}})
	if err != nil {
		m.t.Fatal(err)
	}
}

func volume(id guest.ID) guest.Volume {
	return guest.Volume{Storage: "local-zfs", Name: "vm-" + id.String() + "-disk-0"}
}

func (m *machine) job(id guest.JobID) api.JobStatus {
	m.t.Helper()
	s, err := m.api.Status(m.t.Context(), api.Filter{})
	if err != nil {
		m.t.Fatal(err)
	}
	for _, j := range s.Jobs {
		if j.ID == id {
			return j
		}
	}
	return api.JobStatus{}
}

// syncNow runs a job and waits until status shows its success.
func (m *machine) syncNow(id guest.JobID) api.JobStatus {
	m.t.Helper()
	// A job that was made on another node is known here a moment later.
	until(m.t, "job "+id.String()+" is known", func() bool { _, err := m.api.Job(m.t.Context(), id); return err == nil })
	begin := m.job(id).LastTry
	if err := m.api.ScheduleNow(m.t.Context(), id); err != nil {
		m.t.Fatal(err)
	}
	var j api.JobStatus
	until(m.t, "a run of job "+id.String()+" has ended", func() bool {
		j = m.job(id)
		return j.LastTry.After(begin) && j.State != api.StateRunning
	})
	if j.State != api.StateOK {
		m.t.Fatalf("job %s: %s: %s (%s)", id, j.State, j.Error, j.Hint)
	}
	return j
}

func (m *machine) replica(id guest.ID) string {
	m.t.Helper()
	b, err := m.pool.Read("tank/guests/" + volume(id).Name)
	if err != nil {
		m.t.Fatal(err)
	}
	return strings.TrimRight(string(b), "\x00")
}

func TestCluster_ReplicatesOverRealSockets(t *testing.T) {
	t.Parallel()
	n := cluster(t, 3)
	n[0].disk("vm-100-disk-0", "first")
	n[0].addGuest(100)
	id := guest.JobID{Guest: 100}
	// The job is made on another node than the one that runs it.
	if _, err := n[2].api.CreateJob(t.Context(), api.CreateJobRequest{ID: id, Target: "n2"}); err != nil {
		t.Fatal(err)
	}
	if j := n[0].syncNow(id); j.Kind != "full" || j.Bytes == 0 || j.Lag == nil || j.Lagging {
		t.Errorf("after the first sync: %+v", j)
	}
	if got := n[1].replica(100); got != "first" {
		t.Errorf("the replica holds %q", got)
	}
	n[0].write("vm-100-disk-0", "again")
	if j := n[0].syncNow(id); j.Kind != "incremental" {
		t.Errorf("the second sync was %s", j.Kind)
	}
	if got := n[1].replica(100); got != "again" {
		t.Errorf("the replica holds %q", got)
	}
	runs, err := n[2].api.Runs(t.Context(), id, 0)
	if err != nil || len(runs) != 2 || runs[0].Kind != "incremental" || len(runs[0].Log) == 0 {
		t.Errorf("the runs as another node tells them: %+v, %v", runs, err)
	}
}

// The node that is asked for a change learns of it before its own follower does.
func TestCluster_TheScheduleRunsOnTheNodeThatWasAsked(t *testing.T) {
	t.Parallel()
	n := cluster(t, 1)
	n[0].disk("vm-100-disk-0", "x")
	n[0].addGuest(100)
	second := newMachine(t, "n2")
	token, err := n[0].api.Token(t.Context(), api.TokenRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := second.api.Join(t.Context(), api.JoinRequest{Address: token.Address, Token: token.Text}); err != nil {
		t.Fatal(err)
	}
	id := guest.JobID{Guest: 100}
	if _, err := n[0].api.CreateJob(t.Context(), api.CreateJobRequest{ID: id, Target: "n2"}); err != nil {
		t.Fatal(err)
	}
	until(t, "the owner's loop has the job", func() bool { return n[0].job(id).State == api.StateOK && !n[0].job(id).NextSync.IsZero() })
	n[0].stop()
	n[0].start()
	until(t, "after a restart it knows the member that joined", func() bool {
		c, err := n[0].api.Cluster(t.Context())
		return err == nil && len(c.Members) == 2
	})
}

func TestCluster_GoesOnAfterARestart(t *testing.T) {
	t.Parallel()
	n := cluster(t, 2)
	n[0].disk("vm-100-disk-0", "first")
	n[0].addGuest(100)
	id := guest.JobID{Guest: 100}
	if _, err := n[0].api.CreateJob(t.Context(), api.CreateJobRequest{ID: id, Target: "n2"}); err != nil {
		t.Fatal(err)
	}
	n[0].syncNow(id)
	for _, m := range n {
		m.stop()
	}
	for _, m := range n {
		m.start()
	}
	until(t, "both are quorate again", func() bool {
		c, err := n[0].api.Cluster(t.Context())
		return err == nil && c.Quorate && c.Leader != ""
	})
	n[0].write("vm-100-disk-0", "after")
	until(t, "the target is alive again", func() bool { return n[0].job(id).Lag != nil })
	if j := n[0].syncNow(id); j.Kind != "incremental" {
		t.Errorf("the sync after a restart was %s", j.Kind)
	}
	if got := n[1].replica(100); got != "after" {
		t.Errorf("the replica holds %q", got)
	}
}

func TestCluster_StatusOfALonelyNode(t *testing.T) {
	t.Parallel()
	n := cluster(t, 2)
	until(t, "both vote", func() bool {
		c, err := n[0].api.Cluster(t.Context())
		return err == nil && c.Voters == 2
	})
	n[0].disk("vm-100-disk-0", "first")
	n[0].addGuest(100)
	n[1].stop()
	until(t, "the majority is gone", func() bool {
		c, err := n[0].api.Cluster(t.Context())
		return err == nil && !c.Quorate
	})
	s, err := n[0].api.Status(t.Context(), api.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]guest.NodeName{"n2"}, s.Silent); d != "" {
		t.Error(d)
	}
	_, err = n[0].api.CreateJob(t.Context(), api.CreateJobRequest{ID: guest.JobID{Guest: 100}, Target: "n2"})
	var ae *api.Error
	if !errors.As(err, &ae) || ae.Code != api.CodeNotQuorate || !strings.Contains(ae.Message, "1 of 2 votes, 2 needed") {
		t.Errorf("an edit without a majority: %v", err)
	}
}

func TestBackend_Refusals(t *testing.T) {
	t.Parallel()
	n := cluster(t, 2)
	n[0].disk("vm-100-disk-0", "x")
	n[0].disk("vm-101-disk-0", "y")
	n[0].addGuest(100)
	ctx := t.Context()
	if _, err := n[0].api.CreateJob(ctx, api.CreateJobRequest{ID: guest.JobID{Guest: 100}, Target: "n2"}); err != nil {
		t.Fatal(err)
	}
	createJob := func(r api.CreateJobRequest) func() error {
		return func() error { _, err := n[0].api.CreateJob(ctx, r); return err }
	}
	add := func(r api.AddGuestRequest) func() error {
		return func() error { _, err := n[0].api.AddGuest(ctx, r); return err }
	}
	lost := guest.Volume{Storage: "lost", Name: "vm-101-disk-0"}
	for name, tc := range map[string]struct {
		do   func() error
		want string
	}{
		"job to the own node":    {createJob(api.CreateJobRequest{ID: guest.JobID{Guest: 100, Number: 1}, Target: "n1"}), "choose another node"},
		"second job to a target": {createJob(api.CreateJobRequest{ID: guest.JobID{Guest: 100, Number: 1}, Target: "n2"}), "by job 100-0 already"},
		"unknown node":           {createJob(api.CreateJobRequest{ID: guest.JobID{Guest: 100, Number: 1}, Target: "n9"}), "node n9 is not a member"},
		"unknown guest":          {createJob(api.CreateJobRequest{ID: guest.JobID{Guest: 105}, Target: "n2"}), "guest 105 does not exist"},
		"schedule":               {createJob(api.CreateJobRequest{ID: guest.JobID{Guest: 100, Number: 1}, Target: "n2", Schedule: "monthly"}), "monthly"},
		"missing volume": {
			add(api.AddGuestRequest{ID: 102, Type: guest.VM, Name: "w", Volumes: []guest.Volume{volume(102)}}), "tank/guests/vm-102-disk-0",
		},
		"missing volume elsewhere": {
			add(api.AddGuestRequest{ID: 101, Type: guest.VM, Name: "w", Node: "n2", Volumes: []guest.Volume{volume(101)}}),
			"tank/guests/vm-101-disk-0",
		},
		"storage without dataset": {add(api.AddGuestRequest{ID: 101, Type: guest.VM, Name: "w", Volumes: []guest.Volume{lost}}), "tank/nowhere"},
		"guest twice":             {add(api.AddGuestRequest{ID: 100, Type: guest.VM, Name: "w", Volumes: []guest.Volume{volume(101)}}), "exists already"},
		"init twice":              {func() error { _, err := n[0].api.InitCluster(ctx, api.InitRequest{}); return err }, "is in cluster"},
		"status of nobody":        {func() error { _, err := n[0].api.Status(ctx, api.Filter{Node: "n9"}); return err }, "node n9 is not a member"},
		"run of nothing":          {func() error { return n[0].api.ScheduleNow(ctx, guest.JobID{Guest: 100, Number: 7}) }, "job 100-7 does not exist"},
	} {
		t.Run(name, func(t *testing.T) {
			before := ledgerIndependent(t, n[0])
			err := tc.do()
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an error that says %q", err, tc.want)
			}
			if d := cmp.Diff(before, ledgerIndependent(t, n[0])); d != "" {
				t.Errorf("it changed something:\n%s", d)
			}
		})
	}
}

// ledgerIndependent is all guests and jobs.
func ledgerIndependent(t *testing.T, m *machine) [2]any {
	t.Helper()
	g, err := m.api.Guests(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	j, err := m.api.Jobs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return [2]any{g, j}
}

func TestJoin_Refusals(t *testing.T) {
	t.Parallel()
	first := newMachine(t, "n1")
	if _, err := first.api.InitCluster(t.Context(), api.InitRequest{Name: "lab"}); err != nil {
		t.Fatal(err)
	}
	token, err := first.api.Token(t.Context(), api.TokenRequest{})
	if err != nil {
		t.Fatal(err)
	}
	second, third := newMachine(t, "n2"), newMachine(t, "n3")
	if _, err := second.api.Join(t.Context(), api.JoinRequest{Address: third.conf.Peer, Token: token.Text}); err == nil {
		t.Error("joined at a node that did not make the token")
	}
	if _, err := second.api.Status(t.Context(), api.Filter{}); err == nil || !strings.Contains(err.Error(), "in no cluster") {
		t.Errorf("status outside a cluster: %v", err)
	}
	if _, err := second.api.Join(t.Context(), api.JoinRequest{Address: token.Address, Token: token.Text}); err != nil {
		t.Fatal(err)
	}
	_, err = third.api.Join(t.Context(), api.JoinRequest{Address: token.Address, Token: token.Text})
	if err == nil || !strings.Contains(err.Error(), "was not accepted") {
		t.Errorf("a used token: %v", err)
	}
	if _, err := third.api.Status(t.Context(), api.Filter{}); err == nil {
		t.Error("a node that was refused thinks it is in a cluster")
	}
}

func TestCluster_TheNodesRateLimitHolds(t *testing.T) {
	t.Parallel()
	n := cluster(t, 2, func(c *config.Config) { c.Limits.RateLimit = 1 })
	n[0].disk("vm-100-disk-0", "x")
	noise := make([]byte, 3*mib)
	for i := range noise {
		noise[i] = byte(i * 7919 >> 3)
	}
	if err := n[0].pool.Write("tank/guests/vm-100-disk-0", 4096, noise); err != nil {
		t.Fatal(err)
	}
	n[0].addGuest(100)
	id := guest.JobID{Guest: 100}
	if _, err := n[0].api.CreateJob(t.Context(), api.CreateJobRequest{ID: id, Target: "n2"}); err != nil {
		t.Fatal(err)
	}
	// At 1 MB/s, of which a quarter goes at once, 3 MiB cannot be faster.
	if j := n[0].syncNow(id); j.Bytes < 3*mib || j.Duration < 2.5 {
		t.Errorf("%d bytes in %.1f s at 1 MB/s", j.Bytes, j.Duration)
	}
}

func TestDeleteJob_CleansBothSides(t *testing.T) {
	t.Parallel()
	n := cluster(t, 2)
	n[0].disk("vm-100-disk-0", "x")
	n[0].addGuest(100)
	id := guest.JobID{Guest: 100}
	if _, err := n[0].api.CreateJob(t.Context(), api.CreateJobRequest{ID: id, Target: "n2"}); err != nil {
		t.Fatal(err)
	}
	n[0].syncNow(id)
	if _, err := n[1].api.DeleteJob(t.Context(), api.DeleteJobRequest{ID: id}); err != nil {
		t.Fatal(err)
	}
	until(t, "the job is gone", func() bool {
		jobs, err := n[0].api.Jobs(t.Context())
		return err == nil && len(jobs) == 0
	})
	if _, err := n[1].pool.Read("tank/guests/vm-100-disk-0"); err == nil {
		t.Error("the replica is still there")
	}
	if got := n[0].replica(100); got != "x" {
		t.Errorf("the owner's data is %q", got)
	}
	own, err := n[0].pool.List(t.Context(), "tank/guests/vm-100-disk-0")
	if err != nil || len(own[0].Snapshots) != 0 {
		t.Errorf("the owner keeps %+v, %v", own, err)
	}
}
