package promote_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/move/promote"
	"github.com/tandemd/tandem/pkg/replicate"
	"github.com/tandemd/tandem/pkg/replicate/aside"
	"github.com/tandemd/tandem/pkg/replicate/local"
	"github.com/tandemd/tandem/pkg/zfs"
	"github.com/tandemd/tandem/pkg/zfs/zfstest"
)

const (
	cluster    = "c1"
	generation = "0123456789abcdef"
	here       = guest.NodeID("00000000000000000000000000000002")
	former     = guest.NodeID("00000000000000000000000000000001")
	diskDS     = "tank/g/vm-100-disk-0"
	rootDS     = "tank/g/vm-100-root"
)

var (
	disk = guest.Volume{Storage: "local-zfs", Name: "vm-100-disk-0"}
	root = guest.Volume{Storage: "local-zfs", Name: "vm-100-root"}
)

func term(n uint64) guest.Term { return guest.Term{N: n, Generation: generation} }

// world is a node with replicas that another node's guest left there.
type world struct {
	t        *testing.T
	now      time.Time
	owner    *zfstest.Pool // of the owner before
	pool     *zfstest.Pool
	guest    guest.Guest
	promoter *promote.Promoter
	keeper   *aside.Keeper
	dir      string
	files    map[string][]byte
	// trap is called before and after each effect.
	trap func(zfstest.Event) error
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return makeWorld(t, zfstest.Options{})
}

// makeWorld makes it with these options of its pool.
func makeWorld(t *testing.T, o zfstest.Options) *world {
	t.Helper()
	w := &world{t: t, now: time.Unix(1_800_000_000, 0), dir: t.TempDir(), files: map[string][]byte{}}
	w.guest = guest.Guest{ID: 100, Type: guest.VM, Name: "web", Owner: here, Term: term(2), Volumes: []guest.Volume{disk, root}}
	clock := func() time.Time { return w.now }
	w.owner = zfstest.New(zfstest.Options{Node: "n1", Now: clock})
	o.Node, o.Now, o.Hook = "n2", clock, func(e zfstest.Event) error {
		if w.trap == nil {
			return nil
		}
		return w.trap(e)
	}
	w.pool = zfstest.New(o)
	for _, p := range []*zfstest.Pool{w.owner, w.pool} {
		must(t, p.Create("tank/g", 0, map[string]string{"canmount": "off"}))
	}
	must(t, w.owner.Create(diskDS, 3<<19, map[string]string{"refreservation": "65536"}))
	must(t, w.owner.Create(rootDS, 0, map[string]string{"mountpoint": "/srv/web", "compression": "lz4"}))
	w.restart()
	return w
}

// restart makes the engine anew, as a new process does.
func (w *world) restart() {
	w.trap = nil
	o := local.Options{
		Node: here, Name: "n2", Storages: map[string]string{"local-zfs": "tank/g"}, ZFS: w.pool, Ledger: w, Store: w,
		LockDir: w.dir, Now: func() time.Time { return w.now }, Locks: local.NewLocks(w.dir),
	}
	target, err := replicate.NewTarget(o)
	must(w.t, err)
	w.promoter, err = promote.New(o, target)
	must(w.t, err)
	w.keeper, err = aside.New(o)
	must(w.t, err)
}

func (w *world) View() *ledger.State {
	return &ledger.State{Cluster: cluster, Index: 1, Guests: map[guest.ID]guest.Guest{100: w.guest}}
}
func (w *world) WaitApplied(context.Context, uint64) error { return errors.New("not applied") }

func (w *world) Read(name string, v any) error {
	b, ok := w.files[name]
	if !ok {
		return fs.ErrNotExist
	}
	return json.Unmarshal(b, v)
}

func (w *world) Write(name string, v any) (err error) {
	w.files[name], err = json.Marshal(v)
	return err
}

// write puts random data into a volume of a machine.
func (w *world) write(p *zfstest.Pool, dataset string, block int64, blocks int) {
	w.t.Helper()
	data := make([]byte, blocks*4096)
	_, _ = rand.NewChaCha8([32]byte{byte(block), byte(blocks), byte(len(p.Calls()))}).Read(data)
	must(w.t, p.Write(dataset, block*4096, data))
}

// take takes a point at the owner.
func (w *world) take(name string) {
	w.t.Helper()
	w.now = w.now.Add(time.Minute)
	property, err := guest.Point{Volumes: []guest.Volume{disk, root}, Consistency: guest.Crash, Taken: w.now.Unix()}.Property()
	must(w.t, err)
	must(w.t, w.owner.Snapshot(w.t.Context(), []string{diskDS + "@" + name, rootDS + "@" + name}, map[string]string{zfs.PropPoint: property}))
}

// bring sends a volume's point to this node, as a sync of term 1 does.
func (w *world) bring(dataset, from, to string) {
	w.t.Helper()
	must(w.t, w.send(dataset, from, to))
}

