package rules_test

import (
	"testing"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/keeper/rules"
)

const (
	self  guest.NodeID = "11111111111111111111111111111111"
	other guest.NodeID = "22222222222222222222222222222222"
)

func term(n uint64) guest.Term { return guest.Term{N: n, Generation: "0123456789abcdef"} }

// disk is a volume whose state is said by a word.
func disk(word string) rules.Volume {
	v := rules.Volume{Volume: guest.Volume{Storage: "s", Name: "v"}, Marked: true, Role: rules.RoleOwner, Term: term(5)}
	switch word {
	case "ready":
	case "old":
		v.Term = term(4)
	case "ahead":
		v.Term = term(6)
	case "fork":
		v.Term.Generation = "fedcba9876543210"
	case "sealed":
		v.ReadOnly = true
	case "unmounted":
		v.Unmounted = true
	case "replica":
		v.Role, v.ReadOnly = "replica", true
	case "half":
		v.Role, v.ReadOnly, v.Unfinished = "replica", true, true
	case "leaving":
		v.Role, v.ReadOnly, v.Unfinished = "diverged", true, true
	case "bare":
		v = rules.Volume{Volume: v.Volume}
	case "missing":
		v = rules.Volume{Volume: v.Volume, Missing: true}
	case "foreign":
		v = rules.Volume{Volume: v.Volume, Foreign: true}
	default:
		panic(word)
	}
	return v
}

func words() []string {
	return []string{"ready", "unmounted", "old", "ahead", "fork", "sealed", "replica", "half", "leaving", "bare", "missing", "foreign"}
}

// everything calls f with all combinations of facts, of guests with two volumes.
func everything(f func(rules.Facts)) {
	bools := []bool{false, true}
	begun := &guest.Beginning{Term: term(4)}
	units := []rules.Unit{{}, {Named: true}, {Named: true, Running: true}, {Named: true, Running: true, Passing: true}, {Named: true, Unknown: "no bus"}}
	notes := []rules.Note{{}, {Term: term(4)}, {Term: term(5)}, {Begun: term(4), Start: true}, {Begun: term(4), Term: term(5)}, {Begun: term(4), Term: term(5), Start: true}}
	var disks []rules.Disks
	disks = append(disks, rules.Disks{Unknown: "pool suspended"})
	for i, a := range words() {
		for _, b := range words()[i:] {
			disks = append(disks, rules.Disks{Volumes: []rules.Volume{disk(a), disk(b)}})
		}
	}
	for _, owner := range []guest.NodeID{self, other} {
		for _, b := range []*guest.Beginning{nil, begun} {
			for _, u := range units {
				for _, n := range notes {
					for _, d := range disks {
						for _, confirmed := range bools {
							for _, due := range bools {
								for _, paused := range []string{"", "it moves"} {
									f(rules.Facts{
										Self: self, Owner: "n2", Guest: guest.Guest{ID: 100, Owner: owner, Term: term(5), Beginning: b},
										Confirmed: confirmed, Paused: paused, Unit: u, Disks: d, Note: n, Due: due,
									})
								}
							}
						}
					}
				}
			}
		}
	}
}

func all(f rules.Facts, ok func(rules.Volume) bool) bool {
	for _, v := range f.Disks.Volumes {
		if !ok(v) {
			return false
		}
	}
	return f.Disks.Unknown == ""
}

func anyOf(f rules.Facts, ok func(rules.Volume) bool) bool {
	return !all(f, func(v rules.Volume) bool { return !ok(v) }) && f.Disks.Unknown == ""
}

func owners(v rules.Volume) bool  { return v.Marked && v.Role == rules.RoleOwner }
func former(v rules.Volume) bool  { return owners(v) || v.Unfinished }
func replica(v rules.Volume) bool { return v.Marked && v.Role != rules.RoleOwner }
func ready(v rules.Volume) bool   { return owners(v) && v.Term == term(5) && !v.ReadOnly }
func past(v rules.Volume) bool    { return !owners(v) || v.Term == term(4) }

