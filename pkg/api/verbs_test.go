package api_test

import (
	"context"
	"net/http"
	"os/user"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/api/socket"
	"github.com/tandemd/tandem/pkg/guest"
)

func (b *backend) Expected(_ context.Context, r api.ExpectedRequest) (api.Expectation, error) {
	return respond[api.Expectation](b, r)
}

func (b *backend) Yield(_ context.Context, r api.YieldRequest) (api.Cluster, error) {
	return respond[api.Cluster](b, r)
}

func (b *backend) RemoveMember(_ context.Context, r api.RemoveMemberRequest) (api.Removal, error) {
	return respond[api.Removal](b, r)
}

func (b *backend) Log(_ context.Context, n int) ([]api.Change, error) {
	return respond[[]api.Change](b, n)
}

func (b *backend) SetCluster(ctx context.Context, r api.SetClusterRequest) (api.Cluster, error) {
	return respond[api.Cluster](b, r, socket.Caller(ctx))
}

func (b *backend) Storages(_ context.Context, n guest.NodeName) ([]api.NodeStorages, error) {
	return respond[[]api.NodeStorages](b, n)
}

func (b *backend) Guest(_ context.Context, id guest.ID) (api.Guest, error) {
	return respond[api.Guest](b, id)
}

func (b *backend) SetGuest(_ context.Context, r api.SetGuestRequest) (api.Guest, error) {
	return respond[api.Guest](b, r)
}

func (b *backend) RemoveGuest(_ context.Context, r api.RemoveGuestRequest) (api.GuestRemoval, error) {
	return respond[api.GuestRemoval](b, r)
}

func (b *backend) Discover(_ context.Context, r api.DiscoverRequest) (api.Discovery, error) {
	return respond[api.Discovery](b, r)
}

func (b *backend) StartGuest(_ context.Context, id guest.ID) error {
	_, err := respond[struct{}](b, id)
	return err
}

func (b *backend) StopGuest(_ context.Context, id guest.ID) error {
	_, err := respond[struct{}](b, id)
	return err
}

func (b *backend) MayStart(_ context.Context, id guest.ID) error {
	_, err := respond[struct{}](b, id)
	return err
}

func (b *backend) Diverged(_ context.Context, r api.DivergedRequest) (api.DivergedList, error) {
	return respond[api.DivergedList](b, r)
}

func (b *backend) DiscardDiverged(_ context.Context, r api.CopyRequest) (api.DivergedCopy, error) {
	return respond[api.DivergedCopy](b, r)
}

func (b *backend) ShowDiverged(_ context.Context, r api.CopyRequest) (api.DivergedDetail, error) {
	return respond[api.DivergedDetail](b, r)
}

func (b *backend) MountDiverged(_ context.Context, r api.CopyRequest) (api.DivergedMount, error) {
	return respond[api.DivergedMount](b, r)
}

func (b *backend) UnmountDiverged(_ context.Context, r api.CopyRequest) (api.DivergedCopy, error) {
	return respond[api.DivergedCopy](b, r)
}

func (b *backend) RestoreDiverged(_ context.Context, r api.RestoreRequest) (api.Restored, error) {
	return respond[api.Restored](b, r)
}

func (b *backend) DiscardKept(_ context.Context, r api.KeptRequest) (api.KeptRemoval, error) {
	return respond[api.KeptRemoval](b, r)
}