func (w *world) send(dataset, from, to string) error {
	w.t.Helper()
	spec := zfs.SendSpec{Snapshot: dataset + "@" + to}
	v, typ := disk, zfs.TypeVolume
	props := map[string]string{"volmode": "none", zfs.PropManifest: `{"values":{"refreservation":"65536"}}`}
	if dataset == rootDS {
		v, typ = root, zfs.TypeFilesystem
		props = map[string]string{zfs.PropManifest: `{"values":{"mountpoint":"/srv/web","compression":"lz4"}}`, "compression": "lz4"}
	}
	if from != "" {
		spec.From, props = dataset+"@"+from, map[string]string{}
	}
	g := w.guest
	g.Term = term(1)
	maps.Copy(props, local.Marks(cluster, g, v, zfs.RoleReplica))
	s, err := w.owner.Send(w.t.Context(), spec)
	must(w.t, err)
	data, err := io.ReadAll(s)
	must(w.t, err)
	_, err = w.pool.Receive(w.t.Context(), zfs.ReceiveSpec{Dataset: dataset, Type: typ, Props: props}, bytes.NewReader(data))
	return err
}

// complete marks a point as arrived.
func (w *world) complete(name string) {
	w.t.Helper()
	for _, d := range []string{diskDS, rootDS} {
		props := w.snapshot(w.owner, d, name).Props
		must(w.t, w.pool.SetProps(w.t.Context(), map[string]string{
			zfs.PropReceived: local.ReceivedPoint, zfs.PropPoint: props[zfs.PropPoint], zfs.PropComplete: term(1).String(),
		}, d+"@"+name))
	}
}

func (w *world) snapshot(p *zfstest.Pool, dataset, name string) zfs.Snapshot {
	w.t.Helper()
	for _, s := range w.dataset(p, dataset).Snapshots {
		if s.Name == name {
			return s
		}
	}
	w.t.Fatalf("no snapshot %s@%s", dataset, name)
	return zfs.Snapshot{}
}

func (w *world) dataset(p *zfstest.Pool, name string) zfs.Dataset {
	w.t.Helper()
	list, err := p.List(w.t.Context(), name)
	must(w.t, err)
	return list[0]
}

// begin says that the term began from a point of the owner before.
func (w *world) begin(name string) {
	w.t.Helper()
	w.guest.Beginning = &guest.Beginning{
		How: guest.ByRecovery, From: former, Term: term(1), Point: name,
		GUIDs: map[guest.Volume]uint64{disk: w.snapshot(w.owner, diskDS, name).GUID, root: w.snapshot(w.owner, rootDS, name).GUID},
	}
}

func (w *world) promote() promote.Outcome {
	w.t.Helper()
	out, err := w.promoter.Promote(w.t.Context(), cluster, w.guest)
	if err != nil {
		w.t.Fatalf("%v (hint: %s)", err, replicate.HintOf(err))
	}
	return out
}

// same wants this node's volumes to be the owner's with the data of the point, ready for the guest.
func (w *world) same(name string) {
	w.t.Helper()
	for _, d := range []string{diskDS, rootDS} {
		want, err := w.owner.Read(d + "@" + name)
		must(w.t, err)
		got, err := w.pool.Read(d)
		must(w.t, err)
		if !bytes.Equal(got, want) {
			w.t.Errorf("%s is not what it was at %s", d, name)
		}
	}
	w.ready()
}

func (w *world) ready() {
	w.t.Helper()
	ready, err := w.promoter.Ready(w.t.Context(), cluster, w.guest)
	must(w.t, err)
	equal(w.t, ready, true)
	for d, v := range map[string]guest.Volume{diskDS: disk, rootDS: root} {
		x := w.dataset(w.pool, d)
		equal(w.t, local.MarksOf(x).Are(cluster, 100, v, zfs.RoleOwner), true)
		equal(w.t, []any{x.Props[zfs.PropTerm], x.ReadOnly, x.ResumeToken, x.Origin}, []any{w.guest.Term.String(), false, "", ""})
	}
	r := w.dataset(w.pool, rootDS)
	equal(w.t, []any{r.Mounted, r.Mountpoint, r.Native["compression"].Value}, []any{true, "/srv/web", "lz4"})
	equal(w.t, w.dataset(w.pool, diskDS).Own()["refreservation"], "65536")
	_, err = w.pool.Device(w.t.Context(), diskDS)
	must(w.t, err)
}

// copies are what was set aside, with their content.
func (w *world) copies() map[guest.Volume][][]byte {
	w.t.Helper()
	list, err := w.keeper.All(w.t.Context(), cluster)
	must(w.t, err)
	out := map[guest.Volume][][]byte{}
	for _, c := range list {
		data, err := w.pool.Read(c.Data.Name)
		must(w.t, err)
		out[c.Volume] = append(out[c.Volume], data)
	}
	return out
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal(t *testing.T, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}
