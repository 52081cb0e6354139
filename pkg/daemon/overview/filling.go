package overview

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
)

const (
	// fullAt is from how many percent on a pool, or what a quota leaves of it, is told of: near its end a pool
	// becomes slow, and then nothing arrives any more.
	fullAt = 80
	// jobsTold is how many jobs that end there are named.
	jobsTold = 5
)

// full is a pool, or a storage by its quota, that is nearly full.
type full struct {
	// storages are the names of those that are in it.
	storages []string
	// text says what and how full, with numbers.
	text string
}

// filling finds what is nearly full among a node's storages. A storage is told of beside its pool only where its quota
// leaves less than half of what the pool has.
func filling(storages []api.Storage) []full {
	var out []full
	pools := map[string]int{}
	for _, s := range storages {
		if s.Error != "" {
			continue
		}
		taken := s.PoolSize - min(s.PoolFree, s.PoolSize)
		poolFull := percent(taken, s.PoolSize) >= fullAt
		if i, told := pools[s.Pool]; told {
			out[i].storages = append(out[i].storages, s.Name)
		} else if poolFull {
			pools[s.Pool] = len(out)
			out = append(out, full{storages: []string{s.Name}, text: fmt.Sprintf("pool %s is %d%% full: %s of %s are taken, %s are free",
				s.Pool, percent(taken, s.PoolSize), api.Size(taken), api.Size(s.PoolSize), api.Size(s.PoolFree))})
		}
		if total := s.Used + s.Available; percent(s.Used, total) >= fullAt && (!poolFull || s.Available < s.PoolFree/2) {
			out = append(out, full{storages: []string{s.Name}, text: fmt.Sprintf("storage %s (%s) is %d%% full: %s of %s are taken, %s are available",
				s.Name, s.Dataset, percent(s.Used, total), api.Size(s.Used), api.Size(total), api.Size(s.Available))})
		}
	}
	return out
}

// percent is rounded down.
func percent(part, whole uint64) int {
	if whole == 0 {
		return 0
	}
	return int(100 * float64(part) / float64(whole))
}

// warnFull are the sentences of a node, each with the jobs that end there.
func (o *Overview) warnFull(s *ledger.State, storages []api.Storage) []string {
	var out []string
	for _, f := range filling(storages) {
		var jobs []string
		for _, j := range s.JobList() {
			if j.Target == o.Self && f.has(s.Guests[j.ID.Guest]) {
				jobs = append(jobs, j.ID.String())
			}
		}
		text := fmt.Sprintf("node %s: %s", o.Name, f.text)
		if more := len(jobs) - jobsTold; more > 0 {
			jobs = append(jobs[:jobsTold], fmt.Sprintf("%d more", more))
		}
		if len(jobs) > 0 {
			text += "; what ends there: " + strings.Join(jobs, ", ")
		}
		out = append(out, text)
	}
	return out
}

// has says that a volume of the guest is in it.
func (f full) has(g guest.Guest) bool {
	return slices.ContainsFunc(g.Volumes, func(v guest.Volume) bool { return slices.Contains(f.storages, v.Storage) })
}
