package daemon_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/zfs"
)

func wantError(t *testing.T, err error, code api.Code, text string) {
	t.Helper()
	var e *api.Error
	if !errors.As(err, &e) || e.Code != code || !strings.Contains(e.Message+" "+e.Hint, text) {
		t.Errorf("got %v (%+v), want an error of code %s that says %q", err, e, code, text)
	}
}

// marks are Tandem's properties of a dataset.
func (m *machine) marks(name string) map[string]string {
	m.t.Helper()
	return m.dataset(name).Props
}

func (m *machine) dataset(name string) zfs.Dataset {
	m.t.Helper()
	list, err := m.pool.List(m.t.Context(), "tank/guests/"+name)
	if err != nil {
		m.t.Fatal(err)
	}
	return list[0]
}

func TestRemoveMember_EndsItsJobsFirst(t *testing.T) {
	t.Parallel()
	n := cluster(t, 3)
	ctx := t.Context()
	n[0].disk("vm-100-disk-0", "x")
	n[0].addGuest(100)
	id := guest.JobID{Guest: 100}
	if _, err := n[0].api.CreateJob(ctx, api.CreateJobRequest{ID: id, Target: "n3"}); err != nil {
		t.Fatal(err)
	}
	n[0].syncNow(id)
	until(t, "all vote", func() bool {
		c, err := n[0].api.Cluster(ctx)
		return err == nil && c.Voters == 3
	})
	_, err := n[1].api.RemoveMember(ctx, api.RemoveMemberRequest{Node: "n1"})
	wantError(t, err, api.CodeRefused, "owns guests: 100")
	_, err = n[1].api.RemoveMember(ctx, api.RemoveMemberRequest{Node: "n2"})
	wantError(t, err, api.CodeRefused, "on another member")
	_, err = n[1].api.RemoveMember(ctx, api.RemoveMemberRequest{Node: "n9"})
	wantError(t, err, api.CodeNotFound, "n9")

	plan, err := n[1].api.RemoveMember(ctx, api.RemoveMemberRequest{Node: "n3", DryRun: true})
	if err != nil || plan.Done || len(plan.Steps) < 2 || !strings.Contains(plan.Steps[0], "job 100-0") {
		t.Errorf("the plan: %+v, %v", plan, err)
	}
	if _, err := n[0].api.Job(ctx, id); err != nil {
		t.Fatalf("the plan ended the job: %v", err)
	}
	done, err := n[1].api.RemoveMember(ctx, api.RemoveMemberRequest{Node: "n3"})
	if err != nil || !done.Done {
		t.Fatalf("%+v, %v", done, err)
	}
	if n[2].dataset("vm-100-disk-0").Exists() {
		t.Error("the replica is still on the removed node")
	}
	if jobs, err := n[1].api.Jobs(ctx); err != nil || len(jobs) != 0 {
		t.Errorf("jobs: %v, %v", jobs, err)
	}
	until(t, "the two others go on", func() bool {
		c, err := n[0].api.Cluster(ctx)
		return err == nil && len(c.Members) == 2 && c.Voters == 2 && c.Quorate
	})
	until(t, "the removed node can change nothing", func() bool {
		_, err := n[2].api.SetCluster(ctx, api.SetClusterRequest{Name: new("mine")})
		return err != nil
	})
	log, err := n[0].api.Log(ctx, 20)
	if err != nil || !slices.ContainsFunc(log, func(c api.Change) bool {
		return strings.Contains(c.What, "member n3 removed") && strings.HasSuffix(c.By, "@n2") && !c.Time.IsZero()
	}) {
		t.Errorf("the log: %+v, %v", log, err)
	}
}

