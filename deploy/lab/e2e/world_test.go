//go:build lab

package e2e_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tandemd/tandem/deploy/lab"
	"github.com/tandemd/tandem/pkg/api"
)

// These are for the hands of a person who looks into a failure.
var (
	keep = flag.Bool("keep", false, "leave the machines of the lab e2e up; labctl --name e2e down ends them")
	// These make it longer.
	powerCuts  = flag.Int("power-cuts", 3, "how often the power of all machines is cut")
	kills      = flag.Int("kills", 8, "how often a daemon is killed in the middle of syncs")
	syncCuts   = flag.Int("sync-cuts", 2, "how often the power of a machine is cut in the middle of syncs")
	moveKills  = flag.Int("move-kills", 6, "how often a migration is ended in its middle; 33: in every phase, on either side, by process and by power")
	movesBack  = flag.Int("migrations", 1, "how often a guest is migrated there and back")
	bootGuests = flag.Bool("boot-guests", false, "guests that start at boot are there when the power of all machines is cut")
	ownUnits   = flag.Bool("own-units", false, "have a virtual machine and a container run under the units that Tandem ships, and move")
	pauseFor   = flag.Duration("pause", 90*time.Second, "for how long the owner of a guest stands still")
	contract   = flag.String("contract", "^TestZFS_AChangedByteIsNoReplica$", "which of pkg/zfs's tests run on real ZFS")
	damages    = flag.Int("damages", 50, "at how many offsets a byte of a stream is changed")
	seed       = flag.Uint64("seed", uint64(time.Now().UnixNano()), "what steers the faults") //nolint:gosec // any number will do
	in         = flag.String("in", "", "use the machines of this lab, which is up and fresh, and leave them up")
)

// world is the lab with its cluster; TestMain makes it.
var world struct {
	ctx   context.Context // ends when the run is interrupted
	lab   *lab.Lab
	nodes map[string]node
	spent spent // join tokens; makeCluster notes them
}

// whole is how long everything together may take, the image and the faults apart, each of which takes up to cut.
const (
	whole = 60 * time.Minute
	cut   = 4 * time.Minute
)

// errSetUp is the verdict of a run whose machines did not come up.
var errSetUp = errors.New("the lab is not ready for the tests")

func TestMain(m *testing.M) {
	flag.Parse()
	// They wait for minutes, not for processors.
	if err := flag.Set("test.parallel", "16"); err != nil {
		panic(err) // the flag's name is wrong
	}
	os.Exit(runInLab(m))
}

// runInLab makes the lab, runs the tests and removes the lab, whatever comes between.
func runInLab(m *testing.M) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, whole+*pauseFor+time.Duration(*powerCuts+*kills+*syncCuts+*moveKills+*movesBack)*cut)
	defer cancel()
	// A write to an output that nobody reads any more would kill us before the machines are down.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	go endWithParent(cancel, os.Getppid())
	opts := lab.Options{Name: "e2e", Log: os.Stdout}
	if err := makeLab(ctx, opts); err != nil {
		fmt.Fprintln(os.Stderr, errors.Join(errSetUp, err))
		if world.lab != nil {
			dump(os.Stderr)
			downLab(opts)
		}
		return 1
	}
	defer downLab(opts)
	code := m.Run()
	for _, reason := range reasons.told {
		fmt.Println("ended:", reason)
	}
	return code
}

// endWithParent ends the run as soon as `go test` is gone: nobody would see its result, and the machines must not stay.
func endWithParent(cancel context.CancelFunc, parent int) {
	fd, err := unix.PidfdOpen(parent, 0)
	if err != nil {
		fd = -1 // An old kernel: then it is seen within the time of the poll.
	}
	for os.Getppid() == parent {
		// It returns at once when the process ends.
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 1000) //nolint:gosec // a descriptor
	}
	cancel()
}

