package api_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/api/socket"
	"github.com/tandemd/tandem/pkg/guest"
)

// backend answers what it was told to and keeps what it was asked.
type backend struct {
	asked  []any
	answer any
	err    error
	panics any
}

func respond[A any](b *backend, asked ...any) (A, error) {
	b.asked = append(b.asked, asked...)
	if b.panics != nil {
		panic(b.panics)
	}
	a, _ := b.answer.(A)
	return a, b.err
}

type runs struct {
	ID guest.JobID
	N  int
}

func (b *backend) Status(_ context.Context, f api.Filter) (api.Status, error) {
	return respond[api.Status](b, f)
}
func (b *backend) Cluster(context.Context) (api.Cluster, error) { return respond[api.Cluster](b) }
func (b *backend) InitCluster(_ context.Context, r api.InitRequest) (api.Cluster, error) {
	return respond[api.Cluster](b, r)
}

func (b *backend) Token(_ context.Context, r api.TokenRequest) (api.Token, error) {
	return respond[api.Token](b, r)
}

func (b *backend) Join(_ context.Context, r api.JoinRequest) (api.Cluster, error) {
	return respond[api.Cluster](b, r)
}
func (b *backend) Guests(context.Context) ([]api.Guest, error) { return respond[[]api.Guest](b) }
func (b *backend) AddGuest(_ context.Context, r api.AddGuestRequest) (api.Guest, error) {
	return respond[api.Guest](b, r)
}
func (b *backend) Jobs(context.Context) ([]api.Job, error) { return respond[[]api.Job](b) }
func (b *backend) Job(_ context.Context, id guest.JobID) (api.Job, error) {
	return respond[api.Job](b, id)
}

func (b *backend) CreateJob(_ context.Context, r api.CreateJobRequest) (api.Job, error) {
	return respond[api.Job](b, r)
}

func (b *backend) UpdateJob(_ context.Context, r api.UpdateJobRequest) (api.Job, error) {
	return respond[api.Job](b, r)
}

func (b *backend) DeleteJob(_ context.Context, r api.DeleteJobRequest) (api.DeletedJob, error) {
	return respond[api.DeletedJob](b, r)
}

func (b *backend) StartRun(_ context.Context, id guest.JobID) (api.StartedRun, error) {
	return respond[api.StartedRun](b, id)
}

func (b *backend) Watch(_ context.Context, r api.WatchRequest) (api.Watch, error) {
	return respond[api.Watch](b, r)
}

func (b *backend) Explain(_ context.Context, id guest.JobID) (api.Explanation, error) {
	return respond[api.Explanation](b, id)
}

func (b *backend) ScheduleNow(_ context.Context, id guest.JobID) error {
	_, err := respond[struct{}](b, id)
	return err
}

func (b *backend) Runs(_ context.Context, id guest.JobID, n int) ([]api.Run, error) {
	return respond[[]api.Run](b, runs{id, n})
}

