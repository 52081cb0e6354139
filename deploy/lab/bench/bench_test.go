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
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tandemd/tandem/deploy/lab"
	"github.com/tandemd/tandem/deploy/lab/bench"
)

var (
	rounds    = flag.Int("rounds", 5, "how often every case is measured")
	reference = flag.Int("reference", 2, "in how many of the rounds ssh and syncoid take part where that takes minutes")
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
	if err := lab.Down(ctx, options); err != nil {
		t.Fatal(err)
	}
	defer down(t)
	machine, versions := up(ctx, t)
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
		Machine: fmt.Sprintf("A machine of the lab with %s processors and %s MiB (%s), on a host with %d processors", facts[0], facts[1], facts[2], runtime.NumCPU()),
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
