package replicate_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/time/rate"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/move/promote"
	"github.com/tandemd/tandem/pkg/move/retire"
	"github.com/tandemd/tandem/pkg/plan"
	"github.com/tandemd/tandem/pkg/replicate"
	"github.com/tandemd/tandem/pkg/replicate/aside"
	"github.com/tandemd/tandem/pkg/replicate/leftover"
	"github.com/tandemd/tandem/pkg/replicate/local"
	"github.com/tandemd/tandem/pkg/replicate/verify"
	"github.com/tandemd/tandem/pkg/zfs"
	"github.com/tandemd/tandem/pkg/zfs/zfstest"
)

// world is a cluster in one process: in-memory ZFS, a fixed ledger, and a link
// that joins the engines by pipes and JSON.
type world struct {
	t     testing.TB
	mu    sync.Mutex
	state ledger.State
	now   time.Time
	nodes map[guest.NodeID]*node
	// lost is what n2 had that the owner never had.
	lost []byte
	// copied is where that is, set aside.
	copied string
	// trees is what n1 and n2 had.
	trees [2]string
	// reaper is at work, if there is one.
	reaper *reaper
	// streams is the daemons' option; it counts from their next start.
	streams int
	// more are storages of all nodes besides local-zfs; they count from the next start, too.
	more map[string]string
}

// node is one machine: its pool and files live on when its daemon is restarted.
type node struct {
	w      *world
	id     guest.NodeID
	name   guest.NodeName
	pool   *zfstest.Pool
	files  *files
	dir    string
	source *replicate.Source
	target *replicate.Target
	reader
	driller
	finder *leftover.Finder
	keeper *aside.Keeper
	// promoter and retirer change what it is to the guest.
	promoter *promote.Promoter
	retirer  *retire.Retirer
	options  replicate.Options
	// ledger is the world's, unless it is set.
	ledger replicate.Ledger
	// quorate is Options.Quorate.
	quorate func() time.Duration
	// trap is called before and after each thing that the daemon does.
	trap func(what string) error
	// reap is called with it, and told what it is about as well.
	reap func(what string) error
	// counted is how many of the pool's calls processes has told of.
	counted int
}

var (
	disk = guest.Volume{Storage: "local-zfs", Name: "vm-100-disk-0"}
	root = guest.Volume{Storage: "local-zfs", Name: "vm-100-root"}
	term = guest.Term{N: 1, Generation: "0123456789abcdef"}
	job  = guest.JobID{Guest: 100}
)

const (
	diskDS = "tank/g/vm-100-disk-0"
	rootDS = "tank/g/vm-100-root"
)

func id(n string) guest.NodeID { return guest.NodeID(strings.Repeat("0", 31) + n) }

// newWorld makes three nodes; n1 owns guest 100 with a zvol and a filesystem, and
// job 100-0 replicates it to n2.
func newWorld(tb testing.TB) *world {
	tb.Helper()
	w := &world{t: tb, now: time.Unix(1_800_000_000, 0), nodes: map[guest.NodeID]*node{}}
	w.state = ledger.State{
		Cluster: "c1", Index: 10, Members: map[guest.NodeID]ledger.Member{},
		Guests: map[guest.ID]guest.Guest{100: {
			ID: 100, Type: guest.VM, Name: "web", Owner: id("1"), Term: term, Volumes: []guest.Volume{disk, root},
		}},
		Jobs: map[guest.JobID]guest.Job{job: {ID: job, Target: id("2"), Schedule: "4:00", Snapshots: guest.Mirror}},
	}
	for _, n := range []string{"1", "2", "3"} {
		name := guest.NodeName("n" + n)
		x := &node{w: w, id: id(n), name: name, files: newFiles(), dir: tb.TempDir()}
		x.pool = zfstest.New(zfstest.Options{Node: string(name), Now: w.clock, Volatile: true, Hook: func(e zfstest.Event) error {
			return x.touch(fmt.Sprintf("%s %s %s after=%v", x.name, e.Op, e.Name, e.After))
		}})
		must(tb, x.pool.Create("tank/g", 0, map[string]string{"canmount": "off"}))
		w.state.Members[x.id] = ledger.Member{ID: x.id, Name: name}
		w.nodes[x.id] = x
		x.restart()
	}
	n1 := w.node("1")
	must(tb, n1.pool.Create(diskDS, 3<<19, nil))
	must(tb, n1.pool.Create(rootDS, 0, nil))
	n1.write(diskDS, 0, 64)
	n1.write(rootDS, 0, 16)
	for _, n := range w.nodes {
		n.pool.Sync()
	}
	return w
}

func (w *world) node(n string) *node { return w.nodes[id(n)] }

