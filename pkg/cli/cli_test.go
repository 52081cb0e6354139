package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	_ "time/tzdata"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/api/socket"
	"github.com/tandemd/tandem/pkg/cli"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/identity"
)

var update = flag.Bool("update", false, "rewrite the expected output in the scripts")

// world is what the daemon of a script answers, as testdata/world.json has it
// and the script's `world FILE` overrides it.
type world struct {
	Status  api.Status  `json:"status"`
	Cluster api.Cluster `json:"cluster"`
	Token   api.Token   `json:"token"`
	Guests  []api.Guest `json:"guests"`
	Jobs    []api.Job   `json:"jobs"`
	Runs    []api.Run   `json:"runs"`
	// Watches are the answers to Watch, one after the other; the last one stays.
	Watches     []api.Watch     `json:"watches"`
	Explanation api.Explanation `json:"explanation"`
	Deleted     api.DeletedJob  `json:"deleted"`
	verbsWorld
	verifyWorld
	moveWorld
	drillWorld
	// Error, where set, is the answer to everything.
	Error *api.Error `json:"error"`
	// WatchError, where set, is the answer to Watch once the watches are told.
	WatchError *api.Error `json:"watch_error"`
}

// daemon is a Backend that answers from a world and notes what it was asked.
type daemon struct {
	mu sync.Mutex
	w  world
	// parts are the fields of w, as JSON.
	parts map[string]json.RawMessage
	sent  bytes.Buffer
	// stop ends the command that runs, as Ctrl-C does.
	stop context.CancelFunc
	code int // the exit code of the last command; the script's goroutine only
}

func answer[A any](d *daemon, name string, request any, pick func(*world) (A, error)) (A, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	b, err := json.Marshal(request)
	if err != nil {
		panic(err)
	}
	fmt.Fprintf(&d.sent, "%s %s\n", name, b)
	if d.w.Error != nil {
		var none A
		return none, d.w.Error
	}
	return pick(&d.w)
}

func (d *daemon) Status(_ context.Context, f api.Filter) (api.Status, error) {
	return answer(d, "Status", f, func(w *world) (api.Status, error) {
		s := w.Status
		s.Jobs = slices.DeleteFunc(slices.Clone(s.Jobs), func(j api.JobStatus) bool { return f.Guest != 0 && f.Guest != j.Guest })
		return s, nil
	})
}

func (d *daemon) Cluster(context.Context) (api.Cluster, error) {
	return answer(d, "Cluster", nil, func(w *world) (api.Cluster, error) { return w.Cluster, nil })
}

func (d *daemon) InitCluster(_ context.Context, r api.InitRequest) (api.Cluster, error) {
	return answer(d, "InitCluster", r, func(w *world) (api.Cluster, error) {
		c := w.Cluster
		c.Name, c.Members = r.Name, c.Members[:1]
		return c, nil
	})
}

func (d *daemon) Token(_ context.Context, r api.TokenRequest) (api.Token, error) {
	return answer(d, "Token", r, func(w *world) (api.Token, error) { return w.Token, nil })
}

func (d *daemon) Join(_ context.Context, r api.JoinRequest) (api.Cluster, error) {
	return answer(d, "Join", r, func(w *world) (api.Cluster, error) { return w.Cluster, nil })
}

func (d *daemon) Guests(context.Context) ([]api.Guest, error) {
	return answer(d, "Guests", nil, func(w *world) ([]api.Guest, error) { return w.Guests, nil })
}

func (d *daemon) AddGuest(_ context.Context, r api.AddGuestRequest) (api.Guest, error) {
	return answer(d, "AddGuest", r, func(*world) (api.Guest, error) {
		return api.Guest{ID: r.ID, Type: r.Type, Name: r.Name, Volumes: r.Volumes, Unit: r.Unit, Owner: "n1", Term: "1-0123456789abcdef", Digest: "d0"}, nil
	})
}

func (d *daemon) Jobs(context.Context) ([]api.Job, error) {
	return answer(d, "Jobs", nil, func(w *world) ([]api.Job, error) { return w.Jobs, nil })
}

func (d *daemon) Job(_ context.Context, id guest.JobID) (api.Job, error) {
	return answer(d, "Job", id, func(w *world) (api.Job, error) { return w.job(id) })
}

func (w *world) job(id guest.JobID) (api.Job, error) {
	for _, j := range w.Jobs {
		if j.ID == id {
			return j, nil
		}
	}
	return api.Job{}, &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("job %s: there is none", id), Hint: "tandem list shows all"}
}

