package consensus_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/raft"
	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/consensus"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/statefile"
)

// plain is a raft.StreamLayer over TCP on this machine that can be cut.
type plain struct {
	net.Listener
	peers map[raft.ServerAddress]string
	cut   *atomic.Bool
}

func (p *plain) Dial(to raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	if p.cut.Load() || p.peers[to] == "" {
		return nil, errCut
	}
	c, err := (&net.Dialer{Timeout: timeout}).Dial("tcp", p.peers[to])
	if err != nil {
		return nil, err
	}
	return &cuttable{c, p.cut}, nil
}

func (p *plain) Accept() (net.Conn, error) {
	c, err := p.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &cuttable{c, p.cut}, nil
}

// cuttable is a connection that ends when the layer is cut.
type cuttable struct {
	net.Conn
	cut *atomic.Bool
}

func (c *cuttable) Write(b []byte) (int, error) {
	if c.cut.Load() {
		_ = c.Close()
		return 0, errCut
	}
	return c.Conn.Write(b)
}

func (c *cuttable) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.cut.Load() {
		_ = c.Close()
		return 0, errCut
	}
	return n, err
}

func fast() consensus.Timing {
	return consensus.Timing{Heartbeat: 200 * time.Millisecond, Lease: 150 * time.Millisecond, Commit: 5 * time.Millisecond}
}

// onDisk opens a node whose raft is in dir, without peers.
func onDisk(t *testing.T, dir, generation string, more ...func(*consensus.Options)) (*consensus.Consensus, error) {
	t.Helper()
	layer := func(string) (raft.StreamLayer, error) {
		l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
		return &plain{Listener: l, cut: &atomic.Bool{}}, err
	}
	o := consensus.Options{
		Node: nodeID(1), Generation: generation, Rooms: consensus.NewRooms(dir, layer, zap.NewNop()), Logger: zap.NewNop(), Timing: fast(),
	}
	for _, m := range more {
		m(&o)
	}
	return consensus.Open(o)
}

// foundedOnDisk is a node alone with some guests.
func foundedOnDisk(t *testing.T, dir string, more ...func(*consensus.Options)) *consensus.Consensus {
	t.Helper()
	c, err := onDisk(t, dir, firstGeneration, more...)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Found(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, op := range []ledger.Op{found().Op, addGuest(100), addGuest(101)} {
		proposeNow(t, c, op)
	}
	return c
}

func proposeNow(t *testing.T, c *consensus.Consensus, op ledger.Op) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := c.Propose(ctx, ledger.Command{By: "test", Op: op}); err != nil {
		t.Fatalf("%T: %v", op, err)
	}
}

func confirmNow(t *testing.T, c *consensus.Consensus) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := c.Confirm(ctx); err != nil {
		t.Fatal(err)
	}
}

