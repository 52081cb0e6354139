package daemon_test

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var benchCommit = flag.String("cluster.commit", "unknown", "the version, for the page of BenchmarkCluster")

// figures is what BenchmarkCluster measures of one cluster.
type figures struct {
	nodes, guests int
	begun         time.Time
	// joined is how long it took until all were members, took all of it.
	joined, took time.Duration
	// commands is how many guests were added in a second, over the last quarter.
	commands float64
	// ledger is the time from a command until every node's ledger has it, gossip until
	// every node has heard of it from the owner.
	ledger, gossip delays
	// idle is what a node sends in a second while nothing happens, counted at the
	// loopback device with all headers, which is true in a network of its own only;
	// idleCPU the part of a processor that it uses then.
	idle, idleCPU float64
	// heap is what a node keeps, in bytes, its share of the test's own included.
	heap float64
	cpu  usage
}

type delays []time.Duration

func (d delays) median() float64 { return ms(slices.Sorted(slices.Values(d))[len(d)/2]) }

func (d delays) String() string {
	return fmt.Sprintf("%.0f ms, at most %.0f", d.median(), ms(slices.Max(d)))
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// usage is processor time: this process's own, and that of all others on the machine.
type usage struct{ own, others time.Duration }

func (u usage) since(before usage) usage {
	return usage{own: u.own - before.own, others: u.others - before.others}
}

func processors(b *testing.B) usage {
	b.Helper()
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	own := time.Duration(r.Utime.Nano() + r.Stime.Nano())
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		b.Fatal(err)
	}
	// cpu user nice system idle iowait irq softirq steal, in hundredths of a second
	line, _, _ := strings.Cut(string(text), "\n")
	var busy time.Duration
	for i, field := range strings.Fields(line) {
		if i == 0 || i == 4 || i == 5 || i > 7 {
			continue
		}
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		busy += time.Duration(n) * (time.Second / 100)
	}
	return usage{own: own, others: busy - own}
}

// writePage writes a page for docs/evidence.
func writePage(w io.Writer, all []figures) error {
	if len(all) == 0 {
		return nil
	}
	lines := []string{
		"# Whole clusters in one process (`make bench-cluster`)",
		"",
		"All daemons run on one machine, over loopback and TLS, with their state on one disk and ZFS in memory.",
		"",
		"| | |",
		"| --- | --- |",
		"| version | " + *benchCommit + " |",
		"| began | " + all[0].begun.UTC().Format(time.RFC3339) + " |",
		fmt.Sprintf("| machine | %d cores, %s, %s |", runtime.NumCPU(), processor(), runtime.Version()),
		"",
		row(all, "| | aims |", func(f figures) string { return fmt.Sprintf("%d nodes, %d guests", f.nodes, f.guests) }),
		row(all, "| --- | --- |", func(figures) string { return "---" }),
		row(all, "| a change is in every ledger after | < 1 s |", func(f figures) string { return f.ledger.String() }),
		row(all, "| every node has heard of it by gossip after | < 1 s |", func(f figures) string { return f.gossip.String() }),
		row(all, "| commands per second, of 64 clients | ≥ 200 |", func(f figures) string { return fmt.Sprintf("%.0f", f.commands) }),
		row(all, "| sent by an idle node | ≤ 10 KiB/s |", func(f figures) string { return fmt.Sprintf("%.1f KiB/s", f.idle/1024) }),
		row(all, "| processor of an idle node | |", func(f figures) string { return fmt.Sprintf("%.2f %%", 100*f.idleCPU) }),
		row(all, "| heap of a node | ≤ 32 MiB |", func(f figures) string { return fmt.Sprintf("%.1f MiB", f.heap/mib) }),
		row(all, "| all had joined after | |", func(f figures) string { return f.joined.Round(time.Second).String() }),
		row(all, "| all of it took | |", func(f figures) string { return f.took.Round(time.Second).String() }),
		row(all, "| processor time of all nodes | |", func(f figures) string { return f.cpu.own.Round(time.Second).String() }),
		row(all, "| of other programs meanwhile | |", func(f figures) string { return f.cpu.others.Round(time.Second).String() }),
	}
	_, err := io.WriteString(w, strings.Join(lines, "\n")+"\n")
	return err
}

func row(all []figures, head string, cell func(figures) string) string {
	for _, f := range all {
		head += " " + cell(f) + " |"
	}
	return head
}

// processor names the machine's processors.
func processor() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if key, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}