func TestSetGuest_Volumes(t *testing.T) {
	t.Parallel()
	n := cluster(t, 2)
	ctx := t.Context()
	for _, disk := range []string{"vm-100-disk-0", "vm-100-disk-1", "vm-101-disk-0"} {
		n[0].disk(disk, disk)
	}
	n[0].addGuest(100)
	n[0].addGuest(101)
	id := guest.JobID{Guest: 100}
	if _, err := n[0].api.CreateJob(ctx, api.CreateJobRequest{ID: id, Target: "n2"}); err != nil {
		t.Fatal(err)
	}
	vol := func(name string) []guest.Volume { return []guest.Volume{{Storage: "local-zfs", Name: name}} }
	set := func(r api.SetGuestRequest) (api.Guest, error) {
		r.ID = 100
		return n[1].api.SetGuest(ctx, r)
	}
	second := vol("vm-100-disk-1")
	n[1].knows(id)
	before, err := n[1].api.Guest(ctx, 100)
	if err != nil || cmp.Diff([]guest.JobID{id}, before.Jobs) != "" {
		t.Fatalf("%+v, %v", before, err)
	}

	_, err = set(api.SetGuestRequest{AddVolumes: vol("vm-100-disk-9")})
	wantError(t, err, api.CodeRefused, "tank/guests/vm-100-disk-9")
	wantError(t, err, api.CodeRefused, "create it, or check the storage's dataset") // the hint of the other node
	_, err = set(api.SetGuestRequest{AddVolumes: vol("vm-101-disk-0")})
	wantError(t, err, api.CodeRefused, "belongs to guest 101")
	_, err = set(api.SetGuestRequest{AddVolumes: []guest.Volume{{Storage: "nowhere", Name: "a"}}})
	wantError(t, err, api.CodeRefused, "nowhere")
	_, err = set(api.SetGuestRequest{RemoveVolumes: second})
	wantError(t, err, api.CodeInvalid, "no volume local-zfs:vm-100-disk-1")
	_, err = set(api.SetGuestRequest{RemoveVolumes: vol("vm-100-disk-0")})
	wantError(t, err, api.CodeInvalid, "at least one volume")
	_, err = set(api.SetGuestRequest{Name: new("db"), Digest: "stale"})
	wantError(t, err, api.CodeRefused, "changed meanwhile")
	if after, err := n[1].api.Guest(ctx, 100); err != nil || cmp.Diff(before, after) != "" {
		t.Fatalf("a refused change changed something: %s %v", cmp.Diff(before, after), err)
	}

	if _, err := set(api.SetGuestRequest{AddVolumes: second, Config: new("cores=2\n"), Name: new("db"), Digest: before.Digest}); err != nil {
		t.Fatal(err)
	}
	g, err := n[0].api.Guest(ctx, 100)
	if err != nil || g.Name != "db" || g.Config != "cores=2\n" || len(g.Volumes) != 2 {
		t.Errorf("%+v, %v", g, err)
	}
	n[0].syncNow(id)
	if !n[1].dataset("vm-100-disk-1").Exists() || len(n[0].marks("vm-100-disk-1")) == 0 {
		t.Error("the added volume was not replicated")
	}

	out, err := set(api.SetGuestRequest{RemoveVolumes: second})
	if err != nil {
		t.Fatal(err)
	}
	want := []api.Trace{
		{Node: "n1", Volume: second[0], Dataset: "tank/guests/vm-100-disk-1", Fate: api.FateKept},
		{Node: "n2", Volume: second[0], Dataset: "tank/guests/vm-100-disk-1", Fate: api.FateReplica},
	}
	if d := cmp.Diff(want, out.Traces); d != "" {
		t.Errorf("what became of the volume (-want +got):\n%s", d)
	}
	if d := n[0].dataset("vm-100-disk-1"); len(d.Props) != 0 || len(d.Snapshots) != 0 {
		t.Errorf("Tandem left on the removed volume: %v, %v", d.Props, d.Snapshots)
	}
	n[0].write("vm-100-disk-0", "later")
	n[0].syncNow(id)
	if got := n[1].replica(100); got != "later" {
		t.Errorf("the replica holds %q", got)
	}
}

// replicated is a cluster of two with a guest on n1, whose disk holds the text and has been replicated to n2.
func replicated(t *testing.T, text string) ([]*machine, guest.JobID) {
	t.Helper()
	n, id := cluster(t, 2), guest.JobID{Guest: 100}
	n[0].disk("vm-100-disk-0", text)
	n[0].addGuest(100)
	if _, err := n[0].api.CreateJob(t.Context(), api.CreateJobRequest{ID: id, Target: "n2"}); err != nil {
		t.Fatal(err)
	}
	n[0].syncNow(id)
	n[1].knows(id)
	return n, id
}

