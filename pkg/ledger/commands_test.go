package ledger_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
)

const generation = "0123456789abcdef"

func term(n uint64) guest.Term { return guest.Term{N: n, Generation: generation} }

// running is a cluster of three with guest 100 on n1, replicated to n2 and n3.
func running(t *testing.T) *book {
	t.Helper()
	b := founded(t, 3)
	b.must(ledger.AddGuest{Guest: vm(100, 1)})
	b.must(ledger.CreateJob{Job: job(100, 0, 2)})
	b.must(ledger.CreateJob{Job: job(100, 1, 3)})
	return b
}

func fork(t *testing.T, b *book) {
	t.Helper()
	err := b.m.Fork(ledger.Fork{Generation: "fedcba9876543210", Parent: generation, Index: b.at, Node: nodeID(1), By: "operator@n1", At: 1_800_000_000}, b.m.View())
	if err != nil {
		t.Fatal(err)
	}
}

func (b *book) refused(op ledger.Op, want string) {
	b.t.Helper()
	before := *b.m.View()
	out := b.apply(op)
	if !strings.Contains(out.Refused, want) {
		b.t.Errorf("%T refused with %q, want %q", op, out.Refused, want)
	}
	before.Index = b.at
	if diff := cmp.Diff(before, *b.m.View()); diff != "" {
		b.t.Errorf("%T was refused and changed something:\n%s", op, diff)
	}
}