func bytesOf(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		out[path] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestDiskRooms_SurviveARestartAndAFork(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "raft")
	c := foundedOnDisk(t, dir)
	view := c.View()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	before := bytesOf(t, dir)

	// Forking a node that was just started reads what is there and changes nothing of it.
	mark, err := consensus.Look(consensus.NewRooms(dir, nil, zap.NewNop()), firstGeneration)
	if err != nil || mark.LastIndex < view.Index {
		t.Fatalf("%+v, %v", mark, err)
	}
	if d := cmp.Diff(before, bytesOf(t, dir)); d != "" {
		t.Errorf("looking changed files:\n%s", d)
	}
	if c, err = onDisk(t, dir, firstGeneration); err != nil {
		t.Fatal(err)
	}
	confirmNow(t, c)
	if d := cmp.Diff(view.Guests, c.View().Guests); d != "" {
		t.Errorf("after a restart (-want +got):\n%s", d)
	}
	var atFork map[string]string
	if err := c.Fork(t.Context(), fork(1, forked), c.View()); err != nil {
		t.Fatal(err)
	}
	atFork = bytesOf(t, filepath.Join(dir, firstGeneration))
	confirmNow(t, c)
	if s := c.View(); !s.Forced || s.Generation != forked || len(s.Guests) != 2 {
		t.Errorf("the fork has generation %s, guests %v", s.Generation, s.GuestList())
	}
	proposeNow(t, c, addGuest(102))
	if err := c.Fork(t.Context(), fork(1, firstGeneration), c.View()); err == nil {
		t.Error("a fork overwrote an older generation")
	}
	if d := cmp.Diff(atFork, bytesOf(t, filepath.Join(dir, firstGeneration))); d != "" {
		t.Errorf("the old generation was changed after the fork:\n%s", d)
	}
	if err := c.SetAside(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Switch(t.Context(), firstGeneration); err != nil {
		t.Fatal(err)
	}
	confirmNow(t, c)
	if d := cmp.Diff(view.Guests, c.View().Guests); d != "" {
		t.Errorf("back in the old generation (-want +got):\n%s", d)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	aside, err := consensus.NewRooms(dir, nil, zap.NewNop()).Aside()
	if d := cmp.Diff([]string{filepath.Join(dir, forked+".aside-1")}, aside); err != nil || d != "" {
		t.Errorf("%v (-want +got):\n%s", err, d)
	}
	drafts, err := filepath.Glob(filepath.Join(dir, "*.draft"))
	if err != nil || len(drafts) > 0 {
		t.Errorf("drafts are left: %v, %v", drafts, err)
	}
}

// TestOpen_DamageIsAClearErrorOrNoDamage flips bits and cuts files all over a real
// folder with snapshots and log: the ledger is never wrong, and there is no panic.
func TestOpen_DamageIsAClearErrorOrNoDamage(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "raft")
	c := foundedOnDisk(t, dir)
	if err := c.Fork(t.Context(), fork(1, forked), c.View()); err != nil { // gives a snapshot
		t.Fatal(err)
	}
	proposeNow(t, c, addGuest(102))
	want := c.View().Guests
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	room := filepath.Join(dir, forked)
	var refused atomic.Int32
	t.Run("files", func(t *testing.T) {
		for path, whole := range bytesOf(t, room) {
			rel, _ := filepath.Rel(dir, path)
			t.Run(rel, func(t *testing.T) {
				t.Parallel()
				for at := 0; at < len(whole); at += max(1, len(whole)/12) {
					flipped := []byte(whole)
					flipped[at] ^= 4
					for what, damaged := range map[string][]byte{"flipped": flipped, "cut": []byte(whole)[:at]} {
						copied := filepath.Join(t.TempDir(), "raft")
						if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
							t.Fatal(err)
						}
						if err := os.WriteFile(filepath.Join(copied, rel), damaged, 0o600); err != nil {
							t.Fatal(err)
						}
						refused.Add(checkOpen(t, copied, fmt.Sprintf("%s %s at %d", rel, what, at), want))
					}
				}
			})
		}
	})
	if refused.Load() < 20 {
		t.Errorf("%d folders were refused: the test damages nothing", refused.Load())
	}
}

func checkOpen(t *testing.T, dir, what string, want map[guest.ID]guest.Guest) (refused int32) {
	t.Helper()
	before := bytesOf(t, dir)
	c, err := onDisk(t, dir, forked)
	if room, ok := errors.AsType[*consensus.RoomError](err); ok {
		if !strings.Contains(err.Error(), filepath.Join(dir, forked)) || !strings.Contains(room.Hint(), "mv "+filepath.Join(dir, forked)+" ") {
			t.Errorf("%s: the error does not say where and what to do: %v (%s)", what, err, room.Hint())
		}
		if d := cmp.Diff(before, bytesOf(t, dir)); d != "" && !strings.Contains(what, "acknowledged") {
			t.Errorf("%s: files were changed:\n%s", what, d)
		}
		return 1
	}
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	defer func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	confirmNow(t, c)
	if d := cmp.Diff(want, c.View().Guests); d != "" {
		t.Errorf("%s: the ledger is wrong (-want +got):\n%s", what, d)
	}
	return 0
}

