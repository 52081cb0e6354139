package migrate_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/move/migrate"
	"github.com/tandemd/tandem/pkg/replicate"
)

// scene is node n1 with guest 100, a cluster that takes commands, and n2.
type scene struct {
	mu     sync.Mutex
	did    []string
	state  ledger.State
	tried  map[string]string
	runs   bool // the guest, here
	ran    bool // it ran when the migration began
	sealed bool
	held   int
	there  bool // the guest runs on n2
	lost   int  // so many answers of the ledger are lost, after the command was taken
	away   bool // the ledger cannot be reached
	fails  map[string]error
	stuck  bool // a write that fails has been done all the same
	slow   map[string]time.Duration
	files  map[guest.ID]migrate.Record
	broken bool
	ids    int
	ago    time.Duration // for how long n2 says that the guest runs
	ahead  time.Duration // so much the wall clock was set forward
}

func newScene() *scene {
	s := &scene{
		runs: true, ago: time.Second, tried: map[string]string{}, fails: map[string]error{}, slow: map[string]time.Duration{}, files: map[guest.ID]migrate.Record{},
	}
	s.state = ledger.State{
		Index: 10, Generation: termN(1).Generation, Members: map[guest.NodeID]ledger.Member{}, Guests: map[guest.ID]guest.Guest{},
		Jobs: map[guest.JobID]guest.Job{},
	}
	for _, n := range []string{"1", "2"} {
		s.state.Members[node(n)] = ledger.Member{ID: node(n), Name: guest.NodeName("n" + n), Storages: []string{"local-zfs"}}
	}
	s.state.Guests[100] = guest.Guest{ID: 100, Name: "web", Type: guest.VM, Unit: "web.service", Owner: node("1"), Term: termN(1), Volumes: []guest.Volume{disk()}}
	return s
}

