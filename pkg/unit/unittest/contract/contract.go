// Package contract is what pkg/unit and its stand-in are both held to: the same suite
// runs over the fake, over D-Bus against a systemd of the test's own, and on a real
// machine. Only tests import it.
package contract

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/unit"
)

// Manager is what callers use of pkg/unit.
type Manager interface {
	State(ctx context.Context, name string) (unit.State, error)
	Start(ctx context.Context, name string) error
	Stop(ctx context.Context, name string) error
	Freeze(ctx context.Context, name string) error
	Thaw(ctx context.Context, name string) error
	Guard(ctx context.Context, name string, id guest.ID) error
	Unguard(ctx context.Context, name string) error
	Journal(ctx context.Context, name string, n int) ([]string, error)
}

// Service is one that a test needs.
type Service struct {
	// Fails: it does not start, and writes "cannot start" to its journal.
	Fails bool
	// Ignores: it does not heed the request to stop; StopTimeout is 2 s.
	Ignores bool
	// Leaves: a process of it stays behind.
	Leaves bool
	// Enabled: something else starts it too.
	Enabled bool
}

// Env is a machine for one test.
type Env struct {
	Manager Manager
	// Define installs a service under a name that ends in .service.
	Define func(name string, s Service)
	// Crash ends its main process with an exit code.
	Crash func(name string)
	// Allow is the answer to guards from now on.
	Allow func(ok bool)
}

// Run runs the suite; open makes a machine for each test.
func Run(t *testing.T, open func(t *testing.T) Env) {
	t.Helper()
	for name, test := range map[string]func(*suite){
		"AbsentUnit": (*suite).absent, "StartAndStop": (*suite).startAndStop, "ManyStarts": (*suite).manyStarts, "FailedStart": (*suite).failedStart,
		"ForcedStop": (*suite).forcedStop, "LeftProcesses": (*suite).leftProcesses, "Crash": (*suite).crash,
		"FreezeAndThaw": (*suite).freeze, "StopOfAFrozenOne": (*suite).stopFrozen, "Guard": (*suite).guard,
		"Enabled": (*suite).enabled, "Names": (*suite).names,
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			test(&suite{T: t, ctx: ctx, Env: open(t)})
		})
	}
}

type suite struct {
	*testing.T
	Env
	ctx context.Context
}

const web = "tandem-contract@web.service"

func (s *suite) ok(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *suite) state(name string) unit.State {
	s.Helper()
	st, err := s.Manager.State(s.ctx, name)
	s.ok(err)
	return st
}

// until waits for a state that systemd enters by itself.
func (s *suite) until(name string, done func(unit.State) bool) unit.State {
	s.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		st := s.state(name)
		if done(st) {
			return st
		}
		select {
		case <-s.ctx.Done():
			s.Fatalf("%s is %+v", name, st)
		case <-tick.C:
		}
	}
}

func (s *suite) absent() {
	const name = "tandem-contract-absent.service"
	if st := s.state(name); st.Running() || st.Load != "not-found" {
		s.Errorf("a unit that does not exist is %+v", st)
	}
	if err := s.Manager.Start(s.ctx, name); !errors.Is(err, unit.ErrNotFound) || !strings.Contains(err.Error(), name) {
		s.Errorf("it started: %v", err)
	}
	if err := s.Manager.Guard(s.ctx, name, 100); !errors.Is(err, unit.ErrNotFound) {
		s.Errorf("it was guarded: %v", err)
	}
	s.ok(s.Manager.Stop(s.ctx, name))
	s.ok(s.Manager.Thaw(s.ctx, name))
	s.ok(s.Manager.Unguard(s.ctx, name))
}

func (s *suite) startAndStop() {
	s.Define(web, Service{})
	if st := s.state(web); st.Running() || st.Load != "loaded" || st.MainPID != 0 {
		s.Errorf("before: %+v", st)
	}
	s.ok(s.Manager.Stop(s.ctx, web))
	begun := time.Now()
	s.ok(s.Manager.Start(s.ctx, web))
	first := s.state(web)
	if limit := time.Since(begun) + time.Millisecond; first.Age <= 0 || first.Age > limit {
		s.Errorf("started within %s, it has run for %s", limit, first.Age)
	}
	if !first.Running() || first.Active != "active" || first.MainPID == 0 || first.Since.IsZero() || first.StopTimeout == 0 {
		s.Errorf("running: %+v", first)
	}
	s.ok(s.Manager.Start(s.ctx, web))
	if again := s.state(web); again.MainPID != first.MainPID {
		s.Errorf("a second start started it anew: %+v, then %+v", first, again)
	}
	s.ok(s.Manager.Stop(s.ctx, web))
	s.ok(s.Manager.Stop(s.ctx, web))
	if st := s.state(web); st.Running() || st.MainPID != 0 {
		s.Errorf("stopped: %+v", st)
	}
	s.ok(s.Manager.Start(s.ctx, web))
	if again := s.state(web); again.MainPID == first.MainPID || !again.Running() {
		s.Errorf("started again: %+v", again)
	}
}

// manyStarts are more than systemd's limit, which is for services that restart by themselves.
func (s *suite) manyStarts() {
	s.Define(web, Service{})
	for range 7 {
		s.ok(s.Manager.Start(s.ctx, web))
		s.ok(s.Manager.Stop(s.ctx, web))
	}
}