func TestRemoveGuest(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	n, id := replicated(t, "x")
	_, err := n[1].api.RemoveGuest(ctx, api.RemoveGuestRequest{ID: 100})
	wantError(t, err, api.CodeRefused, "tandem delete 100-0")
	_, err = n[1].api.RemoveGuest(ctx, api.RemoveGuestRequest{ID: 777})
	wantError(t, err, api.CodeNotFound, "guest 777")
	n[1].endJob(id, true)

	gone, err := n[1].api.RemoveGuest(ctx, api.RemoveGuestRequest{ID: 100})
	if err != nil || len(gone.Warnings) != 0 {
		t.Fatalf("%+v, %v", gone, err)
	}
	want := []api.Trace{
		{Node: "n1", Volume: volume(100), Dataset: "tank/guests/vm-100-disk-0", Fate: api.FateKept},
		{Node: "n2", Volume: volume(100), Dataset: "tank/guests/vm-100-disk-0", Fate: api.FateReplica},
	}
	if d := cmp.Diff(want, gone.Traces); d != "" {
		t.Errorf("what became of it (-want +got):\n%s", d)
	}
	if got := n[0].replica(100); got != "x" || len(n[0].marks("vm-100-disk-0")) != 0 {
		t.Errorf("the data is %q, the marks are %v", got, n[0].marks("vm-100-disk-0"))
	}
	until(t, "n1 has forgotten the guest", func() bool {
		_, err := n[0].api.Guest(ctx, 100)
		return err != nil
	})
	// It can be added again, also where a removal did not get as far as the marks.
	n[0].addGuest(100)
	if err := n[0].pool.SetProps(ctx, map[string]string{zfs.PropVolume: volume(100).String(), zfs.PropRole: zfs.RoleOwner}, "tank/guests/vm-100-disk-0"); err != nil {
		t.Fatal(err)
	}

	// An operator's snapshot stands in the way of deleting the data; nothing changes.
	mark := map[string]string{zfs.PropCluster: n[0].clusterID(), zfs.PropGuest: "100"}
	if err := n[0].pool.SetProps(ctx, mark, "tank/guests/vm-100-disk-0"); err != nil {
		t.Fatal(err)
	}
	if err := n[0].pool.Snapshot(ctx, []string{"tank/guests/vm-100-disk-0@mine"}, nil); err != nil {
		t.Fatal(err)
	}
	until(t, "n2 knows the guest again", func() bool {
		_, err := n[1].api.Guest(ctx, 100)
		return err == nil
	})
	_, err = n[1].api.RemoveGuest(ctx, api.RemoveGuestRequest{ID: 100, DeleteData: true})
	wantError(t, err, api.CodeRefused, "snapshot mine was not made by Tandem")
	if _, err := n[1].api.Guest(ctx, 100); err != nil {
		t.Fatal(err)
	}
	if err := n[0].pool.DestroySnapshots(ctx, "tank/guests/vm-100-disk-0", []string{"mine"}); err != nil {
		t.Fatal(err)
	}
	if gone, err = n[1].api.RemoveGuest(ctx, api.RemoveGuestRequest{ID: 100, DeleteData: true}); err != nil {
		t.Fatal(err)
	}
	for _, trace := range gone.Traces {
		if trace.Fate != api.FateDestroyed {
			t.Errorf("%+v", trace)
		}
	}
	if n[0].dataset("vm-100-disk-0").Exists() || n[1].dataset("vm-100-disk-0").Exists() {
		t.Error("the data is still there")
	}
}

// knows waits until a node has heard of a job that was made on another.
func (m *machine) knows(id guest.JobID) {
	m.t.Helper()
	until(m.t, string(m.conf.NodeName)+" knows job "+id.String(), func() bool {
		_, err := m.api.Job(m.t.Context(), id)
		return err == nil
	})
}

func (m *machine) clusterID() string {
	m.t.Helper()
	c, err := m.api.Cluster(m.t.Context())
	if err != nil {
		m.t.Fatal(err)
	}
	return c.ID
}

// endJob deletes a job and waits until it is gone.
func (m *machine) endJob(id guest.JobID, keep bool) {
	m.t.Helper()
	if _, err := m.api.DeleteJob(m.t.Context(), api.DeleteJobRequest{ID: id, Keep: keep}); err != nil {
		m.t.Fatal(err)
	}
	until(m.t, "job "+id.String()+" is gone", func() bool {
		jobs, err := m.api.Jobs(m.t.Context())
		return err == nil && len(jobs) == 0
	})
}

