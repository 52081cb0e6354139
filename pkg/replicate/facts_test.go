package replicate_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/plan"
	"github.com/tandemd/tandem/pkg/plan/manifest"
	"github.com/tandemd/tandem/pkg/replicate"
	"github.com/tandemd/tandem/pkg/zfs"
	"github.com/tandemd/tandem/pkg/zfs/zfstest"
)

func (n *node) set(name string, props map[string]string) {
	n.w.t.Helper()
	must(n.w.t, n.pool.SetProps(n.w.t.Context(), props, name))
}

// own are the values of some native properties that were set on a dataset itself.
func (n *node) own(name string, props ...string) []string {
	var out []string
	own := n.dataset(name).Own()
	for _, p := range props {
		out = append(out, p+"="+own[p])
	}
	return out
}

// calls counts operations of a pool since the mark.
func (n *node) calls(from int, ops ...string) int {
	count := 0
	for _, c := range n.pool.Calls()[from:] {
		if slices.Contains(ops, c.Op) {
			count++
		}
	}
	return count
}

func TestSync_PropertiesGoWithTheVolume(t *testing.T) {
	w := newWorld(t)
	n1, n2 := w.node("1"), w.node("2")
	n1.set(rootDS, map[string]string{"xattr": "sa", "quota": "1073741824", "mountpoint": "/srv/web", "sharenfs": "on"})
	n1.set(diskDS, map[string]string{"compression": "lz4", "refreservation": "1572864"})
	w.run(job)
	equal(t, n2.own(rootDS, "xattr", "quota", "mountpoint", "canmount", "readonly"),
		[]string{"xattr=sa", "quota=1073741824", "mountpoint=", "canmount=noauto", "readonly=on"})
	equal(t, n2.own(diskDS, "compression", "refreservation", "volmode", "readonly"),
		[]string{"compression=lz4", "refreservation=", "volmode=none", "readonly=on"})
	record := manifest.Parse(n2.dataset(diskDS).Props[zfs.PropManifest])
	equal(t, record.Reserve(), uint64(1572864))
	record = manifest.Parse(n2.dataset(rootDS).Props[zfs.PropManifest])
	equal(t, record.Values, manifest.Values{"xattr": "sa", "quota": "1073741824", "mountpoint": "/srv/web"})

	// In a steady state nothing is set, whether there is something to send or not.
	mark := len(n2.pool.Calls())
	n1.write(rootDS, 30, 2)
	w.run(job)
	w.run(job)
	equal(t, n2.calls(mark, "Inherit", "Properties", "PoolFacts", "SetProps"), 0)
	equal(t, n2.calls(mark, "Change"), 1) // the commit's marks

	// What changed goes along with data, and without any.
	n1.set(rootDS, map[string]string{"xattr": "on", "quota": "2147483648"})
	n1.write(rootDS, 30, 2)
	w.run(job)
	equal(t, n2.own(rootDS, "xattr", "quota"), []string{"xattr=on", "quota=2147483648"})
	n1.set(diskDS, map[string]string{"compression": "zstd"})
	n1.set(rootDS, map[string]string{"quota": "none"})
	r := w.run(job)
	equal(t, r.Kind, replicate.KindNothing)
	equal(t, n2.own(rootDS, "quota"), []string{"quota=0"})
	equal(t, n2.own(diskDS, "compression"), []string{"compression=zstd"})
	w.same("2")
}

// "A replica is never mounted at boot": whatever somebody did to it, the next sync makes it a replica again.
func TestSync_TheReplicasGuardIsPutBack(t *testing.T) {
	w := newWorld(t)
	n1, n2 := w.node("1"), w.node("2")
	w.run(job)
	n2.set(rootDS, map[string]string{"readonly": "off", "canmount": "on"})
	n2.set(diskDS, map[string]string{"volmode": "dev"})
	w.run(job) // nothing to send
	want := [][]string{{"readonly=on", "canmount=noauto"}, {"readonly=on", "volmode=none"}}
	equal(t, [][]string{n2.own(rootDS, "readonly", "canmount"), n2.own(diskDS, "readonly", "volmode")}, want)
	n2.set(rootDS, map[string]string{"readonly": "off", "canmount": "on"})
	n1.write(rootDS, 40, 1)
	w.run(job)
	equal(t, [][]string{n2.own(rootDS, "readonly", "canmount"), n2.own(diskDS, "readonly", "volmode")}, want)
	w.same("2")
}

