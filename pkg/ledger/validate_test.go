package ledger_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
)

func TestState_ValidateRefusesWhatNoCommandLeadsTo(t *testing.T) {
	full := func() ledger.State {
		b := founded(t, 2)
		b.must(ledger.AddGuest{Guest: vm(100, 1)})
		b.must(ledger.CreateJob{Job: job(100, 0, 2)})
		return *b.m.View()
	}
	if err := full().Validate(); err != nil {
		t.Error(err)
	}
	for want, spoil := range map[string]func(s *ledger.State){
		"no cluster":          func(s *ledger.State) { s.Cluster = "" },
		"generation \"..\"":   func(s *ledger.State) { s.Generation = ".." },
		"generation \"\"":     func(s *ledger.State) { s.Generation = "" },
		"no gossip key":       func(s *ledger.State) { s.Gossip = nil },
		"gossip key has 3":    func(s *ledger.State) { s.Gossip = []ledger.GossipKey{{Number: 1, Key: []byte("abc")}} },
		"no member":           func(s *ledger.State) { s.Members = nil },
		"in the place of":     func(s *ledger.State) { s.Members[nodeID(1)] = member(2) },
		"IP address":          func(s *ledger.State) { m := member(1); m.Peer = ""; s.Members[m.ID] = m },
		"in the place of 100": func(s *ledger.State) { s.Guests[100] = vm(101, 1) },
		"at least one volume": func(s *ledger.State) { g := vm(100, 1); g.Volumes = nil; s.Guests[100] = g },
		"belongs to no guest": func(s *ledger.State) { delete(s.Guests, 100) },
		"rate":                func(s *ledger.State) { j := job(100, 0, 2); j.Rate = -1; s.Jobs[j.ID] = j },
		"place of 100-1":      func(s *ledger.State) { s.Jobs[guest.JobID{Guest: 100, Number: 1}] = job(100, 0, 2) },
	} {
		s := full()
		spoil(&s)
		if err := s.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
}

// FuzzState: a state as files and other nodes hand it over. What is valid can be used.
func FuzzState(f *testing.F) {
	b := founded(f, 3)
	b.must(ledger.AddGuest{Guest: vm(100, 1)})
	b.must(ledger.CreateJob{Job: job(100, 0, 2)})
	data, err := json.Marshal(b.m.View())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"cluster":"c","generation":"g","gossip":[{}],"members":{"":{}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var s ledger.State
		if json.Unmarshal(data, &s) != nil || s.Validate() != nil {
			return
		}
		_ = s.Named("node 00000000")
		for _, m := range s.MemberList() {
			if got, ok := s.MemberByFingerprint(m.Fingerprint); !ok || got.ID != m.ID {
				t.Errorf("the key of %s is that of %s", m.ID, got.ID)
			}
		}
		for _, j := range s.JobList() {
			_ = s.JobsOf(j.ID.Guest)
		}
		again, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var back ledger.State
		if err := json.Unmarshal(again, &back); err != nil || back.Validate() != nil {
			t.Errorf("a valid state does not come back: %v", err)
		}
	})
}
