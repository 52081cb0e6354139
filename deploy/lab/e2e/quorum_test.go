//go:build lab

package e2e_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tandemd/tandem/deploy/lab"
	"github.com/tandemd/tandem/pkg/api"
)

var all = []string{"n1", "n2", "n3"}

// healing is how long the cluster may take to be one again, from when all daemons run and hear each other.
const healing = 30 * time.Second

// keepQuorum takes nodes away and brings them back, and looks at what the cluster agrees on meanwhile.
func keepQuorum(t *testing.T) {
	onFailure(t)
	for i, name := range all {
		id, target := 600+i, all[(i+1)%len(all)]
		n(name).sh(t, "zfs create -V 16M tank/guests/vm-%[1]d-disk-0 && tandem guest add %[1]d --type vm --name agreed-%[1]d --volume local-zfs:vm-%[1]d-disk-0", id)
		n(name).sh(t, "tandem create-local-job %d-0 %s --disable", id, target)
	}
	t.Run("forced", goOnAlone)
	if t.Failed() {
		return
	}
	t.Run("yield", yieldToMajority)
	if t.Failed() {
		return
	}
	t.Run("power", losePower)
	if t.Failed() {
		return
	}
	t.Run("witness", voteWithoutStorage)
}

func (o node) cluster(t *testing.T) api.Cluster {
	t.Helper()
	var cluster api.Cluster
	o.ask(t, &cluster, "cluster status")
	return cluster
}

// edited waits until an edit is taken.
func (o node) takes(t *testing.T, job, comment string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s edits job %s", o.Name(), job), time.Minute, time.Second, func() (bool, string) {
		result := o.run(t, "tandem update %s --comment %s", job, comment)
		return result.Code == 0, result.Stderr
	})
}

// comment is what a node's own copy of the ledger says of a job.
func (o node) comment(t *testing.T, job string) string {
	t.Helper()
	return o.sh(t, "tandem read %s -o json | sed -n 's/.*\"comment\": *\"\\([^\"]*\\)\".*/\\1/p'", job)
}

// alone waits until a node sees that it has no majority.
func (o node) alone(t *testing.T) {
	t.Helper()
	eventually(t, o.Name()+" is not quorate", time.Minute, time.Second, func() (bool, string) {
		cluster := o.cluster(t)
		return !cluster.Quorate && cluster.Votes == 1, fmt.Sprintf("%+v", cluster)
	})
}

// boot starts machines and waits until their daemons run.
func boot(t *testing.T, names ...string) {
	t.Helper()
	var wg sync.WaitGroup
	failed := make([]error, len(names))
	for i, name := range names {
		wg.Go(func() {
			if err := n(name).Start(world.ctx); err != nil {
				failed[i] = fmt.Errorf("start %s: %w", name, err)
			}
		})
	}
	wg.Wait()
	must(t, errors.Join(failed...))
	for _, name := range names {
		eventually(t, "tandemd runs on "+name, 2*time.Minute, time.Second, func() (bool, string) {
			state := n(name).run(t, "systemctl is-active tandemd")
			return state.Code == 0, state.Stdout
		})
	}
}

// oneTruth waits until every node is quorate and has the same ledger, and returns its generation.
func oneTruth(t *testing.T, within time.Duration) string {
	t.Helper()
	var generation string
	agreed := "tandem list -o json; tandem guest list -o json"
	if *bootGuests {
		agreed += " | jq 'del(.guests[].run)'" // who runs is no truth of the ledger's
	}
	eventually(t, "one truth everywhere", within, time.Second, func() (bool, string) {
		var told []string
		for _, name := range all {
			cluster := n(name).cluster(t)
			jobs := n(name).sh(t, "%s", agreed)
			told = append(told, fmt.Sprintf("quorate %v, generation %s, jobs and guests %s", cluster.Quorate, cluster.Generation, jobs))
			generation = cluster.Generation
		}
		same := told[0] == told[1] && told[1] == told[2] && strings.HasPrefix(told[0], "quorate true")
		return same, strings.Join(told, "\n")
	})
	return generation
}

// whole waits until all members vote and no restriction of forced quorum is left.
func wholeAgain(t *testing.T) {
	t.Helper()
	eventually(t, "all members vote again", 2*time.Minute, time.Second, func() (bool, string) {
		cluster := n("n1").cluster(t)
		return cluster.Quorate && cluster.Voters == 3 && cluster.Votes == 3 && !cluster.Forced, fmt.Sprintf("%+v", cluster)
	})
}

