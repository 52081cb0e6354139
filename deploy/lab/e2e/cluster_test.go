//go:build lab

package e2e_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/guest"
)

// storages are what the nodes' configurations say; n3 has one whose dataset is not there, and n2 one whose pool comes and goes.
const storages = "[storages]\nlocal-zfs = \"tank/guests\"\n"

func (o node) config() string {
	text := fmt.Sprintf("node_name = %q\npeer = \"%s:7947\"\ngossip = \"%s:7946\"\n\n%s", o.Name(), o.Address(), o.Address(), storages)
	switch o.Name() {
	case "n2":
		text += "small = \"" + smallPool + "/guests\"\n"
	case "n3":
		text = "retry = [\"20s\"]\n" + text + "small = \"tank/small\"\nabsent = \"tank/absent\"\n"
	}
	return text
}

func (o node) write(t *testing.T, path, text string) {
	t.Helper()
	o.sh(t, "mkdir -p $(dirname %[1]s) && cat >%[1]s <<'END'\n%[2]s\nEND", path, strings.TrimSuffix(text, "\n"))
}

// TestTandem is the whole story on one cluster: it is made, everything that leaves the daemons alone runs side by side, then
// the daemons are killed and stopped.
func TestTandem(t *testing.T) {
	onFailure(t)
	t.Log(world.lab.Versions())
	makeCluster(t)
	if t.Failed() {
		return
	}
	t.Run("quiet", func(t *testing.T) {
		t.Run("zvol", replicateDisk)
		t.Run("filesystem", replicateTree)
		t.Run("foreign", refuseForeign)
		t.Run("input", refuseBadInput)
		t.Run("strangers", refuseStrangers)
		t.Run("contract", keepContract)
		t.Run("units", keepUnitContract)
		t.Run("pool", survivePoolTrouble)
		t.Run("diverged", setAside)
	})
	if t.Failed() {
		return
	}
	t.Run("status", tellTruth)
	t.Run("pace", keepPace)
	if t.Failed() {
		return
	}
	t.Run("stop", surviveStop)
	if t.Failed() {
		return
	}
	t.Run("move", moveWorker)
	if t.Failed() {
		return
	}
	if *ownUnits {
		t.Run("guests", runGuests)
	}
	if t.Failed() {
		return
	}
	t.Run("kills", surviveKills)
	if t.Failed() {
		return
	}
	t.Run("quorum", keepQuorum)
	if t.Failed() {
		return
	}
	t.Run("example", followExample)
}

// spent are join tokens that must not open the door any more.
type spent struct {
	used, expiring, wrong string
	expires               time.Time // of expiring, by n1's clock
}

// makeCluster brings the three daemons up and together, as docs/operate says.
func makeCluster(t *testing.T) {
	t.Helper()
	for _, name := range []string{"n1", "n2", "n3"} {
		n(name).write(t, "/etc/tandem/tandemd.toml", n(name).config())
		// Type=notify: once this returns the daemon serves.
		n(name).sh(t, "systemctl enable --now tandemd && test -S /run/tandem/tandemd.sock")
		n(name).refuses(t, "tandem cluster status", "cluster")
	}
	if got := n("n1").sh(t, "stat -c '%%a %%U:%%G' /run/tandem/tandemd.sock; stat -c %%a /var/lib/tandem"); got != "660 root:tandem\n700" {
		t.Errorf("modes of the socket and the state folder: %q, want 660 root:tandem and 700", got)
	}
	n("n1").sh(t, "tandem cluster init")
	s := &world.spent
	expiring := n("n1").token(t, "--ttl 1m")
	s.expiring, s.expires = expiring.Text, expiring.Expires
	used := n("n1").token(t, "")
	s.used = used.Text
	n("n2").sh(t, "tandem cluster join %s %s", used.Address, used.Text)

	other := n("n1").token(t, "")
	s.wrong = spoil(other.Text)
	before := n("n1").members(t)
	n("n3").refuses(t, fmt.Sprintf("tandem cluster join %s %s", used.Address, s.used), "token")
	n("n3").refuses(t, fmt.Sprintf("tandem cluster join %s %s", used.Address, s.wrong), "token")
	n("n3").refuses(t, "tandem cluster status", "cluster")
	if after := n("n1").members(t); after != before {
		t.Errorf("members after refused joins: %s, before: %s", after, before)
	}
	n("n3").sh(t, "echo %s | tandem cluster join %s -", other.Text, used.Address)

	eventually(t, "all nodes see three voting members alive", time.Minute, time.Second, func() (bool, string) {
		for _, name := range []string{"n1", "n2", "n3"} {
			var cluster api.Cluster
			n(name).ask(t, &cluster, "cluster status")
			if !cluster.Quorate || cluster.Voters != 3 || cluster.Votes != 3 || len(cluster.Members) != 3 {
				return false, fmt.Sprintf("%s: %+v", name, cluster)
			}
		}
		return true, ""
	})
}

