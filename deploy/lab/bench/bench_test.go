//go:build lab

package bench_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tandemd/tandem/deploy/lab"
	"github.com/tandemd/tandem/deploy/lab/bench"
)

var (
	rounds    = flag.Int("rounds", 5, "how often every case is measured")
	reference = flag.Int("reference", 1, "in how many of the rounds ssh and syncoid take part where that takes minutes")
	cases     = flag.String("cases", "", "only these cases, with commas between")
	page      = flag.String("page", "", "where the page goes; empty: it is printed only")
	commit    = flag.String("commit", "", "what is measured, for the page")
	keep      = flag.Bool("keep", false, "leave the machine up; labctl --name bench down ends it")
)

// options are those of the machine: what it reads again stays in its memory.
var options = lab.Options{Name: "bench", Nodes: 1, MemoryMiB: 2048, DiskGiB: 12, Log: os.Stdout}

// TestBench runs the contest in a fresh machine, and removes the machine whatever happens.
func TestBench(t *testing.T) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go endWithParent(cancel, os.Getppid())
	if err := lab.Down(ctx, options); err != nil {
		t.Fatal(err)
	}
	defer down(t)
	machine, versions := up(ctx, t)
	load := watchLoad(ctx)
	report := contest(ctx, t, machine)
	if t.Failed() {
		return
	}
	said, err := machine.Output(ctx, "nproc; free -m | awk '/^Mem:/ {print $2}'; systemd-detect-virt || true")
	if err != nil {
		t.Fatal(err)
	}
	facts := strings.Fields(said)
	text := report.Page(bench.Setting{
		Date: time.Now().UTC().Format("2006-01-02 15:04 UTC"), Commit: *commit, Versions: strings.Split(versions, "\n"),
		Machine: fmt.Sprintf("A machine of the lab with %s processors and %s MiB (%s), on a host with %d processors whose load was %.1f, the machine included",
			facts[0], facts[1], facts[2], runtime.NumCPU(), load()),
	})
	fmt.Println(text)
	if *page == "" {
		return
	}
	if err := os.MkdirAll(filepath.Dir(*page), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(*page, []byte(text), 0o644); err != nil { //nolint:gosec // a page for everybody
		t.Fatal(err)
	}
}

// endWithParent ends the run as soon as `go test` is gone: the machine must not stay.
func endWithParent(cancel context.CancelFunc, parent int) {
	for os.Getppid() == parent {
		time.Sleep(time.Second)
	}
	cancel()
}

// watchLoad returns what tells the median of the host's load since then: who reads the page sees whether something else ran.
func watchLoad(ctx context.Context) func() float64 {
	loads := make(chan []float64, 1)
	loads <- nil
	go func() {
		tick := time.NewTicker(10 * time.Second)
		defer tick.Stop()
		for ctx.Err() == nil {
			<-tick.C
			var load float64
			if text, err := os.ReadFile("/proc/loadavg"); err == nil {
				_, _ = fmt.Sscan(string(text), &load)
			}
			loads <- append(<-loads, load)
		}
	}()
	return func() float64 {
		all := slices.Sorted(slices.Values(<-loads))
		if len(all) == 0 {
			return 0
		}
		return all[len(all)/2]
	}
}

func down(t *testing.T) {
	t.Helper()
	if *keep {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := lab.Down(ctx, options); err != nil {
		t.Error(err)
	}
}

// up starts the machine with Tandem and the contest on it.
func up(ctx context.Context, t *testing.T) (machine *lab.Machine, versions string) {
	t.Helper()
	l, err := lab.Up(ctx, options)
	if err != nil {
		t.Fatal(err)
	}
	tree, err := lab.FindTree(".")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Push(ctx, tree); err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(t.TempDir(), "contest.test")
	build := exec.CommandContext(ctx, "go", "test", "-c", "-trimpath", "-ldflags", "-s -w", "-tags", "lab", "-o", binary, "./deploy/lab/bench/contest")
	build.Dir, build.Env = tree, append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if said, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the contest: %v\n%s", err, said)
	}
	machine = l.Machines()[0]
	if err := machine.Put(ctx, binary, "/root/contest.test"); err != nil {
		t.Fatal(err)
	}
	return machine, l.Versions()
}

// contest runs it and brings its report back.
func contest(ctx context.Context, t *testing.T, machine *lab.Machine) bench.Report {
	t.Helper()
	command := fmt.Sprintf("/root/contest.test -test.v -test.timeout 3h -rounds %d -reference %d -cases '%s' -answer /root/report.json",
		*rounds, *reference, *cases)
	code, err := machine.Stream(ctx, command, lab.Streams{Stdout: os.Stdout, Stderr: os.Stderr})
	if err != nil || code != 0 {
		t.Fatalf("the contest: exit code %d, %v", code, err)
	}
	text, err := machine.Output(ctx, "cat /root/report.json")
	if err != nil {
		t.Fatal(err)
	}
	var report bench.Report
	if err := json.Unmarshal([]byte(text), &report); err != nil {
		t.Fatal(err)
	}
	return report
}