// owner is the node that has the guest by the ledger.
func (w *world) owner() *node { return w.nodes[w.View().Guests[100].Owner] }

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

// change edits the ledger of all nodes.
func (w *world) change(f func(*ledger.State)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(&w.state)
	w.state.Index++
}

func (w *world) View() *ledger.State {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.state
	return &s
}

func (w *world) WaitApplied(context.Context, uint64) error { return errors.New("not applied") }

// restart makes the engines anew, as a new process does.
func (n *node) restart() {
	n.setTrap(nil)
	o := replicate.Options{
		Node: n.id, Name: n.name, Storages: map[string]string{"local-zfs": "tank/g"}, ZFS: n.pool, Ledger: n.w,
		Store: store{n}, LockDir: n.dir, Now: n.w.clock, LockWait: time.Second, Quorate: n.quorate, Streams: n.w.streams,
		Locks: local.NewLocks(n.dir), Pins: local.NewPins(), Identities: local.NewIdentities(store{n}),
	}
	if n.ledger != nil {
		o.Ledger = n.ledger
	}
	maps.Copy(o.Storages, n.w.more)
	n.options = o
	var err error
	n.source, err = replicate.NewSource(o, link{n})
	must(n.w.t, err)
	n.target, err = replicate.NewTarget(o)
	must(n.w.t, err)
	n.read(o)
	n.drill(o)
	n.keeper, err = aside.New(o)
	must(n.w.t, err)
	n.finder, err = leftover.New(o, n.source, n.target)
	must(n.w.t, err)
	n.promoter, err = promote.New(o, n.target)
	must(n.w.t, err)
	n.retirer, err = retire.New(o)
	must(n.w.t, err)
}

func (n *node) touch(what string, about ...string) error {
	n.w.mu.Lock()
	trap, reap := n.trap, n.reap
	n.w.mu.Unlock()
	if reap != nil {
		if err := reap(strings.Join(append([]string{what}, about...), " ")); err != nil {
			return err
		}
	}
	if trap == nil {
		return nil
	}
	return trap(what)
}

// write puts fresh random data of so many blocks of 4 KiB into a dataset.
func (n *node) write(dataset string, block int64, blocks int) {
	n.w.t.Helper()
	r := rand.NewChaCha8([32]byte{byte(block), byte(blocks), byte(n.w.clock().Unix())})
	data := make([]byte, blocks*4096)
	_, _ = r.Read(data)
	must(n.w.t, n.pool.Write(dataset, block*4096, data))
}

func (n *node) snap(full string) {
	n.w.t.Helper()
	must(n.w.t, n.pool.Snapshot(n.w.t.Context(), []string{full}, nil))
}

func (n *node) dataset(name string) zfs.Dataset {
	n.w.t.Helper()
	list, err := n.pool.List(n.w.t.Context(), name)
	must(n.w.t, err)
	return list[0]
}

// operators are the names of the snapshots that are not Tandem's.
func (n *node) operators(name string) []string {
	var out []string
	for _, s := range n.dataset(name).Snapshots {
		if !strings.HasPrefix(s.Name, "tandem_") {
			out = append(out, s.Name)
		}
	}
	return out
}

// points counts Tandem's snapshots.
func (n *node) points(name string) int {
	return len(n.dataset(name).Snapshots) - len(n.operators(name))
}

// run does one sync of a job and wants it to succeed.
func (w *world) run(j guest.JobID) replicate.Result {
	w.t.Helper()
	w.pass(time.Minute)
	r, err := w.owner().source.Run(w.t.Context(), replicate.Task{Job: j})
	if err != nil {
		w.t.Fatalf("job %s: %v (hint: %s)", j, err, replicate.HintOf(err))
	}
	return r
}

// fails does one sync that must fail with the class and the text.
func (w *world) fails(class replicate.Class, text string) {
	w.t.Helper()
	w.pass(time.Minute)
	_, err := w.owner().source.Run(w.t.Context(), replicate.Task{Job: job})
	var e *replicate.Error
	if !errors.As(err, &e) || e.Class != class || !strings.Contains(err.Error(), text) {
		w.t.Fatalf("got error %v of class %v, want class %s and a text with %q", err, replicate.ClassOf(err), class, text)
	}
}

// same wants the target to hold the newest state of each of the owner's volumes, protected.
func (w *world) same(target string) {
	w.t.Helper()
	for _, name := range []string{diskDS, rootDS} {
		want, err := w.owner().pool.Read(name)
		must(w.t, err)
		got, err := w.node(target).pool.Read(name)
		must(w.t, err)
		if !bytes.Equal(want, got) {
			w.t.Errorf("%s on n%s differs from the owner's", name, target)
		}
		d := w.node(target).dataset(name)
		if !d.ReadOnly || d.Mounted || d.Props[zfs.PropRole] != zfs.RoleReplica {
			w.t.Errorf("%s on n%s: readonly %v, mounted %v, role %q", name, target, d.ReadOnly, d.Mounted, d.Props[zfs.PropRole])
		}
	}
}