// A copy may need more room than the original has: the owner's limit does not stop it for good.
func TestSync_TheOwnersQuotaDoesNotStopTheReplica(t *testing.T) {
	w := newWorld(t)
	n1, n2 := w.node("1"), w.node("2")
	n1.set(rootDS, map[string]string{"quota": "131072"})
	w.run(job)
	must(t, n2.pool.Create(rootDS+"/somebodys", 0, nil))
	n2.set(rootDS+"/somebodys", map[string]string{"readonly": "off"})
	n2.write(rootDS+"/somebodys", 0, 8)
	n1.write(rootDS, 20, 14)
	w.fails(replicate.ClassRetry, "was taken off it")
	w.run(job)
	w.run(job)
	w.same("2")
	equal(t, n2.own(rootDS, "quota"), []string{"quota=0"})
	restored := manifest.Parse(n2.dataset(rootDS).Props[zfs.PropManifest]).Restore(manifest.Filesystem)
	equal(t, restored.Set["quota"], "131072")
}

// A quota of somebody else's is no business of Tandem's.
func TestSync_AForeignQuotaIsToldAndStays(t *testing.T) {
	w := newWorld(t)
	n1, n2 := w.node("1"), w.node("2")
	w.run(job)
	n2.set(rootDS, map[string]string{"quota": "65536"})
	n1.write(rootDS, 20, 14)
	w.fails(replicate.ClassRetry, "quota exceeded")
	w.fails(replicate.ClassRetry, "")
	equal(t, n2.own(rootDS, "quota"), []string{"quota=65536"})
	n2.set(rootDS, map[string]string{"quota": "1073741824"})
	w.run(job)
	w.same("2")
}

func TestSync_APoolThatCannotTakeItIsRefusedAndAskedAgain(t *testing.T) {
	w := newWorld(t)
	n1, n2 := w.node("1"), w.node("2")
	n2.pool.SetPool("tank", zfstest.PoolState{ReadOnly: true})
	w.fails(replicate.ClassRetry, "pool tank on n2 is imported read-only")
	equal(t, n1.points(diskDS), 0) // before a snapshot is taken, before anything is sent
	n2.pool.SetPool("tank", zfstest.PoolState{Features: map[string]string{"lz4_compress": "enabled"}})
	w.fails(replicate.ClassPerson, "it needs the feature embedded_data, which pool tank on n2 does not have")
	n2.pool.SetPool("tank", zfstest.PoolState{Features: map[string]string{"lz4_compress": "enabled", "embedded_data": "enabled"}})
	w.run(job)
	mark := len(n2.pool.Calls())
	w.run(job)
	w.run(job)
	equal(t, n2.calls(mark, "PoolFacts"), 0)
}

// What seldom changes of the pools is asked again after a failure, once on each side, for all volumes and rounds of the run.
func TestSync_AFailedJobAsksEachPoolOnce(t *testing.T) {
	w := newWorld(t)
	n1, n2 := w.node("1"), w.node("2")
	w.run(job)
	change(w)
	cutBoth(w)
	asked := func() (out []int) {
		for _, n := range []*node{n1, n2} {
			count := 0
			for _, c := range n.pool.Calls() {
				if c.Op == "PoolFacts" {
					count++
				}
			}
			out = append(out, count)
		}
		return out
	}
	equal(t, asked(), []int{1, 1})
	equal(t, w.run(job).Kind, replicate.KindResumed)
	equal(t, asked(), []int{2, 2})
	n1.write(diskDS, 5, 1)
	w.run(job)
	equal(t, asked(), []int{2, 2})
}

