package overview

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
)

func TestFilling(t *testing.T) {
	const g = 1 << 30
	storage := func(name, pool string, used, available, free, size uint64) api.Storage {
		return api.Storage{Name: name, Dataset: pool + "/" + name, Pool: pool, Used: used, Available: available, PoolFree: free, PoolSize: size}
	}
	self, other := guest.NodeID("1"), guest.NodeID("2")
	s := &ledger.State{Guests: map[guest.ID]guest.Guest{}, Jobs: map[guest.JobID]guest.Job{}}
	for n := range 7 {
		id := guest.JobID{Guest: guest.ID(100 + n)}
		s.Guests[id.Guest] = guest.Guest{ID: id.Guest, Volumes: []guest.Volume{{Storage: "a", Name: "d"}}}
		s.Jobs[id] = guest.Job{ID: id, Target: self}
	}
	s.Guests[200] = guest.Guest{ID: 200, Volumes: []guest.Volume{{Storage: "b", Name: "d"}}}
	s.Jobs[guest.JobID{Guest: 200}] = guest.Job{ID: guest.JobID{Guest: 200}, Target: self}
	s.Jobs[guest.JobID{Guest: 200, Number: 1}] = guest.Job{ID: guest.JobID{Guest: 200, Number: 1}, Target: other}
	aJobs := "; what ends there: 100-0, 101-0, 102-0, 103-0, 104-0, 2 more"
	for _, tc := range []struct {
		name     string
		storages []api.Storage
		want     []string
	}{
		{"plenty of room", []api.Storage{storage("a", "tank", 79*g, 21*g, 21*g, 100*g)}, nil},
		{"nothing is known", []api.Storage{{Name: "a", Pool: "tank"}}, nil},
		{"not readable", []api.Storage{{Name: "a", Pool: "tank", PoolSize: g, Error: "gone"}}, nil},
		{
			"a pool, with both of its storages",
			[]api.Storage{storage("a", "tank", 40*g, 17*g, 20*g, 100*g), storage("b", "tank", 40*g, 17*g, 20*g, 100*g)},
			[]string{"node n1: pool tank is 80% full: 80G of 100G are taken, 20G are free; what ends there: 100-0, 101-0, 102-0, 103-0, 104-0, 3 more"},
		},
		{
			"a quota",
			[]api.Storage{storage("b", "tank", 9*g, 1*g, 60*g, 100*g)},
			[]string{"node n1: storage b (tank/b) is 90% full: 9.0G of 10G are taken, 1.0G are available; what ends there: 200-0"},
		},
		{
			"a pool, and a quota below it",
			[]api.Storage{storage("a", "tank", 9*g, 1*g, 10*g, 100*g), storage("c", "tank", 2*g, 8*g, 10*g, 100*g)},
			[]string{
				"node n1: pool tank is 90% full: 90G of 100G are taken, 10G are free" + aJobs,
				"node n1: storage a (tank/a) is 90% full: 9.0G of 10G are taken, 1.0G are available" + aJobs,
			},
		},
	} {
		o := &Overview{Self: self, Name: "n1"}
		if d := cmp.Diff(tc.want, o.warnFull(s, tc.storages)); d != "" {
			t.Errorf("%s (-want +got)\n%s", tc.name, d)
		}
	}
}
