package ledger_test

import (
	"testing"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
)

func TestVolumes_BelongToOneGuestUntilItLetsThemGo(t *testing.T) {
	b := founded(t, 3)
	refused := func(when string, op ledger.Op) {
		t.Helper()
		if out := b.apply(op); out.Refused == "" {
			t.Errorf("%s: %T was done", when, op)
		}
	}
	with := func(id int, volumes ...int) guest.Guest {
		g := vm(id, 1)
		g.Volumes = nil
		for _, v := range volumes {
			g.Volumes = append(g.Volumes, volume(v))
		}
		return g
	}
	b.must(ledger.AddGuest{Guest: with(100, 1, 2)})
	refused("it is guest 100's", ledger.AddGuest{Guest: with(101, 2)})
	b.must(ledger.AddGuest{Guest: with(101, 3)})

	less := b.m.View().Guests[100]
	less.Volumes = less.Volumes[:1]
	b.must(ledger.SetGuest{Guest: less})
	more := b.m.View().Guests[101]
	more.Volumes = append(more.Volumes[:1:1], volume(2))
	b.must(ledger.SetGuest{Guest: more})
	refused("it is guest 101's now", ledger.AddGuest{Guest: with(102, 2)})

	again, err := b.m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if b.m, err = ledger.DecodeMachine(again); err != nil {
		t.Fatal(err)
	}
	refused("it is guest 101's after a snapshot", ledger.AddGuest{Guest: with(102, 2)})
	b.must(ledger.RemoveGuest{ID: 101})
	b.must(ledger.AddGuest{Guest: with(102, 2, 3)})
}