func TestOpen_AHoleIsRefused(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "raft")
	c := foundedOnDisk(t, dir)
	if err := c.Fork(t.Context(), fork(1, forked), c.View()); err != nil {
		t.Fatal(err)
	}
	proposeNow(t, c, addGuest(102))
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	for _, gone := range []string{"snapshots", "votes.json", "log"} {
		copied := filepath.Join(t.TempDir(), "raft")
		if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(filepath.Join(copied, forked, gone)); err != nil {
			t.Fatal(err)
		}
		c, err := onDisk(t, copied, forked)
		var room *consensus.RoomError
		switch {
		case errors.As(err, &room):
		case err != nil:
			t.Errorf("without %s: %v", gone, err)
		case gone != "log": // without all of it what the snapshot has is right: the gate compares it with what others remember
			t.Errorf("without %s it was opened", gone)
		}
		if c != nil {
			_ = c.Close()
		}
	}
}

// TestOpen_ABrokenSnapshotIsForgivenWhereTheLogHasAllOfIt: the older snapshot and
// the log give the same ledger.
func TestOpen_ABrokenSnapshotIsForgivenWhereTheLogHasAllOfIt(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "raft")
	c := foundedOnDisk(t, dir)
	if err := c.Fork(t.Context(), fork(1, forked), c.View()); err != nil {
		t.Fatal(err)
	}
	proposeNow(t, c, addGuest(102))
	want, last := c.View().Guests, c.Progress().LastIndex
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	for _, index := range []uint64{last, last + 1} {
		copied := filepath.Join(t.TempDir(), "raft")
		if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		broken := filepath.Join(copied, forked, "snapshots", fmt.Sprintf("%020d-%020d-99.snapshot", 99, index))
		if err := os.WriteFile(broken, []byte("half a snapshot"), 0o600); err != nil {
			t.Fatal(err)
		}
		refused := checkOpen(t, copied, "with a broken snapshot", want)
		if want := int32(index - last); refused != want {
			t.Errorf("entry %d of %d in a broken snapshot: refused %d, want %d", index, last, refused, want)
		}
	}
}

func TestOpen_AFolderOfADevelopmentVersionIsLeftAlone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "raft")
	if err := os.MkdirAll(filepath.Join(dir, firstGeneration, "wal"), 0o700); err != nil {
		t.Fatal(err)
	}
	var room *consensus.RoomError
	if _, err := onDisk(t, dir, firstGeneration); !errors.As(err, &room) {
		t.Errorf("got %v, want a RoomError", err)
	}
}

