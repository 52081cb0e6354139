package promote_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/zfs"
	"github.com/tandemd/tandem/pkg/zfs/zfstest"
)

var killEvery = flag.Int("kill-every", 3, "one of how many kill points is tried; 1: all")

var errKilled = errors.New("killed")

// reads change nothing: to be ended before one is to be ended after what was before it.
var reads = []string{"List", "Children", "Properties", "Holds", "Version", "TokenInfo"}

// TestKill_AnywhereConverges ends the process, or the machine, before and after each effect of a promotion. The next one ends with
// the data of the point, and all that was newer is there.
func TestKill_AnywhereConverges(t *testing.T) {
	first := rand.IntN(*killEvery)
	t.Logf("every %d. moment, from the %d. on", *killEvery, first)
	for name, before := range map[string]func(*world){
		"at the point": once, "one volume ahead": ahead, "and the other cut": cut, "not parted from a copy": parted,
		"both ahead": func(w *world) {
			ahead(w)
			w.bring(rootDS, "p1", "p2")
			w.complete("p2")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			before(w)
			moments := 0
			w.trap = func(e zfstest.Event) error {
				if !slices.Contains(reads, e.Op) {
					moments++
				}
				return nil
			}
			w.promote()
			w.trap = nil
			w.same("p1")
			want := len(w.copies()[disk]) + len(w.copies()[root])
			if moments < 3 {
				t.Fatalf("only %d moments", moments)
			}
			t.Logf("%d moments", moments)
			for at := first; at < moments; at += *killEvery {
				for _, power := range []bool{false, true} {
					survive(t, before, kill{at: at, power: power, copies: want})
				}
			}
		})
	}
}

// kill ends a promotion.
type kill struct {
	at     int
	power  bool
	copies int // that are set aside in the end
}

func survive(t *testing.T, before func(*world), k kill) {
	t.Helper()
	w := makeWorld(t, zfstest.Options{Volatile: k.power})
	before(w)
	w.pool.Sync()
	held := map[guest.Volume][]byte{}
	for v, d := range map[guest.Volume]string{disk: diskDS, root: rootDS} {
		data, err := w.pool.Read(d)
		must(t, err)
		held[v] = data
	}
	what, n, dead := "", 0, false
	w.trap = func(e zfstest.Event) error {
		if dead {
			return errKilled
		}
		if slices.Contains(reads, e.Op) {
			return nil
		}
		if n == k.at {
			dead, what = true, fmt.Sprintf("%s %s after=%v, power=%v", e.Op, e.Name, e.After, k.power)
			if k.power {
				w.pool.PowerCut()
			}
			return errKilled
		}
		n++
		return nil
	}
	if _, err := w.promoter.Promote(t.Context(), cluster, w.guest); err == nil || !dead {
		t.Fatalf("moment %d: it did not come to it: %v", k.at, err)
	}
	w.restart()
	if ready, err := w.promoter.Ready(t.Context(), cluster, w.guest); err != nil || ready {
		// Where it was ended after the last effect that counts, it is.
		w.same("p1")
	}
	if _, err := w.promoter.Promote(t.Context(), cluster, w.guest); err != nil {
		t.Fatalf("killed at %s: %v", what, err)
	}
	w.same("p1")
	copies := w.copies()
	if n := len(copies[disk]) + len(copies[root]); n != k.copies {
		t.Errorf("killed at %s: %d copies were set aside, want %d", what, n, k.copies)
	}
	for v, d := range map[guest.Volume]string{disk: diskDS, root: rootDS} {
		now, err := w.pool.Read(d)
		must(t, err)
		if !bytes.Equal(now, held[v]) && !slices.ContainsFunc(copies[v], func(b []byte) bool { return bytes.Equal(b, held[v]) }) {
			t.Errorf("killed at %s: what %s had is nowhere", what, v)
		}
	}
	for _, d := range []string{diskDS, rootDS} {
		if x := w.dataset(w.pool, d); x.Origin != "" || x.Props[zfs.PropRole] != zfs.RoleOwner {
			t.Errorf("killed at %s: %s has origin %q, role %q", what, d, x.Origin, x.Props[zfs.PropRole])
		}
	}
	if t.Failed() {
		t.Fatalf("killed at %s", what)
	}
}