// divergedMethods has an entry for every method of DivergedBackend.
func divergedMethods() []method {
	one := api.DivergedCopy{
		Node: "n2", Dataset: "tank/g/diverged/100/d_1", Guest: 100, Volume: guest.Volume{Storage: "s", Name: "d"},
		SetAside: time.Date(2026, 11, 22, 20, 41, 0, 0, time.UTC), Why: "w", Used: 7, Base: "tank/g/d@b", Term: "1-g", Owner: "n1", OwnerTerm: "2-g",
	}
	list, discard := api.DivergedRequest{Guest: 100, Node: "n2"}, api.CopyRequest{Node: "n2", Dataset: one.Dataset}
	age := 9.5
	volume := one.Volume
	kept := api.KeptCopy{
		Node: "n1", Guest: 100, Volumes: []api.KeptVolume{{Volume: volume, Dataset: "tank/g/d", Used: 7}}, Owner: "n2", Used: 7, Point: "p",
		Age: &age, Only: true,
	}
	detail := api.DivergedDetail{
		Version: 1, DivergedCopy: one, Type: "filesystem", Newer: 5, At: "/x", Trouble: "t",
		Snapshots: []api.DivergedSnapshot{{Name: "s", Taken: one.SetAside, Written: 5}}, Clones: []api.DivergedClone{{Dataset: "tank/g/c", Guest: 900}},
		Diff: &api.FileDiff{Added: 1, Removed: 2, Modified: 3, Renamed: 4, First: []string{"M\t/x"}},
	}
	restore := api.RestoreRequest{Node: "n2", Datasets: []string{one.Dataset}, As: 900, Force: true}
	gone := api.KeptRequest{Node: "n1", Guest: 100}
	return []method{
		{
			"ShowDiverged", func(ctx context.Context, b api.Backend) (any, error) { return b.ShowDiverged(ctx, discard) },
			[]any{discard},
			detail,
		},
		{
			"MountDiverged", func(ctx context.Context, b api.Backend) (any, error) { return b.MountDiverged(ctx, discard) },
			[]any{discard},
			api.DivergedMount{Version: 1, Node: "n2", Dataset: one.Dataset, At: "/dev/x", Device: true},
		},
		{
			"UnmountDiverged", func(ctx context.Context, b api.Backend) (any, error) { return b.UnmountDiverged(ctx, discard) },
			[]any{discard},
			one,
		},
		{
			"RestoreDiverged", func(ctx context.Context, b api.Backend) (any, error) { return b.RestoreDiverged(ctx, restore) },
			[]any{restore},
			api.Restored{
				Version: 1, Guest: 900, Name: "n", Node: "n2", From: 100, Warnings: []string{"w"},
				Volumes: []api.RestoredVolume{{Copy: one.Dataset, Volume: volume, Dataset: "tank/g/e"}},
			},
		},
		{
			"DiscardKept", func(ctx context.Context, b api.Backend) (any, error) { return b.DiscardKept(ctx, gone) },
			[]any{gone},
			api.KeptRemoval{Version: 1, Node: "n1", Guest: 100, Destroyed: []string{"a"}, Left: []string{"b"}},
		},
		{
			"Diverged", func(ctx context.Context, b api.Backend) (any, error) { return b.Diverged(ctx, list) },
			[]any{list},
			api.DivergedList{Version: 1, Copies: []api.DivergedCopy{one}, Kept: []api.KeptCopy{kept}, Silent: []guest.NodeName{"n3"}, Warnings: []string{"w"}},
		},
		{
			"DiscardDiverged", func(ctx context.Context, b api.Backend) (any, error) { return b.DiscardDiverged(ctx, discard) },
			[]any{discard},
			one,
		},
	}
}

// clusterMethods has an entry for every method of ClusterBackend.
func clusterMethods(cluster api.Cluster) []method {
	at := time.Date(2026, 11, 22, 20, 41, 0, 0, time.UTC)
	cluster.Standing = api.Standing{
		Name: "prod", Digest: "d", Forced: true, Alarms: []string{"a"}, Waiting: "w", Yielding: "g2", Aside: []string{"raft/x"},
		Lineage: []api.Fork{{Generation: "g", Parent: "p", Index: 7, Node: "n1", By: "root@n1", At: at}},
		Others:  []api.Generation{{ID: "g2", Nodes: []guest.NodeName{"n2"}}}, Meeting: "m",
		Removed: &api.Removed{At: at, By: "root@n2"},
	}
	expected, yield := api.ExpectedRequest{Votes: 1}, api.YieldRequest{Generation: "g2"}
	remove := api.RemoveMemberRequest{Node: "n2", Force: true, Keep: true, DryRun: true}
	set := api.SetClusterRequest{Name: new(""), Digest: "d"}
	return []method{
		{
			"Expected", func(ctx context.Context, b api.Backend) (any, error) { return b.Expected(ctx, expected) },
			[]any{expected},
			api.Expectation{Version: 1, Cluster: cluster, Warnings: []string{"w"}},
		},
		{"Yield", func(ctx context.Context, b api.Backend) (any, error) { return b.Yield(ctx, yield) }, []any{yield}, cluster},
		{
			"RemoveMember", func(ctx context.Context, b api.Backend) (any, error) { return b.RemoveMember(ctx, remove) },
			[]any{remove},
			api.Removal{Version: 1, Node: "n2", Steps: []string{"s"}, Leaves: []string{"l"}, Warnings: []string{"w"}, Done: true},
		},
		{
			"Log", func(ctx context.Context, b api.Backend) (any, error) { return b.Log(ctx, 5) },
			[]any{5},
			[]api.Change{{Index: 1, Time: at, By: "b", What: "w"}},
		},
		{
			"SetCluster", func(ctx context.Context, b api.Backend) (any, error) { return b.SetCluster(ctx, set) },
			[]any{set, "operator"},
			cluster,
		},
		{
			"Storages", func(ctx context.Context, b api.Backend) (any, error) { return b.Storages(ctx, "n1") },
			[]any{guest.NodeName("n1")},
			[]api.NodeStorages{{Node: "n1", Silent: true, Storages: []api.Storage{{Name: "s", Pool: "p"}}}},
		},
		{
			"Storages of all", func(ctx context.Context, b api.Backend) (any, error) { return b.Storages(ctx, "") },
			[]any{guest.NodeName("")},
			[]api.NodeStorages{},
		},
	}
}