// What was marked by a removal that was cut is taken in again; what is another's is not.
func TestAddGuest_TakesFormerMarksOff(t *testing.T) {
	t.Parallel()
	n := cluster(t, 1)
	ctx := t.Context()
	n[0].disk("vm-100-disk-0", "x")
	marks := map[string]string{zfs.PropCluster: n[0].clusterID(), zfs.PropRole: zfs.RoleOwner}
	if err := n[0].pool.SetProps(ctx, marks, "tank/guests/vm-100-disk-0"); err != nil {
		t.Fatal(err)
	}
	n[0].addGuest(100)
	n[0].disk("vm-101-disk-0", "x")
	if err := n[0].pool.SetProps(ctx, map[string]string{zfs.PropCluster: "another", zfs.PropRole: zfs.RoleOwner}, "tank/guests/vm-101-disk-0"); err != nil {
		t.Fatal(err)
	}
	_, err := n[0].api.AddGuest(ctx, api.AddGuestRequest{ID: 101, Type: guest.VM, Name: "w", Volumes: []guest.Volume{volume(101)}})
	wantError(t, err, api.CodeRefused, "already marked")
	if n[0].marks("vm-101-disk-0")[zfs.PropCluster] != "another" {
		t.Error("another cluster's mark was taken off")
	}
}

func TestCluster_NamesStoragesAndDiscovers(t *testing.T) {
	t.Parallel()
	n := cluster(t, 2)
	ctx := t.Context()
	c, err := n[1].api.SetCluster(ctx, api.SetClusterRequest{Name: new("prod")})
	if err != nil || c.Name != "prod" {
		t.Errorf("%q, %v", c.Name, err)
	}
	_, err = n[1].api.SetCluster(ctx, api.SetClusterRequest{Name: new("a b")})
	wantError(t, err, api.CodeRefused, "a b")
	_, err = n[0].api.SetCluster(ctx, api.SetClusterRequest{Name: new("x"), Digest: "stale"})
	wantError(t, err, api.CodeRefused, "changed meanwhile")

	for _, disk := range []string{"vm-100-disk-0", "vm-100-disk-1", "vm-102-disk-0", "base-103-disk-0", "iso"} {
		n[0].disk(disk, "x")
	}
	if err := n[1].pool.Create("tank/guests/subvol-200-disk-0", 0, nil); err != nil {
		t.Fatal(err)
	}
	n[1].disk("vm-102-disk-0", "x")
	n[0].addGuest(100)
	until(t, "n2 knows the guest", func() bool {
		_, err := n[1].api.Guest(ctx, 100)
		return err == nil
	})
	d, err := n[1].api.Discover(ctx, api.DiscoverRequest{})
	if err != nil {
		t.Fatal(err)
	}
	vol := func(names ...string) (out []guest.Volume) {
		for _, name := range names {
			out = append(out, guest.Volume{Storage: "local-zfs", Name: name})
		}
		return out
	}
	want := []api.Discovered{
		{Node: "n1", ID: 100, Type: guest.VM, Name: "web", Volumes: vol("vm-100-disk-1"), Known: true},
		{Node: "n1", ID: 102, Type: guest.VM, Name: "guest-102", Volumes: vol("vm-102-disk-0")},
		{Node: "n2", ID: 102, Type: guest.VM, Name: "guest-102", Volumes: vol("vm-102-disk-0")},
		{Node: "n2", ID: 200, Type: guest.CT, Name: "guest-200", Volumes: vol("subvol-200-disk-0")},
	}
	if diff := cmp.Diff(want, d.Guests); diff != "" {
		t.Errorf("found (-want +got):\n%s", diff)
	}
	if len(d.Warnings) != 3 || !strings.Contains(d.Warnings[0], "storage lost of node n1") ||
		!strings.Contains(d.Warnings[2], "guest 102 was found on n1 and on n2") {
		t.Errorf("warnings: %q", d.Warnings)
	}
	d, err = n[1].api.Discover(ctx, api.DiscoverRequest{Node: "n1", Pattern: "iso*"})
	if err != nil || len(d.Guests) != 1 || d.Guests[0].ID != 101 || d.Guests[0].Name != "iso" {
		t.Errorf("by a pattern without an ID: %+v, %v", d.Guests, err)
	}
	_, err = n[1].api.Discover(ctx, api.DiscoverRequest{Pattern: "a/b"})
	wantError(t, err, api.CodeInvalid, "pattern")

	s, err := n[0].api.Storages(ctx, "")
	if err != nil || len(s) != 2 || s[0].Node != "n1" || s[1].Storages[0].Pool != "tank" || s[1].Storages[0].Available == 0 || s[0].Storages[1].Error == "" {
		t.Errorf("storages: %+v, %v", s, err)
	}
	n[1].stop()
	s, err = n[0].api.Storages(ctx, "n2")
	if err != nil || len(s) != 1 || !s[0].Silent || len(s[0].Storages) != 2 {
		t.Errorf("storages of a node that is away: %+v, %v", s, err)
	}
	_, err = n[0].api.Storages(ctx, "n9")
	wantError(t, err, api.CodeNotFound, "n9")
}