func TestForesee_TellsWhatStandsAgainstAJob(t *testing.T) {
	w := newWorld(t)
	n1, n3 := w.node("1"), w.node("3")
	g := w.state.Guests[100]
	planned := guest.Job{ID: guest.JobID{Guest: 100, Number: 1}, Target: id("3"), Snapshots: guest.Mirror}
	foresee := func(g guest.Guest) []string {
		t.Helper()
		p, err := n1.source.Foresee(t.Context(), g, planned, time.Minute)
		must(t, err)
		var out []string
		for _, r := range p.Refusals {
			if !replicate.Standing(r) || r.Hint == "" {
				t.Errorf("%v: passing, or without a hint", r)
			}
			out = append(out, r.Error())
		}
		return out
	}
	want := func(name string, got []string, texts ...string) {
		t.Helper()
		for i, text := range texts {
			if i >= len(got) || !strings.Contains(got[i], text) {
				t.Errorf("%s: got %q, want %q", name, got, texts)
				return
			}
		}
		if len(got) != len(texts) {
			t.Errorf("%s: got %q, want %q", name, got, texts)
		}
	}
	want("all is well", foresee(g))
	n3.pool.SetPool("tank", zfstest.PoolState{Size: 200 << 10})
	want("too little space", foresee(g), "about 320.0 KiB (327680 bytes) have to be sent, but tank/g on n3 has only 200.0 KiB (204800 bytes) available")
	n3.pool.SetPool("tank", zfstest.PoolState{Size: 1 << 30})
	must(t, n3.pool.Create(diskDS, 1<<20, nil))
	want("a foreign dataset", foresee(g), "n3 has a dataset "+diskDS+" that carries no mark of Tandem's")
	n3.pool.Destroy(diskDS)
	n3.set("tank/g", map[string]string{"encryption": "aes-256-gcm"})
	want("to an encrypted storage", foresee(g), "it is not encrypted, but the storage tank/g on n3 is", "it is not encrypted, but the storage tank/g on n3 is")
	must(t, n3.pool.Inherit(t.Context(), "encryption", "tank/g"))

	// Volumes that are only to be added.
	more := g
	added := guest.Volume{Storage: "local-zfs", Name: "vm-100-" + strings.Repeat("x", 60)}
	more.Volumes = append(slices.Clone(g.Volumes), added)
	must(t, n1.pool.Create("tank/g/"+added.Name, 1<<20, nil))
	want("an added volume", foresee(more))
	other := g
	other.ID = 101
	w.change(func(s *ledger.State) {
		s.Guests[101] = guest.Guest{ID: 101, Owner: id("2"), Volumes: []guest.Volume{added}}
	})
	if _, err := n1.source.Foresee(t.Context(), more, planned, time.Minute); err != nil {
		t.Fatal(err)
	}
	if p, _ := n1.source.Foresee(t.Context(), more, planned, time.Minute); p.Silent == nil || !strings.Contains(p.Silent.Error(), "belongs to guest 101") {
		t.Errorf("a volume of another guest: %+v", p)
	}
	if _, err := n1.source.Foresee(t.Context(), other, planned, time.Minute); replicate.ClassOf(err) != replicate.ClassNever {
		t.Errorf("a guest of another node: %v", err)
	}
	for _, n := range w.nodes {
		equal(t, n.calls(0, "Change", "Send", "Receive"), 0)
	}
}

func TestCheck_RefusesTwoPoolsAndNamesTooLong(t *testing.T) {
	w := newWorld(t)
	n1 := w.node("1")
	pool := zfstest.New(zfstest.Options{Pools: []string{"tank", "nvme"}})
	must(t, pool.Create("nvme/d", 1<<20, nil))
	must(t, pool.Create("tank/d", 1<<20, nil))
	deep := "tank/" + strings.Repeat("a", 100) + "/" + strings.Repeat("b", 90)
	must(t, pool.Create("tank/"+strings.Repeat("a", 100), 0, nil))
	must(t, pool.Create(deep, 0, nil))
	must(t, pool.Create(deep+"/d", 1<<20, nil))
	s, err := replicate.NewSource(replicate.Options{
		Node: n1.id, Name: n1.name, Storages: map[string]string{"slow": "tank", "fast": "nvme", "deep": deep}, ZFS: pool, Ledger: w,
		Store: store{n1}, LockDir: t.TempDir(), Now: w.clock,
	}, link{n1})
	must(t, err)
	on := func(storages ...string) guest.Guest {
		g := guest.Guest{ID: 200, Owner: n1.id}
		for _, st := range storages {
			g.Volumes = append(g.Volumes, guest.Volume{Storage: st, Name: "d"})
		}
		return g
	}
	must(t, s.Check(t.Context(), on("slow")))
	for name, tc := range map[string]struct {
		g    guest.Guest
		text string
	}{
		"two pools":     {on("slow", "fast"), "volume slow:d is on pool tank and volume fast:d on pool nvme"},
		"name too long": {on("deep"), "ZFS allows 255"},
	} {
		err := s.Check(t.Context(), tc.g)
		if replicate.ClassOf(err) != replicate.ClassPerson || !strings.Contains(err.Error(), tc.text) || replicate.HintOf(err) == "" {
			t.Errorf("%s: got %v", name, err)
		}
	}
	for _, name := range []string{"diverged", "tandem-reading-1"} {
		err := s.Check(t.Context(), guest.Guest{ID: 200, Owner: n1.id, Volumes: []guest.Volume{{Storage: "slow", Name: name}}})
		if replicate.ClassOf(err) != replicate.ClassPerson || !strings.Contains(err.Error(), "volume slow:"+name+": in every storage, Tandem keeps that name") {
			t.Errorf("%s: got %v", name, err)
		}
	}
	// A volume that is added has to be where the others are.
	w.change(func(st *ledger.State) { st.Guests[200] = on("slow") })
	if err := s.Check(t.Context(), on("fast")); err == nil || !strings.Contains(err.Error(), "on pool nvme") {
		t.Errorf("a volume added on another pool: %v", err)
	}
}