// goOnAlone is the specification's story of a cluster without quorum, and the others' return.
func goOnAlone(t *testing.T) {
	onFailure(t)
	old := n("n1").cluster(t).Generation
	must(t, n("n3").Kill(world.ctx))
	n("n1").takes(t, "600-0", "without-n3")
	n("n2").takes(t, "601-0", "without-n3")
	must(t, n("n2").Kill(world.ctx))
	n("n1").alone(t)
	n("n1").refuses(t, "tandem update 600-0 --comment nobody-agrees", "not quorate", "1 of 3", "2 needed")
	if got := n("n1").comment(t, "600-0"); got != "without-n3" {
		t.Errorf("after a refused edit the comment is %q", got)
	}
	n("n1").refuses(t, "tandem cluster expected 3", "quorate")
	n("n1").refuses(t, "tandem cluster expected none", "none")
	n("n1").sh(t, "tandem cluster expected 1")
	n("n1").takes(t, "600-0", "forced")
	n("n1").refuses(t, "tandem cluster expected 1", "quorate")
	n("n1").refuses(t, "tandem cluster remove n3", "owns guests", "602")
	n("n1").refuses(t, "tandem guest add 610 --type vm --name later --volume local-zfs:vm-600-disk-0", "610")
	if text := n("n1").run(t, "tandem status; tandem cluster status").Stdout; !strings.Contains(text, "forced") {
		t.Errorf("status does not say that quorum was forced:\n%s", text)
	}
	boot(t, "n2", "n3")
	if now := oneTruth(t, healing); now == old {
		t.Errorf("the generation is still %s: what n1 did alone is lost", old)
	}
	for _, name := range all {
		if got := n(name).comment(t, "600-0"); got != "forced" {
			t.Errorf("%s: the comment is %q, want that of the forced node", name, got)
		}
	}
	wholeAgain(t)
}

// yieldToMajority lets a node that was only cut off be forced, while the majority works on.
func yieldToMajority(t *testing.T) {
	onFailure(t)
	must(t, n("n1").Cut(world.ctx))
	mended := false
	defer func() {
		if !mended {
			must(t, n("n1").Mend(world.ctx))
		}
	}()
	n("n1").alone(t)
	n("n2").takes(t, "600-0", "majority")
	before := n("n2").cluster(t)
	n("n1").sh(t, "tandem cluster expected 1")
	n("n1").takes(t, "600-0", "minority")
	forced := n("n1").cluster(t).Generation
	must(t, n("n1").Mend(world.ctx))
	mended = true
	start := time.Now()
	eventually(t, "the forced node yields", healing, time.Second, func() (bool, string) {
		for _, name := range []string{"n2", "n3"} {
			if now := n(name).cluster(t); !now.Quorate || now.Generation != before.Generation || now.Leader != before.Leader {
				t.Errorf("%s, of the majority: quorate %v, generation %s, leader %s", name, now.Quorate, now.Generation, now.Leader)
			}
		}
		now := n("n1").cluster(t)
		return now.Generation == before.Generation, fmt.Sprintf("%+v", now)
	})
	oneTruth(t, max(healing-time.Since(start), time.Second))
	for _, name := range all {
		if got := n(name).comment(t, "600-0"); got != "majority" {
			t.Errorf("%s: the comment is %q, want the majority's", name, got)
		}
	}
	if kept := n("n1").sh(t, "ls /var/lib/tandem/raft"); !strings.Contains(kept, forced) {
		t.Errorf("what n1 decided alone is not kept: %s", kept)
	}
	wholeAgain(t)
}