// What no combination of facts may lead to.
func TestDecide_NeverDoesWhatMayNotBe(t *testing.T) {
	n := 0
	everything(func(f rules.Facts) {
		n++
		step := rules.Decide(f)
		own := f.Guest.Owner == self
		bad := ""
		switch step.Do {
		case rules.Start:
			if !own || !f.Confirmed || f.Paused != "" || !all(f, ready) || f.Unit.Runs() || !f.Unit.Named || f.Unit.Unknown != "" || !f.Due && !f.Note.Start {
				bad = "a start"
			}
		case rules.TakeOver:
			if !own || !f.Confirmed || f.Paused != "" || f.Disks.Unknown != "" || anyOf(f, func(v rules.Volume) bool { return v.Foreign }) ||
				f.Unit.Running && anyOf(f, replica) {
				bad = "a take-over"
			}
		case rules.Retire:
			if own || !f.Confirmed || f.Paused != "" || f.Unit.Running || f.Unit.Unknown != "" || !anyOf(f, former) {
				bad = "a retirement"
			}
		case rules.Stop:
			known := f.Confirmed || anyOf(f, owners) && all(f, past) || !anyOf(f, owners) && f.Note.Term == term(4)
			if !f.Unit.Running || own && (!anyOf(f, replica) || !f.Confirmed) || !own && !known {
				bad = "a stop"
			}
		case rules.Confirm:
			if f.Confirmed {
				bad = "a question that was answered"
			}
		case rules.Adopt:
			if !own || !all(f, ready) {
				bad = "a note"
			}
		case rules.Nothing:
			if !own && f.Unit.Running && f.Paused == "" {
				bad = "a guest of another left running"
			}
		case rules.Tell:
		}
		if step.Why == "" {
			bad = "no reason"
		}
		if bad != "" {
			t.Errorf("%s: %+v from %+v", bad, step, f)
		}
	})
	if n < 10_000 {
		t.Errorf("only %d combinations", n)
	}
}

// do is what a step does where all goes well.
func do(t *testing.T, f rules.Facts, s rules.Step) rules.Facts {
	t.Helper()
	f.Disks.Volumes = append([]rules.Volume(nil), f.Disks.Volumes...)
	set := func(v rules.Volume) {
		for i := range f.Disks.Volumes {
			f.Disks.Volumes[i] = v
		}
	}
	switch s.Do {
	case rules.Confirm:
		f.Confirmed = true
	case rules.Adopt:
		f.Note = rules.Adopted(f)
	case rules.TakeOver:
		f.Note = rules.Taken(f)
		set(disk("ready"))
	case rules.Start:
		f.Unit.Running, f.Note.Start, f.Due = true, false, false
	case rules.Stop:
		f.Unit.Running = false
	case rules.Retire:
		for i, v := range f.Disks.Volumes {
			if former(v) {
				f.Disks.Volumes[i] = disk("replica")
			}
		}
	case rules.Nothing, rules.Tell:
		t.Fatalf("%s is no step to do", s.Do)
	}
	return f
}

// From wherever a guest is, the steps come to an end, and at the end runs what may
// run and nothing else, unless something is told.
func TestDecide_ComesToAnEnd(t *testing.T) {
	everything(func(begin rules.Facts) {
		f, trace := begin, ""
		for range 10 {
			s := rules.Decide(f)
			trace += string(s.Do) + " "
			if s.Do != rules.Nothing && s.Do != rules.Tell {
				f = do(t, f, s)
				continue
			}
			wanted := f.Guest.Owner == self && f.Paused == "" && f.Unit.Named && (f.Due || f.Note.Start)
			switch {
			case s.Do == rules.Tell && f.Unit.Unknown == "" && f.Disks.Unknown == "" && all(f, func(v rules.Volume) bool { return !v.Missing && !v.Foreign }):
				t.Errorf("it gave up: %s: %s from %+v", trace, s.Why, begin)
			case s.Do == rules.Nothing && wanted && !f.Unit.Running && f.Unit.Unknown == "":
				t.Errorf("it does not run: %s from %+v", trace, begin)
			case s.Do == rules.Nothing && f.Guest.Owner != self && f.Paused == "" && (f.Unit.Running || anyOf(f, former)):
				t.Errorf("it is not fenced: %s from %+v", trace, begin)
			}
			return
		}
		t.Errorf("no end: %s from %+v", trace, begin)
	})
}