// do notes what is done, takes its time, and may fail.
func (s *scene) do(ctx context.Context, what string) error {
	s.mu.Lock()
	s.did = append(s.did, what)
	d, err := s.slow[what], s.fails[what]
	s.mu.Unlock()
	if d > 0 {
		select {
		case <-time.After(d):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return err
}

func (s *scene) with(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func (s *scene) Pause(ctx context.Context, _ guest.ID) (func(), error) {
	if err := s.do(ctx, "pause"); err != nil {
		return nil, err
	}
	s.with(func() { s.held++ })
	return func() { s.with(func() { s.held-- }) }, nil
}

func (s *scene) Running(context.Context, guest.Guest) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.runs, nil
}

func (s *scene) Stop(ctx context.Context, _ guest.Guest) error {
	err := s.do(ctx, "stop")
	s.with(func() { s.runs = s.runs && err != nil })
	return err
}

func (s *scene) Start(ctx context.Context, _ guest.ID) error {
	if err := s.do(ctx, "start"); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held > 0 || s.state.Guests[100].Owner != node("1") {
		return errors.New("it may not be started")
	}
	if s.sealed {
		return errors.New("its volumes are read-only")
	}
	s.runs = true
	return nil
}

func (s *scene) Seal(ctx context.Context, _ string, _ guest.Guest) error {
	err := s.do(ctx, "seal")
	s.with(func() { s.sealed = true })
	return err
}

func (s *scene) Unseal(ctx context.Context, _ string, g guest.Guest) error {
	if err := s.do(ctx, "unseal"); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := s.state.Guests[100]; now.Owner != node("1") || g.Term != now.Term {
		return errors.New("it is another's, or of another term")
	}
	s.sealed = false
	return nil
}

func (s *scene) Discard(ctx context.Context, _ guest.ID) error { return s.do(ctx, "discard") }

type passage struct{ s *scene }

func (p passage) Sync(ctx context.Context, t replicate.Transfer) (replicate.Result, error) {
	what := "sync"
	if t.Locked {
		what = "ship"
	}
	return replicate.Result{Kind: replicate.KindIncremental, Point: "p", Bytes: 10}, p.s.do(ctx, what)
}

func (p passage) Prove(ctx context.Context, _ string) (map[guest.Volume]uint64, error) {
	return map[guest.Volume]uint64{disk(): 7}, p.s.do(ctx, "prove")
}

func (p passage) Close() {}

func (s *scene) View() *ledger.State {
	s.mu.Lock()
	defer s.mu.Unlock()
	copied := s.state
	copied.Guests = map[guest.ID]guest.Guest{100: s.state.Guests[100]}
	return &copied
}

func (s *scene) Confirm(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away {
		return errors.New("not quorate")
	}
	return nil
}

func (s *scene) Propose(ctx context.Context, c ledger.Command) error {
	_ = s.do(ctx, fmt.Sprintf("propose %T", c.Op))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away {
		return migrate.ErrUnsent
	}
	if _, known := s.tried[c.ID]; !known {
		s.tried[c.ID] = s.apply(c)
	}
	if s.lost > 0 {
		s.lost--
		return errors.New("no answer")
	}
	if why := s.tried[c.ID]; why != "" {
		return &migrate.RefusedError{Reason: why}
	}
	return nil
}

func (s *scene) apply(c ledger.Command) string {
	g := s.state.Guests[100]
	switch op := c.Op.(type) {
	case ledger.ChangeOwner:
		if g.Owner != op.Owner || g.Term != op.Term {
			return "it has another owner or term"
		}
		b := *op.Beginning
		b.From, b.Term = g.Owner, g.Term
		g.Owner, g.Beginning, s.there = op.To, &b, !b.Stopped
	case ledger.Retain:
		if g.Owner != op.Owner || g.Term != op.Term {
			return "it has another owner or term"
		}
	default:
		return "nobody sends that"
	}
	g.Term = termN(g.Term.N + 1)
	s.state.Guests[100] = g
	return ""
}

func (s *scene) Read(id guest.ID) (migrate.Record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken {
		return migrate.Record{}, errors.New("its checksum does not match")
	}
	r, ok := s.files[id]
	if !ok {
		return r, fs.ErrNotExist
	}
	return r, nil
}

func (s *scene) Write(r migrate.Record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.fails["write "+string(r.Phase)]; err != nil {
		if s.stuck {
			s.files[r.Guest] = r
		}
		return err
	}
	s.files[r.Guest] = r
	s.did = append(s.did, "write "+string(r.Phase))
	return nil
}

func (s *scene) All() ([]guest.ID, error) {
	if len(s.files) == 0 && !s.broken {
		return nil, nil
	}
	return []guest.ID{100}, nil
}

func (s *scene) SetAside(guest.ID) error {
	s.with(func() { s.broken = false })
	return nil
}

func (s *scene) options() migrate.Options {
	return migrate.Options{
		Self: node("1"), Ledger: s, Guests: s, Volumes: s, Files: s, Logger: zap.NewNop(),
		Now: func() time.Time {
			s.mu.Lock()
			defer s.mu.Unlock()
			return time.Now().Add(s.ahead)
		},
		Handover: func(context.Context, guest.ID, guest.NodeID) (migrate.Handover, error) { return passage{s}, nil },
		Lock:     func(context.Context, guest.ID) (func(), error) { return func() {}, nil },
		Check:    func(ctx context.Context, _ guest.Guest, _ migrate.Record) error { return s.do(ctx, "check") },
		Landing: func(ctx context.Context, _ migrate.Record) (migrate.Landing, error) {
			err := s.do(ctx, "landing")
			s.mu.Lock()
			defer s.mu.Unlock()
			return migrate.Landing{Ready: true, Running: s.there, Ago: s.ago}, err
		},
		NewID: func() string {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.ids++
			return fmt.Sprintf("id-%d", s.ids)
		},
	}
}

// daemon is a life of n1's daemon.
func (s *scene) daemon(t *testing.T) (m *migrate.Mover, stop func()) {
	t.Helper()
	m = migrate.New(s.options())
	if err := m.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); m.Run(ctx) }()
	synctest.Wait()
	stop = sync.OnceFunc(func() {
		cancel()
		<-done
		s.with(func() { s.held = 0 }) // The process is gone, and its holds with it.
	})
	t.Cleanup(stop)
	return m, stop
}

func (s *scene) begin(t *testing.T, m *migrate.Mover) {
	t.Helper()
	s.with(func() { s.ran = s.runs })
	if _, err := m.Start(migrate.Request{Guest: 100, To: node("2"), By: "root@n1"}); err != nil {
		t.Fatal(err)
	}
}

func (s *scene) expect(t *testing.T, m *migrate.Mover, outcome migrate.Outcome, on string) migrate.View {
	t.Helper()
	v, _ := m.Look(100)
	if v.Outcome != outcome {
		t.Errorf("outcome %q in phase %s (%s %s), want %q", v.Outcome, v.Phase, v.Reason, v.Trouble, outcome)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	here, there := on == "1" && s.ran, on == "2" && s.ran
	if g := s.state.Guests[100]; g.Owner != node(on) || s.runs != here || s.there != there || s.held != 0 || s.sealed && on == "1" {
		t.Errorf("the guest is n%s's; runs here %v, there %v; sealed %v, held %d", g.Owner.Short(), s.runs, s.there, s.sealed, s.held)
	}
	return v
}