// remote is an error as it comes over the wire.
type remote struct{ code, text, hint string }

func (r *remote) Error() string     { return r.text }
func (r *remote) ErrorCode() string { return r.code }
func (r *remote) ErrorHint() string { return r.hint }

func overWire(err error) error {
	if err == nil {
		return nil
	}
	out := &remote{text: err.Error(), code: "failed", hint: replicate.HintOf(err)}
	var coded interface{ ErrorCode() string }
	if errors.As(err, &coded) {
		out.code = coded.ErrorCode()
	}
	return out
}

type link struct{ from *node }

func convert(from, to any) error {
	b, err := json.Marshal(from)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, to)
}

func handle[Req, Resp any](ctx context.Context, from guest.NodeID, in any, f func(context.Context, guest.NodeID, Req) (Resp, error)) (any, error) {
	var req Req
	if err := convert(in, &req); err != nil {
		return nil, err
	}
	return f(ctx, from, req)
}

func (l link) Call(ctx context.Context, to guest.NodeID, path string, req, resp any) error {
	if err := l.from.touch("call " + path); err != nil {
		return err
	}
	n := l.from.w.nodes[to]
	if err := n.touch("called " + path); err != nil {
		return err
	}
	var out any
	var err error
	switch path {
	case replicate.PathInventory:
		out, err = handle(ctx, l.from.id, req, n.target.Inventory)
	case replicate.PathAbort:
		out, err = handle(ctx, l.from.id, req, n.target.Abort)
	case replicate.PathCommit:
		out, err = handle(ctx, l.from.id, req, n.target.Commit)
	case replicate.PathAside:
		n.drills.EndGuest(ctx, 100) // As the daemon does.
		if r, ok := req.(replicate.AsideRequest); ok && r.Verb == plan.SetAside {
			n.server.EndGuest(ctx, 100, verify.Aside(r.Volume, r.Why))
		}
		out, err = handle(ctx, l.from.id, req, n.target.Aside)
	case replicate.PathRemove:
		n.drills.EndGuest(ctx, 100)
		out, err = handle(ctx, l.from.id, req, n.target.Remove)
	default:
		out, err = n.serve(ctx, l.from.id, path, req)
	}
	if err != nil {
		return overWire(err)
	}
	if err := n.touch("answer " + path); err != nil {
		return err
	}
	if err := l.from.touch("answered " + path); err != nil {
		return err
	}
	return convert(out, resp)
}

type sink struct {
	l      link
	to     *node
	w      *io.PipeWriter
	volume string
	done   chan struct{}
	out    replicate.ReceiveReply
	err    error
}

func (l link) Open(ctx context.Context, to guest.NodeID, header any, _ *rate.Limiter) (replicate.Sink, error) {
	var h replicate.ReceiveHeader
	if err := convert(header, &h); err != nil {
		return nil, err
	}
	if err := l.from.touch("open", h.Volume.Name); err != nil {
		return nil, err
	}
	r, w := io.Pipe()
	s := &sink{l: l, to: l.from.w.nodes[to], w: w, volume: h.Volume.Name, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		if s.err = s.to.touch("opened", s.volume); s.err == nil {
			s.out, s.err = s.to.target.Receive(ctx, l.from.id, h, r)
		}
		_ = r.CloseWithError(overWire(s.err))
	}()
	return s, nil
}

func (s *sink) Write(p []byte) (int, error) {
	if err := s.l.from.touch("send", s.volume); err != nil {
		return 0, err
	}
	if err := s.to.touch("got", s.volume); err != nil {
		_ = s.w.CloseWithError(io.ErrUnexpectedEOF)
		return 0, err
	}
	return s.w.Write(p)
}

func (s *sink) Finish(result any) error {
	_ = s.w.Close()
	<-s.done
	if s.err != nil {
		return overWire(s.err)
	}
	if err := s.l.from.touch("finished", s.volume); err != nil {
		return err
	}
	return convert(s.out, result)
}

func (s *sink) Abort(err error) {
	_ = s.w.CloseWithError(overWire(err))
	<-s.done
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func equal(tb testing.TB, got, want any) {
	tb.Helper()
	if d := cmp.Diff(want, got); d != "" {
		tb.Errorf("(-want +got)\n%s", d)
	}
}