// Two nodes, one of which dies: the other is forced, removes it, and takes it in again.
func TestExpected_RemovesADeadNodeWhichJoinsAgain(t *testing.T) {
	t.Parallel()
	n := cluster(t, 2)
	ctx := t.Context()
	until(t, "both vote", func() bool {
		c, err := n[0].api.Cluster(ctx)
		return err == nil && c.Voters == 2
	})
	_, err := n[0].api.Expected(ctx, api.ExpectedRequest{Votes: 1})
	wantError(t, err, api.CodeRefused, "quorate")
	n[1].stop()
	until(t, "the majority is gone", func() bool {
		c, err := n[0].api.Cluster(ctx)
		return err == nil && !c.Quorate
	})
	_, err = n[0].api.RemoveMember(ctx, api.RemoveMemberRequest{Node: "n2"})
	wantError(t, err, api.CodeRefused, "tandem cluster expected")
	_, err = n[0].api.Expected(ctx, api.ExpectedRequest{Votes: 5})
	wantError(t, err, api.CodeRefused, "expected 5")
	e, err := n[0].api.Expected(ctx, api.ExpectedRequest{Votes: 1})
	if err != nil || !e.Cluster.Forced || !e.Cluster.Quorate || len(e.Cluster.Lineage) != 1 || !strings.HasSuffix(e.Cluster.Lineage[0].By, "@n1") {
		t.Fatalf("%+v, %v", e, err)
	}

	n[0].disk("vm-100-disk-0", "x")
	add := api.AddGuestRequest{ID: 100, Type: guest.VM, Name: "web", Volumes: []guest.Volume{volume(100)}}
	_, err = n[0].api.AddGuest(ctx, add)
	wantError(t, err, api.CodeRefused, "--force")
	add.Force = true
	if _, err := n[0].api.AddGuest(ctx, add); err != nil {
		t.Error(err)
	}
	_, err = n[0].api.RemoveMember(ctx, api.RemoveMemberRequest{Node: "n2"})
	wantError(t, err, api.CodeRefused, "--force")
	r, err := n[0].api.RemoveMember(ctx, api.RemoveMemberRequest{Node: "n2", Force: true})
	if err != nil || !r.Done || len(r.Warnings) != 1 {
		t.Fatalf("%+v, %v", r, err)
	}

	n[1].start()
	until(t, "the removed node knows that it was removed", func() bool {
		c, err := n[1].api.Cluster(ctx)
		return err == nil && c.Removed != nil && strings.HasSuffix(c.Removed.By, "@n1") && !c.Removed.At.IsZero()
	})
	token, err := n[0].api.Token(ctx, api.TokenRequest{})
	if err != nil {
		t.Fatal(err)
	}
	before, err := n[1].api.Cluster(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n[1].api.Join(ctx, api.JoinRequest{Address: token.Address, Token: token.Text, Force: true}); err != nil {
		t.Fatal(err)
	}
	until(t, "it is a member that votes again, with the ID that it had", func() bool {
		c, err := n[1].api.Cluster(ctx)
		if err != nil || !c.Quorate || c.Removed != nil || c.Voters != 2 || c.Generation != e.Cluster.Generation {
			return false
		}
		return slices.ContainsFunc(c.Members, func(m api.Member) bool { return m.Name == "n2" && m.ID == self(before) && m.State == "self" })
	})
	if _, err := n[1].api.Guest(ctx, 100); err != nil {
		t.Error(err)
	}
}

func self(c api.Cluster) guest.NodeID {
	for _, m := range c.Members {
		if m.State == "self" {
			return m.ID
		}
	}
	return ""
}