// losePower cuts the power of all machines at once, in the middle of edits: none that was acknowledged may be lost, and the guests
// that start at boot start once, in their order, on their owners.
func losePower(t *testing.T) {
	onFailure(t)
	t.Logf("seed %d, %d power cuts", *seed, *powerCuts)
	random := rand.New(rand.NewPCG(*seed, 0))
	jobs := []string{"600-0", "601-0", "602-0"}
	row := onBoot(t)
	for round := range *powerCuts {
		ctx, cancel := context.WithCancel(world.ctx)
		var streams []*edits
		for i, name := range all {
			streams = append(streams, n(name).edit(ctx, jobs[i], round))
		}
		for _, s := range streams {
			eventually(t, "edits go on", time.Minute, 200*time.Millisecond, func() (bool, string) { return s.count() > 0, "none yet" })
		}
		pause(world.ctx, time.Duration(random.Int64N(int64(5*time.Second))))
		var wg sync.WaitGroup
		for _, name := range all {
			wg.Go(func() { _ = n(name).Kill(world.ctx) })
		}
		wg.Wait()
		cancel()
		if round == 0 && row != nil { // One node is missing.
			boot(t, "n1", "n2")
			row.started(t, "n1", "n2")
			boot(t, "n3")
		} else {
			boot(t, all...)
		}
		oneTruth(t, healing)
		row.started(t, all...)
		for i, s := range streams {
			s.wg.Wait()
			acknowledged := s.count()
			var number, of int
			got := n("n1").comment(t, jobs[i])
			if _, err := fmt.Sscanf(got, "round%d-edit%d", &of, &number); err != nil || of != round || number < acknowledged {
				t.Errorf("round %d: edit %d of %s was acknowledged, the ledger has %q", round, acknowledged, jobs[i], got)
			}
			t.Logf("round %d: %s: %d edits acknowledged, %q on the ledger", round, jobs[i], acknowledged, got)
		}
	}
	row.remove(t)
}

// edits is a stream of them from one node.
type edits struct {
	wg   sync.WaitGroup
	mu   sync.Mutex
	last int
}

func (e *edits) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.last
}

// edit changes a job again and again until the machine is gone.
func (o node) edit(ctx context.Context, job string, round int) *edits {
	e := &edits{}
	r, w := io.Pipe()
	e.wg.Go(func() {
		lines := bufio.NewScanner(r)
		for lines.Scan() {
			var number int
			if _, err := fmt.Sscanf(lines.Text(), "done %d", &number); err == nil {
				e.mu.Lock()
				e.last = number
				e.mu.Unlock()
			}
		}
	})
	e.wg.Go(func() {
		_, err := o.Stream(ctx, fmt.Sprintf(
			"i=1; while [ $i -lt 10000 ]; do tandem update %s --comment round%d-edit$i >/dev/null 2>&1 && echo done $i; i=$((i+1)); done", job, round,
		), lab.Streams{Stdout: w})
		_ = w.CloseWithError(err)
	})
	return e
}

// voteWithoutStorage makes n3 a witness, whose vote keeps the two others quorate.
func voteWithoutStorage(t *testing.T) {
	onFailure(t)
	var list struct{ Jobs []api.Job }
	n("n1").ask(t, &list, "list")
	for _, job := range list.Jobs {
		if job.Source == "n3" || job.Target == "n3" {
			n("n1").sh(t, "tandem delete %s", job.ID)
		}
	}
	eventually(t, "the jobs of n3 are gone", 2*time.Minute, time.Second, func() (bool, string) {
		list.Jobs = nil
		n("n1").ask(t, &list, "list")
		return !slices.ContainsFunc(list.Jobs, func(j api.Job) bool { return j.Source == "n3" || j.Target == "n3" }), fmt.Sprint(list.Jobs)
	})
	var guests struct{ Guests []api.Guest }
	n("n1").ask(t, &guests, "guest list")
	for _, g := range guests.Guests {
		if g.Owner == "n3" {
			n("n1").sh(t, "tandem guest remove %s", g.ID)
		}
	}
	witness, _, _ := strings.Cut(n("n3").config(), "[storages]")
	n("n3").write(t, "/etc/tandem/tandemd.toml", witness)
	n("n3").sh(t, "systemctl restart tandemd")
	eventually(t, "n3 is a witness", time.Minute, time.Second, func() (bool, string) {
		cluster := n("n1").cluster(t)
		i := slices.IndexFunc(cluster.Members, func(m api.Member) bool { return m.Name == "n3" })
		return cluster.Quorate && cluster.Voters == 3 && len(cluster.Members[i].Storages) == 0, fmt.Sprintf("%+v", cluster)
	})
	n("n2").refuses(t, "tandem create-local-job 600-9 n3", "n3", "storage")
	must(t, n("n1").Kill(world.ctx))
	n("n2").takes(t, "600-0", "with-the-witness")
	boot(t, "n1")
	oneTruth(t, healing)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		fatal(t, err.Error())
	}
}
