//go:build lab

package contest_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/tandemd/tandem/deploy/lab/bench"
)

var (
	rounds    = flag.Int("rounds", 5, "how often every case is measured")
	reference = flag.Int("reference", 1, "in how many of the rounds ssh and syncoid take part where that takes minutes")
	cases     = flag.String("cases", "", "only these cases, with commas between")
	answer    = flag.String("answer", "/run/bench/report.json", "where the report goes")
)

// contest is what the cases share.
type contest struct {
	report  bench.Report
	tandem  *daemons
	plain   plain
	shell   *group // everything but the daemons and their client
	place   int64  // in the accounts
	started time.Time
}

// Guests of Tandem's, and how many volumes every contestant has of its own for the case with many.
const (
	small, big = 100, 300
	manyFirst  = 201
	many       = 20
	eightFirst = 401
)

// TestContest needs a fresh machine of the lab, which it changes for good.
func TestContest(t *testing.T) {
	if err := os.MkdirAll("/run/bench", 0o755); err != nil {
		t.Fatal(err)
	}
	c := prepare(t)
	if c.wants(bench.Delta64, bench.Nothing, bench.Delta16) {
		c.one(t)
	}
	if c.wants(bench.Many, bench.AtOnce) {
		c.many(t)
	}
	if c.wants(bench.First) {
		c.first(t)
	}
	if c.wants(bench.Eight) {
		c.eight(t)
	}
	c.idle(t)
	text, err := json.Marshal(c.report)
	if err == nil {
		err = os.WriteFile(*answer, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (c *contest) wants(any ...string) bool {
	return *cases == "" || slices.ContainsFunc(any, func(id string) bool { return slices.Contains(split(*cases), id) })
}

func (c *contest) say(format string, args ...any) {
	fmt.Printf("[%4.0fs] %s\n", time.Since(c.started).Seconds(), fmt.Sprintf(format, args...))
}

func prepare(t *testing.T) *contest {
	t.Helper()
	c := &contest{started: time.Now()}
	c.say("two pools, two daemons")
	if err := shell(t.Context(), nil, prepareMachine); err != nil {
		t.Fatal(err)
	}
	groups := [2]group{}
	for i, name := range []string{"shell", "tandem"} {
		var err error
		if groups[i], err = makeGroup(name); err != nil {
			t.Fatal(err)
		}
	}
	c.shell, c.plain = &groups[0], plain{group: &groups[0], step: map[string]int{}}
	start(t, c.shell, "/var/log/bench-sshd", "/usr/sbin/sshd", "-D", "-e", "-o", "ListenAddress=127.0.0.4:2222", "-o", "PidFile=none")
	c.tandem = startDaemons(t, &groups[1])
	if err := startAccounting(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stopAccounting() })
	return c
}

// took is what a contestant's turn tells of itself; zero seconds: as long as it took.
type took struct{ seconds, record float64 }

// turn is one contestant's part in one round of a case.
type turn struct {
	who    string
	before func() // not counted; the machine comes to rest after it
	poise  func() // not counted; what has to be last
	run    func() took
	after  func() // not counted
}

// measure runs one turn.
func (c *contest) measure(t *testing.T, id string, round int, u turn) {
	t.Helper()
	if u.before != nil {
		u.before()
	}
	settle(t)
	if u.poise != nil {
		u.poise()
	}
	c.since(t)
	before := c.gauge(t, u.who)
	begun := time.Now()
	result := u.run()
	if result.seconds == 0 {
		result.seconds = time.Since(begun).Seconds()
	}
	if t.Failed() {
		t.FailNow()
	}
	if u.who == bench.Tandem {
		quiet(t, time.Second) // what is cleaned up after the end belongs to it
	}
	after := c.gauge(t, u.who)
	s := bench.Sample{
		Case: id, Contestant: u.who, Round: round, Seconds: result.seconds, Record: result.record,
		CPU: (after.own - before.own).Seconds(), Machine: (after.machine - before.machine).Seconds(),
	}
	for _, e := range c.since(t) {
		ours := slices.Contains(c.tandem.pids[:], e.parent) || e.name == "tandem"
		if ours != (u.who == bench.Tandem) || e.name == "(udev-worker)" {
			continue
		}
		s.Processes++
		if e.isZFS() {
			s.ZFS++
		}
	}
	if u.who == bench.Tandem {
		s.Resident = c.resident(t)
	}
	c.report.Samples = append(c.report.Samples, s)
	c.say("%-8s %d %-18s %7.2f s  record %7.2f  zfs %3d  processes %3d  CPU %6.2f  machine %6.2f  MiB %.0f",
		id, round, u.who, s.Seconds, s.Record, s.ZFS, s.Processes, s.CPU, s.Machine, s.Resident)
	if u.after != nil {
		u.after()
	}
}

type gauge struct{ own, machine time.Duration }

// gauge reads the clocks of processor time, and has the peaks of memory counted anew.
func (c *contest) gauge(t *testing.T, who string) gauge {
	t.Helper()
	g := c.shell
	if who == bench.Tandem {
		g = c.tandem.group
	}
	own, err := g.used()
	if err != nil {
		t.Fatal(err)
	}
	all, err := busy()
	if err != nil {
		t.Fatal(err)
	}
	return gauge{own, all}
}

// since returns the processes that have ended since it was called last.
func (c *contest) since(t *testing.T) []ended {
	t.Helper()
	all, place, err := accounted(c.place)
	if err != nil {
		t.Fatal(err)
	}
	c.place = place
	return all
}

// resident are the daemons' peaks since the last call.
func (c *contest) resident(t *testing.T) (mebibytes [2]float64) {
	t.Helper()
	for i, pid := range c.tandem.pids {
		var err error
		if mebibytes[i], err = peak(pid); err != nil {
			t.Fatal(err)
		}
		if err := resetPeak(pid); err != nil {
			t.Fatal(err)
		}
	}
	return mebibytes
}

// round measures the turns; another one comes first each time.
func (c *contest) round(t *testing.T, id string, round int, turns ...turn) {
	t.Helper()
	if !c.wants(id) {
		return
	}
	for i := range turns {
		c.measure(t, id, round, turns[(i+round)%len(turns)])
	}
}

// idle watches the daemons do nothing for a while.
func (c *contest) idle(t *testing.T) {
	t.Helper()
	settle(t)
	c.since(t)
	c.resident(t)
	before := c.gauge(t, bench.Tandem)
	const long = 40 * time.Second
	time.Sleep(long)
	after := c.gauge(t, bench.Tandem)
	idle := bench.Idle{Seconds: long.Seconds(), CPU: (after.own - before.own).Seconds(), Resident: c.resident(t)}
	for _, e := range c.since(t) {
		if e.isZFS() {
			idle.ZFS++
		}
	}
	c.report.Idle = idle
	c.say("idle: %+v", idle)
}