// guestMethods has an entry for every method of GuestBackend.
func guestMethods(g api.Guest) []method {
	volume := guest.Volume{Storage: "local-zfs", Name: "vm-100-disk-0"}
	g.GuestDetail = api.GuestDetail{
		Config: "a=1\n", Jobs: []guest.JobID{{Guest: 100}}, Warnings: []string{"w"},
		Traces: []api.Trace{{Node: "n1", Volume: volume, Dataset: "tank/x", Fate: api.FateLeft, Reason: "r"}},
	}
	g.Run = &api.GuestRun{State: api.GuestRunning, Since: time.Date(2026, 11, 22, 20, 41, 0, 0, time.UTC), On: []guest.NodeName{"n1"}}
	set := api.SetGuestRequest{
		ID: 100, Name: new("web"), Unit: new(""), Config: new("a=1"), AddVolumes: []guest.Volume{volume},
		RemoveVolumes: []guest.Volume{volume}, DeleteData: true, Digest: "d",
	}
	remove := api.RemoveGuestRequest{ID: 100, DeleteData: true, Digest: "d"}
	discover := api.DiscoverRequest{Node: "n1", Pattern: "g{id}-*?"}
	return []method{
		{"Guest", func(ctx context.Context, b api.Backend) (any, error) { return b.Guest(ctx, 100) }, []any{guest.ID(100)}, g},
		{"StartGuest", func(ctx context.Context, b api.Backend) (any, error) { return nil, b.StartGuest(ctx, 100) }, []any{guest.ID(100)}, nil},
		{"StopGuest", func(ctx context.Context, b api.Backend) (any, error) { return nil, b.StopGuest(ctx, 100) }, []any{guest.ID(100)}, nil},
		{"MayStart", func(ctx context.Context, b api.Backend) (any, error) { return nil, b.MayStart(ctx, 100) }, []any{guest.ID(100)}, nil},
		{"SetGuest", func(ctx context.Context, b api.Backend) (any, error) { return b.SetGuest(ctx, set) }, []any{set}, g},
		{
			"RemoveGuest", func(ctx context.Context, b api.Backend) (any, error) { return b.RemoveGuest(ctx, remove) },
			[]any{remove},
			api.GuestRemoval{Version: 1, ID: 100, Traces: g.Traces, Warnings: []string{"w"}},
		},
		{
			"Discover", func(ctx context.Context, b api.Backend) (any, error) { return b.Discover(ctx, discover) },
			[]any{discover},
			api.Discovery{
				Version: 1, Silent: []guest.NodeName{"n3"}, Warnings: []string{"w"},
				Guests: []api.Discovered{{Node: "n1", ID: 100, Type: guest.VM, Name: "web", Volumes: []guest.Volume{volume}, Known: true}},
			},
		},
	}
}

func TestCaller_IsTheUserAtTheOtherEnd(t *testing.T) {
	me, err := user.Current()
	if err != nil {
		t.Skip("who runs this test is not known: ", err)
	}
	path := filepath.Join(t.TempDir(), "s")
	l, err := socket.Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	b := &backend{answer: api.Cluster{}}
	srv := &http.Server{Handler: api.NewHandler(b, zap.NewNop()), ReadHeaderTimeout: time.Minute, ConnContext: socket.ConnContext}
	done := make(chan struct{})
	go func() { defer close(done); srv.Serve(l) }()
	t.Cleanup(func() { srv.Close(); <-done })
	if _, err := api.NewClient(path).SetCluster(t.Context(), api.SetClusterRequest{}); err != nil {
		t.Fatal(err)
	}
	if got := b.asked[1]; got != me.Username {
		t.Errorf("the caller is %q, want %q", got, me.Username)
	}
}
