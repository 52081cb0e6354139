package replica

import (
	"context"
	"slices"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/plan"
	"github.com/tandemd/tandem/pkg/replicate/fault"
	"github.com/tandemd/tandem/pkg/replicate/local"
	"github.com/tandemd/tandem/pkg/zfs"
)

// sight is a volume as this node last saw it, with what its own receives brought
// since: what follows in the same sync needs no list of its own. It serves to refuse
// early and with a reason. What counts is checked where it happens: a receive takes
// nothing that does not fit, and a commit checks marks and GUIDs in the moment in
// which it changes something.
type sight struct {
	found found
	// uses is how often the volume's lock had been taken when it was seen, under it.
	uses uint64
	at   time.Time
}

const (
	// sightFor is how long a sight serves.
	sightFor = time.Minute
	// sightMost is of how many snapshots a sight is kept: it is not worth the memory of more.
	sightMost = 2000
)

// saw notes what volumes are like whose locks the caller has.
func (t *Target) saw(list []found) {
	now := t.o.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	for v, s := range t.sights {
		if !s.fresh(now) {
			delete(t.sights, v)
		}
	}
	for _, l := range list {
		if len(l.data.Snapshots) > sightMost {
			delete(t.sights, l.volume)
			continue
		}
		t.sights[l.volume] = sight{found: l, uses: t.locks.Uses(local.VolumeLock(l.volume)), at: now}
	}
}

func (s sight) fresh(now time.Time) bool {
	age := now.Sub(s.at)
	return age >= 0 && age < sightFor // a clock may be set back
}

// seen is what volumes are like whose locks the caller has: as they were last seen,
// where nobody else had the locks since, or by a list.
func (t *Target) seen(ctx context.Context, volumes []guest.Volume) ([]found, error) {
	var out []found
	now := t.o.Now()
	t.mu.Lock()
	for _, v := range volumes {
		s, ok := t.sights[v]
		if ok && s.fresh(now) && t.locks.Uses(local.VolumeLock(v)) == s.uses+1 {
			out = append(out, s.found)
		}
	}
	t.mu.Unlock()
	if len(out) < len(volumes) {
		return t.list(ctx, volumes)
	}
	for i := range out {
		mounted, err := t.mounted(out[i])
		if err != nil {
			return nil, err
		}
		out[i].data.Mounted = mounted
	}
	return out, nil
}

// mounted asks the kernel: an operator may mount a replica at any time.
func (t *Target) mounted(l found) (bool, error) {
	if !l.data.Exists() || l.data.Type != zfs.TypeFilesystem {
		return false, nil
	}
	mounted, err := t.o.ZFS.Mounted(l.name)
	return mounted, fault.WrapVolume(l.volume, err, "look whether it is mounted on %s", t.o.Name)
}

// forgetSights drops what was seen of volumes.
func (t *Target) forgetSights(volumes []guest.Volume) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, v := range volumes {
		delete(t.sights, v)
	}
}

// with is the volume once a receive has brought a snapshot: zfs gives it the GUID that
// stands in the stream, or fails. Of the snapshots between nothing is known here.
func (l found) with(to plan.Ref) found {
	var txg uint64
	for _, s := range l.data.Snapshots {
		if s.GUID == to.GUID {
			return l
		}
		txg = max(txg, s.CreateTXG)
	}
	l.data.Snapshots = append(slices.Clone(l.data.Snapshots), zfs.Snapshot{Name: to.Name, GUID: to.GUID, CreateTXG: txg + 1})
	l.data.Written = 0
	return l
}
