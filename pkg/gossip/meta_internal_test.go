package gossip

import (
	"testing"
	"time"
)

func TestMetadata_TheIndexAloneMayWait(t *testing.T) {
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(seconds int) time.Time { return begin.Add(time.Duration(seconds) * time.Second) }
	var d metadata
	set := func(now int, m Meta) {
		t.Helper()
		if err := d.set(m, at(now), 5*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	taken := func(now int, want bool) {
		t.Helper()
		if got := d.take(at(now)); got != want {
			t.Errorf("at %d s: sent %v", now, got)
		}
	}
	set(0, Meta{Name: "n1"})
	taken(0, true)
	set(1, Meta{Name: "n1"})
	taken(9, false)
	for i := range 5 { // a busy ledger does not put it off
		set(10+i, Meta{Name: "n1", Applied: uint64(i + 1)})
		taken(10+i, false)
	}
	taken(15, true)
	set(20, Meta{Name: "n1", Applied: 20})
	set(21, Meta{Name: "n1", Applied: 21, Generation: "g"})
	taken(21, true)
	taken(30, false)
}
