package report_test

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/cli/report"
	"github.com/tandemd/tandem/pkg/guest"
)

// "A healthy node's plain `tandem status` fits 80x24", however many jobs and
// members there are.
func TestStatus_OfAHealthyClusterFitsATerminal(t *testing.T) {
	now := time.Date(2026, 11, 22, 19, 41, 30, 0, time.UTC)
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`[a-z][a-z0-9-]{0,22}[a-z0-9]`)
		s := api.Status{Time: now, Cluster: api.Cluster{ID: "c", Quorate: true, Votes: 7, Voters: 7, Quorum: 4}}
		for range rapid.IntRange(1, 30).Draw(t, "members") {
			m := api.Member{Name: guest.NodeName(name.Draw(t, "name")), State: "alive", Voter: len(s.Cluster.Members) < 7}
			if s.Node == "" {
				s.Node, s.Cluster.Leader, m.State = m.Name, m.Name, "self"
			}
			s.Cluster.Members = append(s.Cluster.Members, m)
		}
		node := rapid.SampledFrom(s.Cluster.Members)
		at := rapid.Int64Range(0, int64(700*24*time.Hour))
		for n := range rapid.IntRange(0, 300).Draw(t, "jobs") {
			j := api.JobStatus{
				ID: guest.JobID{Guest: guest.ID(100 + n), Number: rapid.IntRange(0, 9).Draw(t, "number")}, Enabled: n%7 != 0,
				Source: node.Draw(t, "source").Name, Target: node.Draw(t, "target").Name, State: api.StateOK,
				LastSync: now.Add(-time.Duration(at.Draw(t, "last"))), NextSync: now.Add(time.Duration(at.Draw(t, "next")) / 100),
				Duration: rapid.Float64Range(0, 1e6).Draw(t, "duration"), Bytes: rapid.Int64Min(0).Draw(t, "bytes"),
				Lag: new(rapid.Float64Range(0, 1e6).Draw(t, "lag")),
			}
			j.LastTry = j.LastSync
			s.Jobs = append(s.Jobs, j)
		}
		lines := report.Printer{Zone: time.UTC}.Status(s, true)
		if len(lines) > 23 {
			t.Errorf("%d rows and a prompt", len(lines))
		}
		shown := 0
		for _, line := range lines {
			if n := utf8.RuneCountInString(line); n > 80 {
				t.Errorf("%d columns: %s", n, line)
			}
			if _, err := guest.ParseJobID(strings.Fields(line + " -")[0]); err == nil {
				shown++
			}
		}
		left := 0
		if _, err := fmt.Sscanf(lines[len(lines)-1], "%d more job", &left); err != nil {
			left = 0
		}
		if shown+left != len(s.Jobs) {
			t.Errorf("of %d jobs %d are shown and %d counted", len(s.Jobs), shown, left)
		}
		if left > 0 && len(lines) < 22 {
			t.Errorf("%d jobs are left out, but only %d rows are used", left, len(lines))
		}
	})
}

// After a boot of a part of the cluster a node does not know who votes: numbers would say that nobody has to be waited for.
func TestStatus_WithoutKnownVoters(t *testing.T) {
	s := api.Status{Node: "n2", Cluster: api.Cluster{ID: "c", Quorum: 1}}
	text := strings.Join(report.Printer{Zone: time.UTC}.Status(s, true), "\n")
	if want := "WARNING: not quorate: its voters are not known here yet."; !strings.Contains(text, want) || strings.Contains(text, "0 of 0") {
		t.Errorf("got:\n%s\nwant %q and no numbers", text, want)
	}
}