func (d *daemon) CreateJob(_ context.Context, r api.CreateJobRequest) (api.Job, error) {
	return answer(d, "CreateJob", r, func(w *world) (api.Job, error) {
		j := api.Job{
			ID: r.ID, Guest: r.ID.Guest, Source: "n1", Target: r.Target, Schedule: r.Schedule, Rate: r.Rate, Comment: r.Comment,
			Enabled: !r.Disabled, Snapshots: r.Snapshots, Digest: "d1",
		}
		if r.Target == "n3" {
			j.Warnings = []string{"n3 did not answer: its storages were not checked"}
		}
		w.put(j)
		return j, nil
	})
}

// put is what makes `read` show what was made and changed.
func (w *world) put(j api.Job) {
	j.Warnings = nil
	for i := range w.Jobs {
		if w.Jobs[i].ID == j.ID {
			w.Jobs[i] = j
			return
		}
	}
	w.Jobs = append(w.Jobs, j)
}

func (d *daemon) UpdateJob(_ context.Context, r api.UpdateJobRequest) (api.Job, error) {
	return answer(d, "UpdateJob", r, func(w *world) (api.Job, error) {
		j, err := w.job(r.ID)
		if err != nil {
			return j, err
		}
		if r.Schedule != nil {
			j.Schedule = *r.Schedule
		}
		if r.Rate != nil {
			j.Rate = *r.Rate
		}
		if r.Enabled != nil {
			j.Enabled = *r.Enabled
		}
		w.put(j)
		return j, nil
	})
}

func (d *daemon) DeleteJob(_ context.Context, r api.DeleteJobRequest) (api.DeletedJob, error) {
	return answer(d, "DeleteJob", r, func(w *world) (api.DeletedJob, error) {
		_, err := w.job(r.ID)
		if !r.Force {
			return api.DeletedJob{ID: r.ID}, err
		}
		return w.Deleted, err
	})
}

func (d *daemon) StartRun(_ context.Context, id guest.JobID) (api.StartedRun, error) {
	return answer(d, "StartRun", id, func(w *world) (api.StartedRun, error) {
		_, err := w.job(id)
		return api.StartedRun{Job: id, Run: 9, Node: "n1"}, err
	})
}

// Watch tells the world's watches; after the last one whoever watches is stopped.
func (d *daemon) Watch(ctx context.Context, r api.WatchRequest) (api.Watch, error) {
	w, err := answer(d, "Watch", r, func(w *world) (api.Watch, error) {
		if len(w.Watches) == 0 && w.WatchError != nil {
			return api.Watch{}, w.WatchError
		}
		if len(w.Watches) == 0 {
			return api.Watch{}, nil
		}
		next := w.Watches[0]
		w.Watches = w.Watches[1:]
		return next, nil
	})
	if err == nil && w.Job == (guest.JobID{}) {
		d.stop()
		<-ctx.Done()
	}
	return w, err
}

func (d *daemon) Explain(_ context.Context, id guest.JobID) (api.Explanation, error) {
	return answer(d, "Explain", id, func(w *world) (api.Explanation, error) {
		_, err := w.job(id)
		return w.Explanation, err
	})
}

func (d *daemon) ScheduleNow(_ context.Context, id guest.JobID) error {
	_, err := answer(d, "ScheduleNow", id, func(w *world) (api.Job, error) { return w.job(id) })
	return err
}

func (d *daemon) Runs(_ context.Context, id guest.JobID, n int) ([]api.Run, error) {
	return answer(d, "Runs", []any{id, n}, func(w *world) ([]api.Run, error) {
		return w.Runs[:min(n, len(w.Runs))], nil
	})
}

// TestMain has a tandem-client for scripts that a shell runs: it talks to the
// script's daemon and not to the machine's.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"tandem-client": func() {
		os.Exit(cli.Run(context.Background(), cli.Env{
			Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Now: time.Now, Zone: time.UTC, Version: "1.2.3",
		}, append(os.Args[1:], "--socket", os.Getenv("SOCKET"))))
	}})
}