func downLab(opts lab.Options) {
	if *keep || *in != "" {
		fmt.Println("the machines stay up; labctl list shows them")
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := lab.Down(ctx, opts); err != nil {
		fmt.Fprintln(os.Stderr, "end the lab:", err)
	}
}

// makeLab starts the machines and installs Tandem; the tests make the cluster.
func makeLab(ctx context.Context, opts lab.Options) error {
	l, err := freshLab(ctx, opts)
	if err != nil {
		return err
	}
	world.ctx, world.lab, world.nodes = ctx, l, map[string]node{}
	for _, machine := range l.Machines() {
		world.nodes[machine.Name()] = node{machine}
	}
	tree, err := lab.FindTree(".")
	if err != nil {
		return err
	}
	return l.Push(ctx, tree)
}

func freshLab(ctx context.Context, opts lab.Options) (*lab.Lab, error) {
	if *in != "" {
		return lab.Open(*in, opts)
	}
	// What a killed run left is in the way.
	if err := lab.Down(ctx, opts); err != nil {
		return nil, err
	}
	return lab.Up(ctx, opts)
}

// node is a machine as its operator sees it.
type node struct{ *lab.Machine }

func n(name string) node { return world.nodes[name] }

// sh runs a command that must succeed and returns what it printed.
func (o node) sh(t *testing.T, format string, args ...any) string {
	t.Helper()
	start := time.Now()
	for {
		text, err := o.Output(world.ctx, fmt.Sprintf(format, args...))
		if err == nil {
			return text
		}
		if !passing(err) || time.Since(start) > time.Minute || !pause(world.ctx, 2*time.Second) {
			fatal(t, err.Error())
		}
		t.Log("again: ", err)
	}
}

// passing says that a command failed before it did anything, for a reason that passes. An emulated machine that gets no processor for
// seconds is away for the others. The first opener of a zvol sees an errno of the kernel's own, ERESTARTSYS, where ZFS has the lock of
// its pools, as while one is created.
func passing(err error) bool {
	return strings.Contains(err.Error(), "not quorate") || strings.Contains(err.Error(), "Unknown error 512")
}

// reasons are why tests ended, told once more after everything else: the dumps before it are long.
var reasons struct {
	sync.Mutex

	told []string
}

// fatal ends the test.
func fatal(t *testing.T, reason string) {
	t.Helper()
	reasons.Lock()
	reasons.told = append(reasons.told, fmt.Sprintf("%s: %.900s", t.Name(), reason))
	reasons.Unlock()
	t.Fatal(reason)
}

// run runs a command whatever its exit code.
func (o node) run(t *testing.T, format string, args ...any) lab.Result {
	t.Helper()
	result, err := o.Run(world.ctx, fmt.Sprintf(format, args...))
	must(t, err)
	return result
}

// ask decodes the JSON of `tandem ARGS -o json`. The exit code is not looked at: status ends with 1 where a job has failed.
func (o node) ask(t *testing.T, answer any, format string, args ...any) {
	t.Helper()
	command := "tandem " + fmt.Sprintf(format, args...) + " -o json"
	result := o.run(t, "%s", command)
	if err := json.Unmarshal([]byte(result.Stdout), answer); err != nil {
		fatal(t, fmt.Sprintf("on %s: %s: exit code %d, no JSON (%v): %s%s", o.Name(), command, result.Code, err, result.Stdout, result.Stderr))
	}
}

// refuses runs a command that must fail, with a message that has all these words; the message is returned.
func (o node) refuses(t *testing.T, command string, words ...string) string {
	t.Helper()
	var said string
	// An emulated machine that gets no processor for seconds is away for the others. They say so, and nothing of the mistake.
	eventually(t, o.Name()+": "+command, time.Minute, 2*time.Second, func() (bool, string) {
		result := o.run(t, "%s", command)
		said = strings.TrimSpace(result.Stderr)
		if result.Code == 0 {
			t.Fatalf("on %s: %s: exit code 0, want a refusal; it printed: %s", o.Name(), command, result.Stdout)
		}
		if strings.Contains(said, "goroutine ") {
			t.Fatalf("on %s: %s: panic: %s", o.Name(), command, said)
		}
		for _, word := range words {
			if !strings.Contains(said, word) {
				return !away(result), fmt.Sprintf("the error does not name %q: %s", word, said)
			}
		}
		return true, ""
	})
	t.Log("    " + strings.ReplaceAll(said, "\n", "\n    "))
	for _, word := range words {
		if !strings.Contains(said, word) {
			t.Errorf("on %s: %s: the error does not name %q: %s", o.Name(), command, word, said)
		}
	}
	return said
}

// away tells whether a command failed because of nodes that it needs and that did not answer.
func away(result lab.Result) bool {
	const cannotTell = 2
	return result.Code == cannotTell || strings.Contains(result.Stderr, "not quorate")
}

// clock is the node's own time: what its records are compared with.
func (o node) clock(t *testing.T) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339Nano, o.sh(t, "date -u +%%FT%%T.%%NZ"))
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func (o node) status(t *testing.T) api.Status {
	t.Helper()
	var status api.Status
	o.ask(t, &status, "status")
	return status
}