// TestElection_PreVotesGoOverTheNetworkTransport: the same as in memory, with the
// transport that runs in the field.
func TestElection_PreVotesGoOverTheNetworkTransport(t *testing.T) {
	t.Parallel()
	peers := map[raft.ServerAddress]string{}
	cuts := map[int]*atomic.Bool{}
	nodes := map[int]*consensus.Consensus{}
	listeners := map[int]net.Listener{}
	for n := 1; n <= 3; n++ {
		l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		peers[raft.ServerAddress(nodeID(n))], listeners[n], cuts[n] = l.Addr().String(), l, &atomic.Bool{}
	}
	forward := func(ctx context.Context, leader guest.NodeID, data []byte) (ledger.Outcome, error) {
		for n, c := range nodes {
			if nodeID(n) == leader {
				return c.ApplyHere(ctx, data)
			}
		}
		return ledger.Outcome{}, consensus.ErrNotLeader
	}
	for n := 1; n <= 3; n++ {
		layer := func(string) (raft.StreamLayer, error) {
			return &plain{Listener: listeners[n], peers: peers, cut: cuts[n]}, nil
		}
		c, err := onDisk(t, filepath.Join(t.TempDir(), "raft"), firstGeneration, func(o *consensus.Options) {
			o.Node, o.Forward = nodeID(n), forward
			o.Rooms = consensus.NewRooms(filepath.Join(t.TempDir(), "raft"), layer, zap.NewNop())
			o.Timing.Heartbeat, o.Timing.Lease = 2*time.Second, 1500*time.Millisecond // A busy machine deposes nobody.
		})
		if err != nil {
			t.Fatal(err)
		}
		nodes[n] = c
		t.Cleanup(func() { _ = c.Close() })
	}
	if err := nodes[1].Found(t.Context()); err != nil {
		t.Fatal(err)
	}
	proposeNow(t, nodes[1], found().Op)
	for n := 2; n <= 3; n++ {
		if err := errors.Join(nodes[1].AddNonvoter(nodeID(n)), nodes[1].Promote(nodeID(n))); err != nil {
			t.Fatal(err)
		}
	}
	confirmNow(t, nodes[3])
	term := nodes[1].Progress().Term
	cuts[3].Store(true)
	await(t, func() bool { return !nodes[3].Quorate() })
	wait(t, 8*time.Second)
	if got := nodes[3].Progress().Term; got != term {
		t.Errorf("cut off it raised its term from %d to %d", term, got)
	}
	cuts[3].Store(false)
	await(t, nodes[3].Quorate)
	confirmNow(t, nodes[3])
	if got := nodes[1].Progress().Term; got != term {
		t.Errorf("the healthy leader was deposed: term %d is %d", term, got)
	}
}

// await waits in real time until a condition holds.
func await(t *testing.T, holds func() bool) {
	t.Helper()
	for range 600 {
		if holds() {
			return
		}
		wait(t, 50*time.Millisecond)
	}
	t.Fatal("still not so after 30 s")
}

func wait(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}

// TestFullDisk_NothingIsLostAndTheReserveHelps fills a small tmpfs of its own.
func TestFullDisk_NothingIsLostAndTheReserveHelps(t *testing.T) {
	t.Parallel()
	dir, ok := smallDisk(t, 24<<20)
	if !ok {
		return
	}
	reserve, err := statefile.OpenReserve(filepath.Join(dir, "reserve"), 2<<20)
	if err != nil {
		t.Fatal(err)
	}
	c := foundedOnDisk(t, filepath.Join(dir, "raft"), func(o *consensus.Options) { o.Reserve = reserve })
	ballast := filepath.Join(dir, "ballast")
	fill(t, ballast)
	next := 200
	for range 5000 { // with the reserve there is room for much
		proposeNow(t, c, addGuest(next))
		if next++; !reserve.Held() {
			break
		}
	}
	if reserve.Held() {
		t.Fatal("the disk did not fill up")
	}
	proposeNow(t, c, addGuest(next))
	if err := c.Trouble(); err == nil {
		t.Error("nothing is said about the reserve")
	}
	fill(t, ballast)
	acked := next
	for ; ; next++ { // and now it is full for good
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		_, err := c.Propose(ctx, ledger.Command{By: "test", Op: addGuest(next + 1)})
		cancel()
		if err != nil {
			break
		}
		acked = next + 1
	}
	if err := c.Trouble(); err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("trouble: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if c, err = onDisk(t, filepath.Join(dir, "raft"), firstGeneration, func(o *consensus.Options) { o.Reserve = reserve }); err != nil {
		t.Fatalf("it does not start on a full disk: %v", err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	proposeNow(t, c, addGuest(90000))
	for id := 200; id <= acked; id++ {
		if _, ok := c.View().Guests[guest.ID(id)]; !ok {
			t.Fatalf("guest %d was acknowledged and is gone", id)
		}
	}
	await(t, reserve.Held)
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// fill takes what is free on the disk.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for size := 1 << 20; size > 0; size /= 2 {
		for {
			if _, err := f.Write(bytes.Repeat([]byte{1}, size)); err != nil {
				break
			}
		}
	}
}