// TestScripts runs testdata/script. Beside testscript's own commands they have
//
//	tandem ARGS      run it in this process; it must exit with 0 (with !, it must not)
//	tandem-in FILE ARGS   the same with FILE as standard input
//	code N           that was its exit code
//	sent             print what the daemon was asked since the last time
//	world FILE       have the daemon answer differently, in the terms of world.json
//	narrow           the last output fits 80 columns and 24 rows
//	tandem-tty N ARGS   tandem on a terminal; Ctrl-C is typed in its Nth pause
//
// It is 20:41:30 in Vienna for them. -update rewrites expected output.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           filepath.Join("testdata", "script"),
		UpdateScripts: *update,
		Setup: func(env *testscript.Env) error {
			d := &daemon{}
			env.Values["daemon"] = d
			if err := d.load(filepath.Join(wd(t), "testdata", "world.json")); err != nil {
				return err
			}
			token, err := mint(t.TempDir())
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(env.WorkDir, "token"), []byte(token+"\n"), 0o600); err != nil {
				return err
			}
			env.Setenv("TOKEN", token)
			return d.serve(t.Context(), env)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"tandem": func(ts *testscript.TestScript, neg bool, args []string) { run(ts, neg, surroundings{}, args) },
			"tandem-in": func(ts *testscript.TestScript, neg bool, args []string) {
				run(ts, neg, surroundings{stdin: ts.ReadFile(args[0])}, args[1:])
			},
			"tandem-tty": func(ts *testscript.TestScript, neg bool, args []string) {
				n, err := strconv.Atoi(args[0])
				ts.Check(err)
				run(ts, neg, surroundings{terminal: true, pauses: n}, args[1:])
			},
			"code":   code,
			"sent":   sent,
			"narrow": narrow,
			"world": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Check(ts.Value("daemon").(*daemon).load(ts.MkAbs(args[0])))
			},
		},
	})
}

func wd(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// mint makes a token that is good in form.
func mint(dir string) (string, error) {
	tokens, err := identity.OpenTokens(filepath.Join(dir, "tokens"))
	if err != nil {
		return "", err
	}
	t, err := tokens.Mint(now(), time.Hour, identity.Issuer{Addresses: []string{"192.0.2.1:7947"}, Fingerprint: strings.Repeat("ab", 32)})
	return t.String(), err
}

func now() time.Time { return time.Date(2026, 11, 22, 19, 41, 30, 0, time.UTC) }

func (d *daemon) load(file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	// What the file names is replaced as a whole: nothing is merged into old values.
	if err := json.Unmarshal(b, &d.parts); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	whole, err := json.Marshal(d.parts)
	if err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(whole))
	dec.DisallowUnknownFields()
	d.w = world{}
	if err := dec.Decode(&d.w); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

func (d *daemon) serve(ctx context.Context, env *testscript.Env) error {
	path := filepath.Join(env.WorkDir, ".s")
	l, err := socket.Listen(ctx, path)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: api.NewHandler(d, zap.NewNop()), ReadHeaderTimeout: time.Minute}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	env.Defer(func() {
		srv.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			env.T().Log(err)
		}
	})
	env.Setenv("SOCKET", path)
	return nil
}

// surroundings are those of one run: its input, whether there is a terminal, and
// in which pause Ctrl-C is typed (0: in the first).
type surroundings struct {
	stdin    string
	terminal bool
	pauses   int
}

func run(ts *testscript.TestScript, neg bool, in surroundings, args []string) { //nolint:revive // flag-parameter: testscript says it so
	zone, err := time.LoadLocation("Europe/Vienna")
	ts.Check(err)
	if !strings.Contains(strings.Join(args, " "), "--socket") && (len(args) == 0 || args[0] != "__complete") {
		args = append(args, "--socket", ts.Getenv("SOCKET"))
	}
	d := ts.Value("daemon").(*daemon)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	d.mu.Lock()
	d.stop = cancel
	d.mu.Unlock()
	d.code = cli.Run(ctx, cli.Env{
		Stdin: strings.NewReader(in.stdin), Stdout: ts.Stdout(), Stderr: ts.Stderr(),
		Now: now, Zone: zone, Version: "1.2.3", Terminal: in.terminal,
		Pause: func(ctx context.Context, _ time.Duration) error {
			if in.pauses--; in.pauses <= 0 {
				cancel()
			}
			return context.Cause(ctx)
		},
	}, args)
	if neg == (d.code == 0) {
		ts.Fatalf("tandem %s: exit code %d", strings.Join(args, " "), d.code)
	}
}

func code(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	if got := ts.Value("daemon").(*daemon).code; got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

func sent(ts *testscript.TestScript, _ bool, _ []string) {
	d := ts.Value("daemon").(*daemon)
	d.mu.Lock()
	defer d.mu.Unlock()
	_, err := d.sent.WriteTo(ts.Stdout())
	ts.Check(err)
	d.sent.Reset()
}

func narrow(ts *testscript.TestScript, _ bool, _ []string) {
	lines := strings.Split(strings.TrimSuffix(ts.ReadFile("stdout"), "\n"), "\n")
	if len(lines) > 23 {
		ts.Fatalf("%d rows and a prompt do not fit 24", len(lines))
	}
	for _, l := range lines {
		if n := len([]rune(l)); n > 80 {
			ts.Fatalf("%d columns: %s", n, l)
		}
	}
}
