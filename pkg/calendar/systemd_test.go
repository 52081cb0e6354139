package calendar_test

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tandemd/tandem/pkg/calendar"
)

// A long run asks about more, from another seed:
//
//	go test ./pkg/calendar -run AgreesWithSystemd -timeout 1h -calendar.expressions 200000 -calendar.seed 2
var (
	seed        = flag.Uint64("calendar.seed", 1, "seed of the expressions that systemd-analyze is asked about")
	expressions = flag.Int("calendar.expressions", 2000, "how many expressions systemd-analyze is asked about")
)

const (
	oracleBatch = 10
	iterations  = 10
)

// oracleRun is one start of systemd-analyze.
type oracleRun struct {
	zone  *time.Location
	base  time.Time
	exprs []string // in systemd's grammar
	ours  []calendar.Schedule
}

// systemd-analyze(1) is the oracle: 2,000 random expressions, each with ten runs
// in a row after a random instant in one of nine zones, with these exceptions:
//
//   - Runs within a day of a zone switch are not compared: we differ there on
//     purpose (see the package's documentation).
//   - Runs are asked for with open repetitions closed ("4/16" as "4..59/16").
//     systemd 252 carries an open one beyond midnight or the end of the month
//     without starting anew there, and so leaves out the first runs of the new
//     day or month ("*:6/23" goes 23:52, then 00:29).
//   - Where systemd 252 reports an infinite loop there is nothing to compare.
func TestSchedule_AgreesWithSystemd(t *testing.T) {
	t.Logf("-calendar.seed=%d", *seed)
	r := rand.New(rand.NewPCG(*seed, 0))
	compared := 0
	starts := (*expressions + oracleBatch - 1) / oracleBatch
	for range starts {
		compared += drawOracleRun(t, r).check(t)
	}
	t.Logf("%d expressions, %d instants, %d runs compared", starts*oracleBatch, starts, compared)
	if compared < 5*starts*oracleBatch {
		t.Errorf("only %d runs were compared", compared)
	}
}

func drawOracleRun(t *testing.T, r *rand.Rand) oracleRun {
	t.Helper()
	p := pick(r.IntN)
	run := oracleRun{zone: mustZone(t, zones()[p(len(zones()))])}
	run.base = time.Unix(1_600_000_000+r.Int64N(500_000_000), 0).In(run.zone)
	for len(run.exprs) < oracleBatch {
		systemd, ours := p.expression()
		if s, err := calendar.Parse(ours); err == nil {
			run.exprs, run.ours = append(run.exprs, systemd), append(run.ours, s)
		}
	}
	return run
}

func (run oracleRun) check(t *testing.T) int {
	t.Helper()
	ask := append([]string{}, run.exprs...)
	for _, s := range run.ours {
		ask = append(ask, closeRepetitions(s.Normalized()))
	}
	answers, refused := analyze(t, run.zone, run.base, ask)
	if len(refused) > 0 {
		t.Errorf("we accept what systemd refuses: %q", refused)
	}
	compared := 0
	for i, s := range run.ours {
		if a, ok := answers[run.exprs[i]]; ok && a.normalized != s.Normalized() {
			t.Errorf("%q: got %q, systemd has %q", s, s.Normalized(), a.normalized)
		}
		var got, want []string
		at := run.base
		for _, theirs := range answers[closeRepetitions(s.Normalized())].runs {
			next := s.Next(at, run.zone)
			if nearSwitch(at, next) {
				break
			}
			got, want = append(got, next.UTC().Format(time.DateTime)), append(want, theirs)
			at = next
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q in %s after %v (-systemd +got):\n%s", s, run.zone, run.base, diff)
		}
		compared += len(got)
	}
	return compared
}

// nearSwitch says that a zone switch lies between two runs or within a day of them.
func nearSwitch(from, to time.Time) bool {
	a, _ := from.In(to.Location()).AddDate(0, 0, -1).ZoneBounds()
	b, _ := to.AddDate(0, 0, 1).ZoneBounds()
	return !a.Equal(b)
}