func (s *suite) failedStart() {
	s.Define(web, Service{Fails: true})
	err := s.Manager.Start(s.ctx, web)
	failure, ok := errors.AsType[*unit.Error](err)
	if !ok {
		s.Fatalf("the error is %v", err)
	}
	if failure.Result != "exit-code" || !strings.Contains(err.Error(), web) || !slices.Contains(failure.Journal, "cannot start") {
		s.Errorf("the error is %q with journal %q", err, failure.Journal)
	}
	if !strings.Contains(failure.Hint(), "cannot start") {
		s.Errorf("the hint is %q", failure.Hint())
	}
	if st := s.state(web); st.Running() || st.Active != "failed" {
		s.Errorf("afterwards: %+v", st)
	}
	s.Define(web, Service{}) // An operator repaired it.
	s.ok(s.Manager.Start(s.ctx, web))
}

func (s *suite) forcedStop() {
	s.Define(web, Service{Ignores: true})
	s.ok(s.Manager.Start(s.ctx, web))
	s.ok(s.Manager.Stop(s.ctx, web))
	if st := s.state(web); st.Running() || st.Result != "timeout" {
		s.Errorf("afterwards: %+v", st)
	}
}

func (s *suite) leftProcesses() {
	s.Define(web, Service{Leaves: true})
	s.ok(s.Manager.Start(s.ctx, web))
	for range 2 { // Asking again does not make it true.
		if err := s.Manager.Stop(s.ctx, web); err == nil || !strings.Contains(err.Error(), "have not ended") {
			s.Errorf("with a process left the stop says %v", err)
		}
	}
}

func (s *suite) crash() {
	s.Define(web, Service{})
	s.ok(s.Manager.Start(s.ctx, web))
	s.Crash(web)
	st := s.until(web, func(st unit.State) bool { return !st.Running() })
	if st.Active != "failed" || st.Result == "success" {
		s.Errorf("after a crash: %+v", st)
	}
	lines, err := s.Manager.Journal(s.ctx, web, 1)
	if err != nil || len(lines) != 1 {
		s.Errorf("its journal: %q, %v", lines, err)
	}
	s.ok(s.Manager.Stop(s.ctx, web))
	s.ok(s.Manager.Start(s.ctx, web))
}

func (s *suite) freeze() {
	s.Define(web, Service{})
	if err := s.Manager.Freeze(s.ctx, web); err == nil {
		s.Error("one that does not run was frozen")
	}
	s.ok(s.Manager.Thaw(s.ctx, web))
	s.ok(s.Manager.Start(s.ctx, web))
	s.ok(s.Manager.Freeze(s.ctx, web))
	if st := s.state(web); !st.Frozen || !st.Running() {
		s.Errorf("frozen: %+v", st)
	}
	s.ok(s.Manager.Thaw(s.ctx, web))
	s.ok(s.Manager.Thaw(s.ctx, web))
	if st := s.state(web); st.Frozen || !st.Running() {
		s.Errorf("thawed: %+v", st)
	}
}

func (s *suite) stopFrozen() {
	s.Define(web, Service{})
	s.ok(s.Manager.Start(s.ctx, web))
	s.ok(s.Manager.Freeze(s.ctx, web))
	s.ok(s.Manager.Stop(s.ctx, web))
	if st := s.state(web); st.Running() || st.Frozen {
		s.Errorf("stopped: %+v", st)
	}
}

func (s *suite) guard() {
	s.Define(web, Service{})
	s.ok(s.Manager.Guard(s.ctx, web, 100))
	s.ok(s.Manager.Guard(s.ctx, web, 100))
	s.Allow(false)
	if err := s.Manager.Start(s.ctx, web); !errors.Is(err, unit.ErrRefused) {
		s.Errorf("with the guard's no: %v", err)
	}
	if st := s.state(web); st.Running() { // Why it does not, systemd has forgotten: nobody uses the unit.
		s.Errorf("refused: %+v", st)
	}
	s.Allow(true)
	s.ok(s.Manager.Start(s.ctx, web))
	s.ok(s.Manager.Stop(s.ctx, web))
	s.Allow(false)
	s.ok(s.Manager.Guard(s.ctx, web, 101)) // The unit is another guest's now.
	if err := s.Manager.Start(s.ctx, web); !errors.Is(err, unit.ErrRefused) {
		s.Errorf("with the other guard's no: %v", err)
	}
	s.ok(s.Manager.Unguard(s.ctx, web))
	s.ok(s.Manager.Unguard(s.ctx, web))
	s.ok(s.Manager.Start(s.ctx, web))
}

func (s *suite) enabled() {
	s.Define(web, Service{})
	s.Define("tandem-contract@other.service", Service{Enabled: true})
	if s.state(web).Enabled || !s.state("tandem-contract@other.service").Enabled {
		s.Errorf("enabled: %+v, %+v", s.state(web), s.state("tandem-contract@other.service"))
	}
}

func (s *suite) names() {
	for _, name := range []string{"", "x", "x.socket", "-x.service", "a b.service", "a/b.service", "a;b.service"} {
		_, err := s.Manager.State(s.ctx, name)
		_, journal := s.Manager.Journal(s.ctx, name, 1)
		for what, err := range map[string]error{
			"State": err, "Journal": journal, "Start": s.Manager.Start(s.ctx, name), "Stop": s.Manager.Stop(s.ctx, name),
			"Freeze": s.Manager.Freeze(s.ctx, name), "Thaw": s.Manager.Thaw(s.ctx, name),
			"Guard": s.Manager.Guard(s.ctx, name, 100), "Unguard": s.Manager.Unguard(s.ctx, name),
		} {
			if err == nil {
				s.Errorf("%s of %q was done", what, name)
			}
		}
	}
}
