package bench_test

import (
	"strings"
	"testing"

	"github.com/tandemd/tandem/deploy/lab/bench"
)

// The ratios of a page are those within the rounds: a round in which everything is slow does not change them.
func TestReport_PageHasRatiosOfTheSameRound(t *testing.T) {
	sample := func(what, who string, round int, seconds float64, zfs int) bench.Sample {
		return bench.Sample{Case: what, Contestant: who, Round: round, Seconds: seconds, Record: seconds / 2, ZFS: zfs, Resident: [2]float64{30, 41.5}}
	}
	r := bench.Report{Samples: []bench.Sample{
		sample(bench.Delta64, bench.Pipe, 1, 1, 5), sample(bench.Delta64, bench.Tandem, 1, 3, 6),
		sample(bench.Delta64, bench.Pipe, 2, 10, 5), sample(bench.Delta64, bench.Tandem, 2, 30, 6),
		sample(bench.Delta64, bench.Pipe, 3, 2, 5), sample(bench.Delta64, bench.Tandem, 3, 6, 7),
		sample(bench.First, bench.Pipe, 1, 10, 3), sample(bench.First, bench.Tandem, 1, 30, 9),
	}}
	page := r.Page(bench.Setting{Date: "today", Commit: "v1", Machine: "A machine", Versions: []string{"zfs 2"}})
	for _, want := range []string{
		"| one guest, 64 KiB: time by the plain pipe's, start to end of the record | ≤ 1.20 | 1.50 | **not met** |",
		"| one guest, 64 KiB: zfs processes | ≤ 6 | 6 | met |",
		"| first sync over TLS: speed by the plain pipe's | ≥ 0.50 | 0.67 | met |",
		"| nothing to do: zfs processes | ≤ 2 | – | not measured |",
		"| a daemon's peak of resident memory, all cases, MiB | ≤ 64 | 41.5 | met |",
		"| Tandem | 3 | 6 | 3, 30 | 3 | 3 | 1.50 | 6 |",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page has no line %q:\n%s", want, page)
		}
	}
}