// closeRepetitions gives each open repetition of a normalized form its end.
func closeRepetitions(normalized string) string {
	words := strings.Fields(normalized)
	for i, word := range words {
		switch {
		case strings.Contains(word, ":"):
			f := strings.Split(word, ":")
			words[i] = closed(f[0], 23) + ":" + closed(f[1], 59) + ":00"
		case strings.HasPrefix(word, "*-"):
			f := strings.Split(word, "-")
			if len(f) == 3 { // not from the end of the month
				words[i] = "*-" + closed(f[1], 12) + "-" + closed(f[2], 31)
			}
		}
	}
	return strings.Join(words, " ")
}

func closed(chain string, last int) string {
	items := strings.Split(chain, ",")
	for i, item := range items {
		if start, repeat, ok := strings.Cut(item, "/"); ok && !strings.Contains(start, "..") {
			items[i] = fmt.Sprintf("%s..%d/%s", start, last, repeat)
		}
	}
	return strings.Join(items, ",")
}

// What we refuse for its grammar, systemd refuses too; what we refuse for its
// interval, systemd knows.
func TestParse_RefusesWhatSystemdRefuses(t *testing.T) {
	t.Logf("-calendar.seed=%d", *seed)
	p := pick(rand.New(rand.NewPCG(*seed, 1)).IntN)
	var malformed, unfit []string
	for len(malformed) < 200 || len(unfit) < 200 {
		systemd, ours := p.expression()
		switch _, err := calendar.Parse(ours); {
		case err == nil:
		case strings.Contains(err.Error(), "one week"), strings.Contains(err.Error(), "this date never comes"):
			unfit = append(unfit, systemd)
		default:
			malformed = append(malformed, systemd)
		}
	}
	base := time.Unix(1_700_000_000, 0)
	if _, refused := analyze(t, time.UTC, base, malformed); len(refused) != len(malformed) {
		t.Errorf("we refuse %d expressions, systemd only %d of them", len(malformed), len(refused))
	}
	if _, refused := analyze(t, time.UTC, base, unfit); len(refused) > 0 {
		t.Errorf("systemd refuses for the grammar what we refuse for its interval: %q", refused)
	}
}

type answer struct {
	normalized string
	runs       []string // UTC
}

// analyze asks systemd-analyze about all expressions at once. Of those that it
// can parse but not compute there is no answer.
func analyze(t *testing.T, zone *time.Location, base time.Time, exprs []string) (answers map[string]answer, refused []string) {
	t.Helper()
	path, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Fatalf("this test needs systemd-analyze (package systemd): %v", err)
	}
	args := append([]string{
		"calendar", "--iterations", strconv.Itoa(iterations), "--base-time", base.UTC().Format("2006-01-02 15:04:05 UTC"), "--",
	}, exprs...)
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Env = []string{"TZ=" + zone.String(), "LC_ALL=C.UTF-8", "SYSTEMD_COLORS=0"}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil && stderr.Len() == 0 {
		t.Fatal(err)
	}
	for line := range strings.Lines(stderr.String()) {
		if strings.HasPrefix(line, "Failed to parse") {
			refused = append(refused, strings.TrimSpace(line))
		}
	}
	return readAnswers(stdout.String(), zone == time.UTC), refused
}

func readAnswers(stdout string, utc bool) map[string]answer {
	answers := map[string]answer{}
	for block := range strings.SplitSeq(stdout, "\n\n") {
		var expr string
		var a answer
		for line := range strings.Lines(block) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
			switch {
			case key == "Original form": // left out where it is normal
				expr = value
			case key == "Normalized form":
				a.normalized = value
			case key == "(in UTC)", utc && (key == "Next elapse" || strings.HasPrefix(key, "Iter. #")):
				if f := strings.Fields(value); len(f) == 4 { // "Mon 2026-03-02 00:00:00 UTC"; else "never"
					a.runs = append(a.runs, f[1]+" "+f[2])
				}
			}
		}
		if expr == "" {
			expr = a.normalized
		}
		answers[expr] = a
	}
	return answers
}