func TestDecide(t *testing.T) {
	running, stopped := rules.Unit{Named: true, Running: true}, rules.Unit{Named: true}
	moved := &guest.Beginning{Term: term(4)}
	own := rules.Note{Begun: term(4), Term: term(5)}
	for name, tc := range map[string]struct {
		owner     guest.NodeID
		beginning *guest.Beginning
		facts     rules.Facts
		disks     []string
		want      rules.Do
	}{
		"a new guest that runs is left alone":              {self, nil, rules.Facts{Unit: running}, []string{"bare"}, rules.Nothing},
		"a new guest is not started by itself":             {self, nil, rules.Facts{Unit: stopped}, []string{"bare"}, rules.Nothing},
		"a guest that an operator stopped":                 {self, nil, rules.Facts{Unit: stopped, Note: rules.Note{Term: term(5)}, Confirmed: true}, []string{"ready"}, rules.Nothing},
		"its turn at boot, not confirmed":                  {self, nil, rules.Facts{Unit: stopped, Note: rules.Note{Term: term(5)}, Due: true}, []string{"ready"}, rules.Confirm},
		"its turn at boot":                                 {self, nil, rules.Facts{Unit: stopped, Note: rules.Note{Term: term(5)}, Due: true, Confirmed: true}, []string{"ready"}, rules.Start},
		"its pool is not there at boot":                    {self, nil, rules.Facts{Unit: stopped, Due: true, Disks: rules.Disks{Unknown: "no pool"}}, nil, rules.Tell},
		"a volume was added to a guest that runs":          {self, moved, rules.Facts{Unit: running, Note: own, Confirmed: true}, []string{"ready", "bare"}, rules.Nothing},
		"a migration came here, nothing is confirmed":      {self, moved, rules.Facts{Unit: stopped}, []string{"replica"}, rules.Confirm},
		"a migration came here":                            {self, moved, rules.Facts{Unit: stopped, Confirmed: true}, []string{"replica"}, rules.TakeOver},
		"a recovery, and somebody started the unit before": {self, moved, rules.Facts{Unit: running, Confirmed: true}, []string{"replica"}, rules.Stop},
		"it is to be started, and is still being stopped":  {self, moved, rules.Facts{Unit: rules.Unit{Named: true, Running: true, Passing: true}, Note: rules.Note{Begun: term(4), Term: term(5), Start: true}, Confirmed: true}, []string{"ready"}, rules.Start},
		"it was taken over, and is to be started":          {self, moved, rules.Facts{Unit: stopped, Note: rules.Note{Begun: term(4), Term: term(5), Start: true}, Confirmed: true}, []string{"ready"}, rules.Start},
		"a take-over was cut before all was mounted":       {self, moved, rules.Facts{Unit: stopped, Note: rules.Note{Begun: term(4), Start: true}, Confirmed: true}, []string{"unmounted"}, rules.TakeOver},
		"one of a guest without a unit was":                {self, moved, rules.Facts{Note: rules.Note{Begun: term(4)}, Confirmed: true}, []string{"unmounted"}, rules.TakeOver},
		"an operator has unmounted it":                     {self, moved, rules.Facts{Note: own, Confirmed: true}, []string{"unmounted"}, rules.Nothing},
		"a guest without a unit is noted":                  {self, moved, rules.Facts{Note: rules.Note{Begun: term(4)}}, []string{"ready"}, rules.Adopt},
		"notes were lost, the data is right":               {self, moved, rules.Facts{Unit: stopped}, []string{"ready"}, rules.Adopt},
		"the owner stays, with a new term":                 {self, moved, rules.Facts{Unit: running, Note: rules.Note{Begun: term(4), Term: term(4)}, Confirmed: true}, []string{"old"}, rules.TakeOver},
		"a stale owner, without a majority":                {other, moved, rules.Facts{Unit: running}, []string{"old"}, rules.Stop},
		"a stale owner whose pool hangs":                   {other, moved, rules.Facts{Unit: running, Note: rules.Note{Term: term(4)}, Disks: rules.Disks{Unknown: "hangs"}}, nil, rules.Stop},
		"a stale owner, stopped":                           {other, moved, rules.Facts{Unit: stopped}, []string{"old"}, rules.Confirm},
		"a stale owner, stopped and sure":                  {other, moved, rules.Facts{Unit: stopped, Confirmed: true}, []string{"old"}, rules.Retire},
		"a ledger older than the disks stops nothing":      {other, moved, rules.Facts{Unit: running}, []string{"ahead"}, rules.Confirm},
		"another generation's term of the same count":      {other, moved, rules.Facts{Unit: running}, []string{"fork"}, rules.Confirm},
		"a retirement was cut, not confirmed":              {other, moved, rules.Facts{Unit: stopped}, []string{"half"}, rules.Confirm},
		"a retirement was cut, a replica":                  {other, moved, rules.Facts{Unit: stopped, Confirmed: true}, []string{"half"}, rules.Retire},
		"a retirement was cut, set aside":                  {other, moved, rules.Facts{Unit: stopped, Confirmed: true}, []string{"replica", "leaving"}, rules.Retire},
		"a retirement was cut, the guest moves":            {other, moved, rules.Facts{Unit: stopped, Confirmed: true, Paused: "it moves"}, []string{"half"}, rules.Nothing},
		"it came back, and had been cut":                   {self, moved, rules.Facts{Unit: stopped, Confirmed: true}, []string{"leaving"}, rules.TakeOver},
		"a target":                                         {other, moved, rules.Facts{Unit: stopped}, []string{"replica"}, rules.Nothing},
		"somebody started a target's unit":                 {other, moved, rules.Facts{Unit: running, Confirmed: true}, []string{"replica"}, rules.Stop},
		"no bus, and volumes of an owner":                  {other, moved, rules.Facts{Unit: rules.Unit{Named: true, Unknown: "no bus"}, Confirmed: true}, []string{"old"}, rules.Tell},
	} {
		t.Run(name, func(t *testing.T) {
			f := tc.facts
			f.Self, f.Owner = self, "n2"
			f.Guest = guest.Guest{ID: 100, Owner: tc.owner, Term: term(5), Beginning: tc.beginning}
			for _, d := range tc.disks {
				f.Disks.Volumes = append(f.Disks.Volumes, disk(d))
			}
			if got := rules.Decide(f); got.Do != tc.want {
				t.Errorf("got %+v, want %s", got, tc.want)
			}
		})
	}
}

func TestMayStart_OnlyWhatDecideWouldStart(t *testing.T) {
	everything(func(f rules.Facts) {
		why := rules.MayStart(f)
		may := f.Guest.Owner == self && f.Confirmed && f.Paused == "" && all(f, ready)
		if (why == "") != may {
			t.Errorf("says %q to %+v", why, f)
		}
	})
}

func TestTaken_StartsUnlessTheMoveSaysNot(t *testing.T) {
	for _, stopped := range []bool{false, true} {
		f := rules.Facts{Self: self, Unit: rules.Unit{Named: true}, Guest: guest.Guest{Owner: self, Term: term(5), Beginning: &guest.Beginning{Term: term(4), Stopped: stopped}}}
		got, want := rules.Taken(f), rules.Note{Begun: term(4), Start: !stopped}
		if got != want {
			t.Errorf("stopped=%v: %+v", stopped, got)
		}
		f.Note, f.Guest.Term = rules.Note{Begun: term(4), Term: term(5)}, term(6) // the owner stays
		if again := rules.Taken(f); again.Start {
			t.Errorf("a term that has the same beginning starts the guest again: %+v", again)
		}
	}
}