func TestChangeOwner_TurnsTheJobToTheNewOwner(t *testing.T) {
	b := running(t)
	b.must(ledger.ChangeOwner{ID: 100, Owner: nodeID(1), Term: term(1), To: nodeID(2)})
	s := b.m.View()
	if g := s.Guests[100]; g.Owner != nodeID(2) || g.Term != term(2) {
		t.Errorf("the guest is on %s at %s", s.NameOf(g.Owner), g.Term)
	}
	got := map[string]string{}
	for _, j := range s.JobList() {
		got[j.ID.String()] = s.NameOf(j.Target)
	}
	if diff := cmp.Diff(map[string]string{"100-0": "n1", "100-1": "n3"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestChangeOwner_OfTwoOnlyTheFirstHappens(t *testing.T) {
	b := running(t)
	first := ledger.ChangeOwner{ID: 100, Owner: nodeID(1), Term: term(1), To: nodeID(2)}
	b.must(first)
	b.refused(ledger.ChangeOwner{ID: 100, Owner: nodeID(1), Term: term(1), To: nodeID(3)}, "is on n2 at term 2-")
	b.refused(ledger.Retain{ID: 100, Owner: nodeID(1), Term: term(1)}, "is on n2 at term 2-")
}

func TestRetain_EndsAMoveInDoubt(t *testing.T) {
	b := running(t)
	b.must(ledger.Retain{ID: 100, Owner: nodeID(1), Term: term(1)})
	b.refused(ledger.ChangeOwner{ID: 100, Owner: nodeID(1), Term: term(1), To: nodeID(2)}, "is on n1 at term 2-")
}

func TestChangeOwner_AJobThatIsBeingRemovedIsNotTurnedAgainstTheGuest(t *testing.T) {
	b := running(t)
	j := job(100, 0, 2)
	j.Removing = true
	b.must(ledger.UpdateJob{Job: j})
	b.must(ledger.ChangeOwner{ID: 100, Owner: nodeID(1), Term: term(1), To: nodeID(2)})
	if _, ok := b.m.View().Jobs[j.ID]; ok {
		t.Error("the job that was being removed is still there")
	}
}

func TestSetGuest(t *testing.T) {
	b := running(t)
	seen := b.m.View().Guests[100]
	changed := seen
	changed.Name, changed.Config, changed.Volumes = "db", "memory: 512\n", append([]guest.Volume{volume(999)}, seen.Volumes...)
	b.must(ledger.SetGuest{Guest: changed, Digest: ledger.Digest(seen)})
	if diff := cmp.Diff(changed, b.m.View().Guests[100]); diff != "" {
		t.Error(diff)
	}
	b.refused(ledger.SetGuest{Guest: changed, Digest: ledger.Digest(seen)}, "changed meanwhile")
	moved := changed
	moved.Owner = nodeID(2)
	b.refused(ledger.SetGuest{Guest: moved}, "owner and term cannot be edited")
	elsewhere := changed
	elsewhere.Volumes = []guest.Volume{{Storage: "fast", Name: "vm-100-disk-0"}}
	b.refused(ledger.SetGuest{Guest: elsewhere}, "no storage fast")
	huge := changed
	huge.Config = strings.Repeat("x", guest.MaxConfig+1)
	b.refused(ledger.SetGuest{Guest: huge}, "at most 65536 bytes")
	b.must(ledger.AddGuest{Guest: vm(101, 2)})
	theirs := changed
	theirs.Volumes = []guest.Volume{volume(101)}
	b.refused(ledger.SetGuest{Guest: theirs}, "belongs to guest 101")
}

func TestRemoveMember(t *testing.T) {
	b := running(t)
	b.refused(ledger.RemoveMember{ID: nodeID(1)}, "owns guest 100")
	b.refused(ledger.RemoveMember{ID: nodeID(3)}, "job 100-1 replicates to node n3")
	b.refused(ledger.RemoveMember{ID: nodeID(9)}, "not a member")
	b.must(ledger.RemoveMember{ID: nodeID(3), DropJobs: true})
	s := b.m.View()
	if _, ok := s.Jobs[guest.JobID{Guest: 100, Number: 1}]; ok || len(s.Members) != 2 {
		t.Error("the node or its job is still there")
	}
	want := ledger.Removal{Node: nodeID(3), Name: "n3", At: 1_800_000_000, By: "root@n1"}
	if diff := cmp.Diff(want, s.Removed[member(3).Fingerprint]); diff != "" || !s.Rotate {
		t.Errorf("removal %s, rotate %v", diff, s.Rotate)
	}
	b.must(ledger.AddMember{Member: member(3)})
	if len(b.m.View().Removed) != 0 {
		t.Error("a node that joined again counts as removed")
	}
	alone := founded(t, 1)
	alone.refused(ledger.RemoveMember{ID: nodeID(1)}, "last member")
}

func TestGossipKey_ChangesInThreeCommands(t *testing.T) {
	b := founded(t, 2)
	second := ledger.GossipKey{Number: 2, Key: []byte(strings.Repeat("k", ledger.GossipKeyLen))}
	b.refused(ledger.InstallKey{Key: ledger.GossipKey{Number: 3, Key: second.Key}}, "the next one has number 2")
	b.refused(ledger.InstallKey{Key: ledger.GossipKey{Number: 2, Key: []byte("short")}}, "has 5 bytes")
	b.must(ledger.InstallKey{Key: second})
	b.refused(ledger.InstallKey{Key: ledger.GossipKey{Number: 3, Key: second.Key}}, "a change of the key is going on")
	b.refused(ledger.DropKey{Number: 1}, "is in use")
	b.must(ledger.UseKey{Number: 2})
	b.refused(ledger.DropKey{Number: 2}, "is in use")
	b.must(ledger.DropKey{Number: 1})
	if diff := cmp.Diff([]ledger.GossipKey{second}, b.m.View().Gossip); diff != "" {
		t.Error(diff)
	}
}

func TestFork_IsANewGenerationWithRestrictions(t *testing.T) {
	b := running(t)
	fork(t, b)
	s := b.m.View()
	if s.Generation != "fedcba9876543210" || !s.Forced || len(s.Lineage) != 1 {
		t.Fatalf("generation %s, forced %v, lineage %v", s.Generation, s.Forced, s.Lineage)
	}
	b.refused(ledger.AddMember{Member: member(4)}, "--force")
	b.refused(ledger.AddGuest{Guest: vm(101, 1)}, "--force")
	b.refused(ledger.RemoveMember{ID: nodeID(3), DropJobs: true}, "--force")
	other := member(2)
	b.refused(ledger.SetMember{ID: other.ID, Peer: other.Peer, Gossip: other.Gossip, Storages: []string{"other"}}, "do not change")
	b.must(ledger.ChangeOwner{ID: 100, Owner: nodeID(1), Term: term(1), To: nodeID(2)})
	if got := b.m.View().Guests[100].Term; got != (guest.Term{N: 2, Generation: "fedcba9876543210"}) {
		t.Errorf("term %s, want one of the new generation", got)
	}
	b.must(ledger.RemoveMember{ID: nodeID(3), DropJobs: true, Force: true})
	if r := b.m.View().Removed[member(3).Fingerprint]; !r.Forced {
		t.Error("the removal is not marked as forced")
	}
	b.refused(ledger.EndForced{Generation: generation}, "does not run on forced quorum")
	b.must(ledger.EndForced{Generation: "fedcba9876543210"})
	b.must(ledger.AddMember{Member: member(4)})
	history := b.m.History()
	var told bool
	for _, h := range history {
		told = told || strings.HasPrefix(h.What, "quorum forced on n1")
	}
	if !told {
		t.Errorf("the history does not tell of the fork: %v", history)
	}
}

func TestRaiseFormat_WaitsForAllAndStopsTheOld(t *testing.T) {
	b := founded(t, 2)
	b.refused(ledger.RaiseFormat{Format: ledger.Format + 2}, "raised by one")
	b.refused(ledger.RaiseFormat{Format: ledger.Format + 1}, "upgrade it first")
	for n := 1; n <= 2; n++ {
		m := member(n)
		b.must(ledger.SetMember{ID: m.ID, Peer: m.Peer, Gossip: m.Gossip, Storages: m.Storages, Format: ledger.Format + 1})
	}
	data, err := ledger.Command{ID: "raise", Op: ledger.RaiseFormat{Format: ledger.Format + 1}}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.m.Apply(b.at+1, data); !errors.Is(err, ledger.ErrUnknownCommand) {
		t.Errorf("a node that does not know the format went on: %v", err)
	}
}

func TestSetSettings(t *testing.T) {
	b := founded(t, 1)
	b.refused(ledger.SetSettings{Settings: ledger.Settings{Name: "Rack 1"}}, "inner hyphens")
	b.must(ledger.SetSettings{Settings: ledger.Settings{Name: "rack1"}})
	b.refused(ledger.SetSettings{Settings: ledger.Settings{Name: "rack2"}, Digest: ledger.Digest(ledger.Settings{})}, "changed meanwhile")
}

func TestChangeOwner_TellsWhatTheNewTermBeganFrom(t *testing.T) {
	b := running(t)
	volume := b.m.View().Guests[100].Volumes[0]
	from := func(guids map[guest.Volume]uint64) *guest.Beginning {
		return &guest.Beginning{How: guest.ByRecovery, Point: "tandem-1700000000-abc", GUIDs: guids}
	}
	change := ledger.ChangeOwner{ID: 100, Owner: nodeID(1), Term: term(1), To: nodeID(2)}
	change.Beginning = from(map[guest.Volume]uint64{{Storage: "local-zfs", Name: "another"}: 7})
	b.refused(change, "cannot begin from volume local-zfs:another")
	change.Beginning = from(nil)
	b.refused(change, "it has no volume")
	change.Beginning = from(map[guest.Volume]uint64{volume: 7})
	b.must(change)

	want := from(map[guest.Volume]uint64{volume: 7})
	want.From, want.Term = nodeID(1), term(1)
	b.must(ledger.Retain{ID: 100, Owner: nodeID(2), Term: term(2)})
	g := b.m.View().Guests[100]
	g.Beginning, g.Name = nil, "renamed"
	b.must(ledger.SetGuest{Guest: g})
	if diff := cmp.Diff(want, b.m.View().Guests[100].Beginning); diff != "" {
		t.Errorf("what the term began from, after a retained term and an edit:\n%s", diff)
	}

	// A volume that is removed, and one that gets its name later, are two.
	g = b.m.View().Guests[100]
	g.Volumes = []guest.Volume{{Storage: "local-zfs", Name: "another"}}
	b.must(ledger.SetGuest{Guest: g})
	g.Volumes = append(g.Volumes, volume)
	b.must(ledger.SetGuest{Guest: g})
	want.GUIDs = map[guest.Volume]uint64{}
	if diff := cmp.Diff(want, b.m.View().Guests[100].Beginning); diff != "" {
		t.Errorf("what the term began from, after a volume was removed and added:\n%s", diff)
	}
}

// What a recovery gave up is remembered over the next changes of the owner, until a guest goes on from it.
func TestChangeOwner_RemembersWhatWasGivenUp(t *testing.T) {
	b := running(t)
	volume := b.m.View().Guests[100].Volumes[0]
	name := func(n uint64, node guest.NodeName, seq uint64) string {
		return guest.SnapshotName{Term: term(n), Node: node, Seq: seq, Time: time.Unix(1_800_000_000, 0)}.String()
	}
	change := func(n uint64, from, to int, how, point string) []guest.Cut {
		t.Helper()
		b.must(ledger.ChangeOwner{ID: 100, Owner: nodeID(from), Term: term(n), To: nodeID(to), Beginning: &guest.Beginning{
			How: how, Point: point, GUIDs: map[guest.Volume]uint64{volume: 7}, Cuts: []guest.Cut{{From: "an author's own"}},
		}})
		return b.m.View().Guests[100].Beginning.Cuts
	}
	first, second := guest.Cut{From: name(1, "n1", 5), Term: term(1)}, guest.Cut{From: name(2, "n2", 8), Term: term(3)}
	for _, step := range []struct {
		got, want []guest.Cut
	}{
		{change(1, 1, 2, guest.ByRecovery, first.From), nil},
		{change(2, 2, 1, guest.ByMigration, name(2, "n2", 9)), []guest.Cut{first}},
		{change(3, 1, 2, guest.ByRecovery, second.From), []guest.Cut{first}},
		{change(4, 2, 1, guest.ByMigration, name(4, "n2", 10)), []guest.Cut{first, second}},
		{change(5, 1, 2, guest.ByRecovery, name(1, "n1", 7)), []guest.Cut{second}},
	} {
		if diff := cmp.Diff(step.want, step.got); diff != "" {
			t.Error(diff)
		}
	}
}

// A volume that is added while a guest moves would be left behind, and one of which somebody who plans its recovery does not
// know yet would be missing.
func TestChangeOwner_BringsAllVolumes(t *testing.T) {
	for _, how := range []string{guest.ByMigration, guest.ByRecovery} {
		b := running(t)
		g := b.m.View().Guests[100]
		was := guest.Beginning{How: how, Point: "p", GUIDs: map[guest.Volume]uint64{g.Volumes[0]: 7}}
		g.Volumes = append(slices.Clone(g.Volumes), guest.Volume{Storage: "local-zfs", Name: "vm-100-disk-9"})
		b.must(ledger.SetGuest{Guest: g})
		b.refused(ledger.ChangeOwner{ID: 100, Owner: nodeID(1), Term: term(1), To: nodeID(2), Beginning: &was}, "its volumes were changed meanwhile")
	}
}