// job is what the node's status says of a job.
func (o node) job(t *testing.T, id string) api.JobStatus {
	t.Helper()
	for _, job := range o.status(t).Jobs {
		if job.ID.String() == id {
			return job
		}
	}
	t.Fatalf("on %s: tandem status does not know job %s", o.Name(), id)
	return api.JobStatus{}
}

// runs are the recorded runs of a job, oldest first; asked of its owner.
func (o node) runs(t *testing.T, id string) []api.Run {
	t.Helper()
	var history struct{ Runs []api.Run }
	o.ask(t, &history, "history %s --runs 100", id)
	return history.Runs
}

// pause waits, and says false where the run is over.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// eventually asks every interval until done says true, and fails with the last detail when the time is over.
func eventually(t *testing.T, what string, within, interval time.Duration, done func() (ok bool, detail string)) {
	t.Helper()
	start := time.Now()
	for {
		ok, detail := done()
		if ok {
			t.Logf("%s: after %.1f s", what, time.Since(start).Seconds())
			return
		}
		if time.Since(start) > within {
			fatal(t, fmt.Sprintf("%s: not within %s; last seen: %s", what, within, detail))
		}
		if !pause(world.ctx, interval) {
			t.Fatal(context.Cause(world.ctx))
		}
	}
}

// synced waits for a good run of the job that began after a moment of the owner's clock, as its schedule brings it.
func (o node) synced(t *testing.T, id string, after time.Time) api.Run {
	t.Helper()
	var found api.Run
	eventually(t, "job "+id+" has synced by its schedule", 4*time.Minute, 2*time.Second, func() (bool, string) {
		runs := o.runs(t, id)
		for i, run := range runs {
			if run.Start.After(after) && !run.End.IsZero() && run.Error == "" {
				found = run
				if i > 0 && runs[i-1].Error == "" && runs[i-1].End.After(after) {
					found = together(runs[i-1], run) // It had begun before, and may have taken its snapshot after.
				}
				return true, ""
			}
		}
		if len(runs) == 0 {
			return false, "it has not run yet"
		}
		last, _ := json.Marshal(runs[len(runs)-1])
		return false, string(last)
	})
	return found
}

// together is what two runs, one after the other, have brought.
func together(first, second api.Run) api.Run {
	second.Start, second.Bytes = first.Start, first.Bytes+second.Bytes
	if first.Kind != "nothing" {
		second.Kind = first.Kind
	}
	return second
}

// onFailure shows what every node thinks, once the test has failed.
func onFailure(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() && world.ctx.Err() == nil {
			var text strings.Builder
			dump(&text)
			t.Log(text.String())
		}
	})
}

func dump(to interface{ WriteString(string) (int, error) }) {
	for _, machine := range world.lab.Machines() {
		for _, command := range []string{
			"timeout 30 tandem status", "zfs list -t all -r -o name,guid,used,readonly,mounted tank",
			"journalctl -u tandemd -n 150 --no-pager -o short-precise", "tail -n 30 /var/log/kern.log 2>/dev/null || dmesg | tail -n 20",
		} {
			result, err := machine.Run(world.ctx, command)
			fmt.Fprintf(writer{to}, "---- %s: %s (exit code %d, %v)\n%s%s\n", machine.Name(), command, result.Code, err, result.Stdout, result.Stderr)
		}
	}
}

// writer makes an io.Writer of what takes strings.
type writer struct {
	to interface{ WriteString(string) (int, error) }
}

func (w writer) Write(p []byte) (int, error) { return w.to.WriteString(string(p)) }