func (o node) token(t *testing.T, options string) api.Token {
	t.Helper()
	var answer struct{ Token api.Token }
	o.ask(t, &answer, "cluster token %s", options)
	if answer.Token.Text == "" {
		t.Fatal("tandem cluster token: no token")
	}
	return answer.Token
}

// members are the names of the members that a node knows.
func (o node) members(t *testing.T) string {
	t.Helper()
	var cluster api.Cluster
	o.ask(t, &cluster, "cluster status")
	var names []string
	for _, member := range cluster.Members {
		names = append(names, string(member.Name))
	}
	return strings.Join(names, " ")
}

// tellTruth compares what every node says of the jobs with what is on the disks.
func tellTruth(t *testing.T) {
	onFailure(t)
	newest := n("n2").sh(t, "zfs list -Hp -d1 -t snapshot -o name -s createtxg tank/guests/vm-100-disk-0 | cut -d@ -f2 | grep ^tandem_ | tail -n 1")
	for _, name := range []string{"n1", "n2", "n3"} {
		// An emulated machine that gets no processor for seconds makes the others elect a leader, and status says so.
		eventually(t, name+" says that all is well", time.Minute, 2*time.Second, func() (bool, string) {
			status := n(name).status(t)
			return string(status.Node) == name && len(status.Silent) == 0 && status.Cluster.Quorate,
				fmt.Sprintf("node %s, silent %v, quorate %v", status.Node, status.Silent, status.Cluster.Quorate)
		})
		for _, id := range []string{"100-0", "200-0"} {
			job := n(name).job(t, id)
			if job.State != api.StateOK && job.State != api.StateRunning || job.FailCount != 0 || job.Error != "" {
				t.Errorf("%s: job %s: state %s, %d failures, %q", name, id, job.State, job.FailCount, job.Error)
			}
			if job.Source != "n1" || job.Target != "n2" || job.Schedule != "*/1" {
				t.Errorf("%s: job %s: %s to %s, %s", name, id, job.Source, job.Target, job.Schedule)
			}
			if job.Lag == nil || *job.Lag < 0 || *job.Lag > 150 {
				t.Errorf("%s: job %s: lag %v, want less than two minutes and a bit", name, id, job.Lag)
			}
			if id == "100-0" && sequence(t, job.Point) < sequence(t, newest) {
				t.Errorf("%s: job %s: newest point %s, on the disk is %s", name, id, job.Point, newest)
			}
		}
		foreign := n(name).job(t, "300-0")
		if foreign.FailCount == 0 || foreign.Error == "" || !foreign.LastSync.IsZero() || foreign.Lag != nil {
			t.Errorf("%s: job 300-0, which cannot work: %d failures, error %q, last sync %s, lag %v",
				name, foreign.FailCount, foreign.Error, foreign.LastSync, foreign.Lag)
		}
	}
	lines := n("n1").sh(t, "journalctl -u tandemd JOB=100-0 -o cat --no-pager | wc -l")
	if lines == "0" {
		t.Error("journalctl -u tandemd JOB=100-0 shows nothing")
	}
	if log := n("n1").sh(t, "tandem log 100-0"); !strings.Contains(log, "100-0") {
		t.Errorf("tandem log 100-0: %q", log)
	}
}

// sequence is the number of a point among its owner's.
func sequence(t *testing.T, point string) uint64 {
	t.Helper()
	name, err := guest.ParseSnapshotName(strings.TrimSpace(point))
	must(t, err)
	return name.Seq
}