// serve runs the handler on a real socket until the test ends.
func serve(t *testing.T, b api.Backend, log *zap.Logger) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := socket.Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: api.NewHandler(b, log), ReadHeaderTimeout: time.Minute}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	t.Cleanup(func() {
		srv.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return path
}

type method struct {
	name   string
	do     func(context.Context, api.Backend) (any, error)
	asked  []any
	answer any
}

// methods has an entry for every method of Backend.
func methods() []method {
	id := guest.JobID{Guest: 100, Number: 3}
	at := time.Date(2026, 11, 22, 20, 41, 0, 123456789, time.UTC)
	volumes := []guest.Volume{{Storage: "local-zfs", Name: "vm-100-disk-0"}}
	node := guest.NodeID(strings.Repeat("a", 32))
	cluster := api.Cluster{
		Version: api.Version, ID: "c", Generation: "g", Quorate: true, Leader: "n1", Votes: 1, Voters: 1, Quorum: 1, Index: 7,
		Members: []api.Member{{Name: "n1", ID: node, Peer: "p", Gossip: "g", State: "self", Since: at, Voter: true, Storages: []api.Storage{{Name: "s", Available: 1 << 60}}}},
	}
	job := api.Job{ID: id, Guest: 100, Source: "n1", Target: "n2", Schedule: "*/5", Rate: 1.5, Enabled: true, Snapshots: guest.Mirror, Digest: "d", Warnings: []string{"w"}}
	status := api.Status{
		Version: api.Version, Node: "n1", Time: at, Cluster: cluster, Silent: []guest.NodeName{"n3"}, Warnings: []string{"w"},
		Jobs: []api.JobStatus{{ID: id, Guest: 100, State: api.StateRunning, LastSync: at, Lag: new(1.5), Progress: &api.Progress{Started: at, Phase: "send", Sent: 1, Total: 2}}},
	}
	gst := api.Guest{ID: 100, Type: guest.VM, Name: "web", Volumes: volumes, Owner: "n1", Term: "1-0123456789abcdef", Digest: "d"}
	run := api.Run{ID: 9, Job: id, Start: at, Volumes: volumes, Error: "e", Hint: "h", Log: []api.LogLine{{Time: at, Level: "info", Message: "<m>"}}}
	filter := api.Filter{Guest: 100, Node: "n1"}
	watch := api.WatchRequest{Job: id, Run: 9, Lines: 3}
	explanation := api.Explanation{
		Version: api.Version, Node: "n1", Time: at, Job: job, Status: status.Jobs[0], Why: []string{"w"}, Next: []string{"n"}, NoPlan: "p", Silent: []guest.NodeName{"n2"},
		Plan: &api.PlannedSync{
			Kind: "full", Base: "b", Bytes: 1 << 60, Volumes: []api.PlannedVolume{{Volume: volumes[0], Kind: "full", Bytes: 1, Steps: []string{"s"}, Reason: "r"}},
			Refusals: []api.PlannedRefusal{{Volume: volumes[0], Reason: "r", Hint: "h"}}, Remembered: "m",
		},
	}
	token := api.TokenRequest{TTL: 60}
	join := api.JoinRequest{Address: "a:1", Token: "t"}
	add := api.AddGuestRequest{ID: 100, Type: guest.VM, Name: "web", Volumes: volumes, Unit: "u.service", Node: "n1"}
	create := api.CreateJobRequest{ID: id, Target: "n2", Schedule: "*/5", Rate: 1.5, Comment: "c", Disabled: true, Snapshots: guest.Keep}
	update := api.UpdateJobRequest{ID: id, Schedule: new(""), Rate: new(0.0), Comment: new("c"), Enabled: new(false), Snapshots: new(guest.None), Digest: "d"}
	return slices.Concat(clusterMethods(cluster), verifyMethods(id, at), guestMethods(gst), divergedMethods(), moveMethods(at), drillMethods(at), []method{
		{"Status", func(ctx context.Context, b api.Backend) (any, error) { return b.Status(ctx, filter) }, []any{filter}, status},
		{"Status of all", func(ctx context.Context, b api.Backend) (any, error) { return b.Status(ctx, api.Filter{}) }, []any{api.Filter{}}, status},
		{"Cluster", func(ctx context.Context, b api.Backend) (any, error) { return b.Cluster(ctx) }, nil, cluster},
		{"InitCluster", func(ctx context.Context, b api.Backend) (any, error) {
			return b.InitCluster(ctx, api.InitRequest{Name: "prod"})
		}, []any{api.InitRequest{Name: "prod"}}, cluster},
		{"Token", func(ctx context.Context, b api.Backend) (any, error) { return b.Token(ctx, token) }, []any{token}, api.Token{Text: "t", Address: "a", Expires: at}},
		{"Join", func(ctx context.Context, b api.Backend) (any, error) { return b.Join(ctx, join) }, []any{join}, cluster},
		{"Guests", func(ctx context.Context, b api.Backend) (any, error) { return b.Guests(ctx) }, nil, []api.Guest{gst}},
		{"AddGuest", func(ctx context.Context, b api.Backend) (any, error) { return b.AddGuest(ctx, add) }, []any{add}, gst},
		{"Jobs", func(ctx context.Context, b api.Backend) (any, error) { return b.Jobs(ctx) }, nil, []api.Job{job}},
		{"Job", func(ctx context.Context, b api.Backend) (any, error) { return b.Job(ctx, id) }, []any{id}, job},
		{"CreateJob", func(ctx context.Context, b api.Backend) (any, error) { return b.CreateJob(ctx, create) }, []any{create}, job},
		{"UpdateJob", func(ctx context.Context, b api.Backend) (any, error) { return b.UpdateJob(ctx, update) }, []any{update}, job},
		{"DeleteJob", func(ctx context.Context, b api.Backend) (any, error) {
			return b.DeleteJob(ctx, api.DeleteJobRequest{ID: id, Keep: true})
		}, []any{api.DeleteJobRequest{ID: id, Keep: true}}, api.DeletedJob{ID: id, Left: []string{}}},
		{"DeleteJob at once", func(ctx context.Context, b api.Backend) (any, error) {
			return b.DeleteJob(ctx, api.DeleteJobRequest{ID: id, Force: true})
		}, []any{api.DeleteJobRequest{ID: id, Force: true}}, api.DeletedJob{ID: id, Dropped: true, Left: []string{"a replica"}}},
		{"StartRun", func(ctx context.Context, b api.Backend) (any, error) { return b.StartRun(ctx, id) }, []any{id}, api.StartedRun{Job: id, Run: 9, Node: "n1"}},
		{"Watch", func(ctx context.Context, b api.Backend) (any, error) { return b.Watch(ctx, watch) }, []any{watch}, api.Watch{
			Version: api.Version, Job: id, Time: at, Run: &run, Progress: &api.Progress{Started: at, Phase: "send"}, Waiting: "w", Idle: true,
		}},
		{"Explain", func(ctx context.Context, b api.Backend) (any, error) { return b.Explain(ctx, id) }, []any{id}, explanation},
		{"ScheduleNow", func(ctx context.Context, b api.Backend) (any, error) { return nil, b.ScheduleNow(ctx, id) }, []any{id}, nil},
		{"Runs", func(ctx context.Context, b api.Backend) (any, error) { return b.Runs(ctx, id, 2) }, []any{runs{id, 2}}, []api.Run{run}},
	})
}

func TestClient_EveryMethodRoundTrips(t *testing.T) {
	for _, m := range methods() {
		t.Run(m.name, func(t *testing.T) {
			b := &backend{answer: m.answer}
			got, err := m.do(t.Context(), api.NewClient(serve(t, b, zap.NewNop())))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(m.asked, b.asked); d != "" {
				t.Errorf("the request changed on its way (-sent +arrived):\n%s", d)
			}
			if d := cmp.Diff(m.answer, got); d != "" {
				t.Errorf("the answer changed on its way (-sent +arrived):\n%s", d)
			}
		})
	}
}

func TestClient_ErrorsKeepCodeAndHint(t *testing.T) {
	codes := []api.Code{
		api.CodeInvalid, api.CodeNotFound, api.CodeRefused, api.CodeNotQuorate,
		api.CodeUnknown, api.CodeUnavailable, api.CodeInternal, "one of a later version",
	}
	for i, m := range methods() {
		want := &api.Error{Code: codes[i%len(codes)], Message: "no <such> thing", Hint: "make it"}
		b := &backend{err: want}
		_, err := m.do(t.Context(), api.NewClient(serve(t, b, zap.NewNop())))
		var got *api.Error
		if !errors.As(err, &got) {
			t.Fatalf("%s: got %v, want an *api.Error", m.name, err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: %s", m.name, d)
		}
	}
}

func TestHandler_WrappedAndPlainErrors(t *testing.T) {
	b := &backend{err: fmt.Errorf("n2: %w", &api.Error{Code: api.CodeRefused, Message: "no", Hint: "h"})}
	c := api.NewClient(serve(t, b, zap.NewNop()))
	_, err := c.Jobs(t.Context())
	var got *api.Error
	if !errors.As(err, &got) || got.Code != api.CodeRefused || got.Message != "n2: no" || got.Hint != "h" {
		t.Errorf("got %#v, want the code, the hint and the wrapping's words", err)
	}
	b.err = errors.New("disk on fire")
	_, err = c.Jobs(t.Context())
	if !errors.As(err, &got) || got.Code != api.CodeInternal || got.Message != "disk on fire" {
		t.Errorf("got %#v, want an internal error with the text", err)
	}
}

func TestHandler_PanicIsAnsweredAndLogged(t *testing.T) {
	core, logs := observer.New(zapcore.ErrorLevel)
	b := &backend{panics: "boom"}
	c := api.NewClient(serve(t, b, zap.New(core)))
	_, err := c.Jobs(t.Context())
	var got *api.Error
	if !errors.As(err, &got) || got.Code != api.CodeInternal || strings.Contains(got.Message, "boom") {
		t.Errorf("got %v, want an internal error without the inside", err)
	}
	if logs.Len() != 1 || logs.All()[0].ContextMap()["panic"] != "boom" {
		t.Errorf("got %v, want the panic in the log", logs.All())
	}
	b.panics = nil
	if _, err := c.Jobs(t.Context()); err != nil {
		t.Errorf("after a panic: %v", err)
	}
}

func TestHandler_RefusesWhatItDoesNotUnderstand(t *testing.T) {
	b := &backend{}
	at := serve(t, b, zap.NewNop())
	for _, tc := range []struct{ method, path, body, want string }{
		{"POST", "/v1/jobs", "", "body is empty"},
		{"POST", "/v1/jobs", "\x00\xff garbage", "cannot be read"},
		{"POST", "/v1/jobs", `{"id":"100-0"`, "cannot be read"},
		{"POST", "/v1/jobs", `{"id":"100-0","sched":"*/5"}`, `unknown field \"sched\"`},
		{"POST", "/v1/jobs", `{"id":"100"}`, "must be a guest ID and a job number"},
		{"POST", "/v1/jobs", `{"id":"100-0"} {}`, "something after its end"},
		{"POST", "/v1/jobs", `{"comment":"` + strings.Repeat("x", 1<<20) + `"}`, "longer than 1048576 bytes"},
		{"POST", "/v1/guests", `{"id":100,"volumes":["../etc"]}`, "must be STORAGE:NAME"},
		{"PATCH", "/v1/jobs/100-0", `{"id":"100-1"}`, "path names job 100-0"},
		{"GET", "/v1/jobs/abc", "", "must be a guest ID and a job number"},
		{"GET", "/v1/jobs/100-0/runs?n=two", "", "must be a number"},
		{"GET", "/v1/status?guest=7", "", "from 100"},
		{"GET", "/v1/status?gest=100", "", `unknown parameter \"gest\"`},
		{"DELETE", "/v1/jobs/100-0?keep=maybe", "", "true or false"},
		{"DELETE", "/v1/jobs/100-0?force=1x", "", "force=\\\"1x\\\": must be true or false"},
		{"GET", "/v1/jobs/100-0/runs/x/watch", "", "must be a number"},
		{"GET", "/v1/jobs/100-0/runs/1/watch?lines=-1", "", "at least 0"},
		{"GET", "/v1/jobs/100/explain", "", "must be a guest ID and a job number"},
		{"GET", "/v1/guests/7", "", "from 100"},
		{"PATCH", "/v1/guests/100", `{"id":101}`, "path names guest 100"},
		{"PATCH", "/v1/guests/100", `{"id":100,"add_volumes":["x"]}`, "must be STORAGE:NAME"},
		{"DELETE", "/v1/guests/100?delete_data=maybe", "", "true or false"},
		{"GET", "/v1/discover?node=N", "", "node name"},
		{"GET", "/v1/storages?node=N", "", "node name"},
		{"GET", "/v1/cluster/log?n=x", "", "must be a number"},
		{"POST", "/v1/cluster/expected", `{"votes":"one"}`, "cannot be read"},
		{"GET", "/v1/nodes", "", "does not know the request"},
		{"PUT", "/v1/jobs", "{}", "does not know the request"},
	} {
		code, body := raw(t, at, tc.method, tc.path, tc.body)
		if code < 400 || code > 499 || !strings.Contains(body, tc.want) {
			t.Errorf("%s %s %.40q: got %d %s, want a 4xx that says %q", tc.method, tc.path, tc.body, code, body, tc.want)
		}
	}
	if len(b.asked) != 0 {
		t.Errorf("the backend was asked %v", b.asked)
	}
}

func raw(t *testing.T, at, method, path, body string) (int, string) {
	t.Helper()
	hc := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", at)
	}}}
	req, err := http.NewRequestWithContext(t.Context(), method, "http://x"+path, bytes.NewReader([]byte(body)))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := hc.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestClient_SaysWhatIsWrongWithTheSocket(t *testing.T) {
	dir := t.TempDir()
	dead := filepath.Join(dir, "dead")
	leaveSocket(t, dead)
	for name, tc := range map[string]struct{ socket, want string }{
		"missing": {filepath.Join(dir, "none"), "tandemd is not running on this node (no socket " + filepath.Join(dir, "none") + "): systemctl start tandemd"},
		"dead":    {dead, "nobody answers on " + dead},
	} {
		_, err := api.NewClient(tc.socket).Status(t.Context(), api.Filter{})
		var e *api.Error
		if !errors.As(err, &e) || e.Code != api.CodeUnavailable || !strings.Contains(e.Message, tc.want) {
			t.Errorf("%s: got %v, want unavailable: %s", name, err, tc.want)
		}
	}
	if os.Geteuid() == 0 {
		return // Root may connect anywhere.
	}
	if err := os.Chmod(dead, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := api.NewClient(dead).Jobs(t.Context()); err == nil || !strings.Contains(err.Error(), "add yourself to the group tandem") {
		t.Errorf("got %v, want a word about the group", err)
	}
}

func TestClient_LostAnswer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := socket.Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Read(make([]byte, 1))
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	c := api.NewClient(path)
	var e *api.Error
	if _, err := c.Jobs(t.Context()); !errors.As(err, &e) || e.Code != api.CodeUnavailable {
		t.Errorf("a read: got %#v, want unavailable", err)
	}
	if err := c.ScheduleNow(t.Context(), guest.JobID{Guest: 100}); !errors.As(err, &e) || e.Code != api.CodeUnknown {
		t.Errorf("a change: got %#v, want an unknown outcome", err)
	}
}

// leaveSocket makes what a killed daemon leaves.
func leaveSocket(t *testing.T, path string) {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
}

func TestListen(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	leaveSocket(t, path)
	l, err := socket.Listen(t.Context(), path)
	if err != nil {
		t.Fatalf("over a stale socket: %v", err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("got %v, %v; want mode 0660", info.Mode(), err)
	}
	if _, err := socket.Listen(t.Context(), path); err == nil || !strings.Contains(err.Error(), "another tandemd") {
		t.Errorf("a second one: got %v, want a refusal", err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := socket.Listen(t.Context(), file); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("over a file: got %v, want a refusal", err)
	}
	if b, _ := os.ReadFile(file); string(b) != "precious" {
		t.Error("the file was touched")
	}
}