func TestSync_TheModeIsFixedWhenTheGuestIsAdded(t *testing.T) {
	w := newWorld(t)
	n1, n2 := w.node("1"), w.node("2")
	w.run(job)
	equal(t, n1.dataset(diskDS).Props[zfs.PropMode], plan.ModePlain)
	equal(t, n2.dataset(diskDS).Props[zfs.PropMode], plan.ModePlain)
	n1.set(diskDS, map[string]string{zfs.PropMode: plan.ModeRaw})
	_, err := n1.source.Run(t.Context(), replicate.Task{Job: job})
	var r plan.Refusal
	if !errors.As(err, &r) || r.Kind != plan.Encryption {
		t.Errorf("got %v", err)
	}
}

// An encrypted volume goes raw, below whatever storage, without a key on the target; somebody's empty snapshot there stops the job
// and is named with its maker.
func TestSync_EncryptedGoesRaw(t *testing.T) {
	w := newWorld(t)
	n1, n2 := w.node("1"), w.node("2")
	secret := guest.Volume{Storage: "local-zfs", Name: "vm-100-secret"}
	name := "tank/g/" + secret.Name
	must(t, n1.pool.Create(name, 1<<20, map[string]string{"encryption": "aes-256-gcm"}))
	n1.write(name, 0, 8)
	w.change(func(s *ledger.State) {
		g := s.Guests[100]
		g.Volumes = append(slices.Clone(g.Volumes), secret)
		s.Guests = map[guest.ID]guest.Guest{100: g}
	})
	w.fails(replicate.ClassPerson, "openzfs#12014") // 2.3.2
	for _, n := range w.nodes {
		n.version("2.3.3-1")
	}
	w.run(job)
	n1.write(name, 2, 2)
	n1.pool.SetKey(name, false) // raw needs no key, on either side
	equal(t, w.run(job).Kind, replicate.KindIncremental)
	d := n2.dataset(name)
	equal(t, []string{d.Encryption, d.EncryptionRoot, d.KeyStatus, d.Props[zfs.PropMode]}, []string{"aes-256-gcm", name, "unavailable", plan.ModeRaw})
	equal(t, n1.dataset(name).Props[zfs.PropMode], plan.ModeRaw)
	equal(t, n1.dataset(diskDS).Props[zfs.PropMode], plan.ModePlain)
	n2.snap(name + "@autosnap_2026-01-01_00:00:01_daily")
	n1.pool.SetKey(name, true)
	n1.write(name, 4, 2)
	w.fails(replicate.ClassPerson, "as sanoid makes them")
	must(t, n2.pool.DestroySnapshots(t.Context(), name, []string{"autosnap_2026-01-01_00:00:01_daily"}))
	w.run(job)
	w.same("2")
}

// version upgrades the node's ZFS, and restarts its daemon.
func (n *node) version(v string) {
	n.pool.SetVersion(v)
	n.restart()
}

// What cannot be set on a replica is told with each sync and tried again, and stops none.
func TestSync_APropertyThatCannotBeSetIsAWarning(t *testing.T) {
	w := newWorld(t)
	n1, n2 := w.node("1"), w.node("2")
	w.run(job)
	n1.set(rootDS, map[string]string{"recordsize": "65536"})
	n2.pool.Inject(zfstest.Fault{Op: "SetProps", Name: rootDS, Times: 1, Err: errors.New("property value is out of range")})
	r := w.run(job)
	if len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "property value is out of range") || !strings.Contains(r.Warnings[0], rootDS) {
		t.Errorf("warnings: %q", r.Warnings)
	}
	r = w.run(job)
	equal(t, len(r.Warnings), 0)
	equal(t, n2.own(rootDS, "recordsize"), []string{"recordsize=65536"})
	w.same("2")
}
