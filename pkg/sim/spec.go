package sim

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
)

// spec says, apart from pkg/ledger and more simply, what one guest and its jobs
// go through: the sequential specification that histories are held against.
type spec struct {
	exists bool
	g      guest.Guest
	// floating: the guest was added and nobody has seen its term since; the ledger
	// chooses the first one.
	floating bool
	jobs     map[guest.JobID]guest.Job
	key      string // the state in one string
}

func (s spec) sealed() spec {
	var jobs []guest.Job
	for _, j := range s.jobs {
		jobs = append(jobs, j)
	}
	slices.SortFunc(jobs, func(a, b guest.Job) int { return a.ID.Compare(b.ID) })
	b, err := json.Marshal([]any{s.exists, s.floating, s.g, jobs})
	if err != nil {
		panic(err) // these always encode
	}
	s.key = string(b)
	return s
}

// sees compares with what somebody saw, and learns a term that floats from it.
func (s spec) sees(g guest.Guest) (spec, bool) {
	if !s.exists {
		return s, false
	}
	want := s.g
	if s.floating {
		want.Term = g.Term
	}
	if ledger.Digest(want) != ledger.Digest(g) {
		return s, false
	}
	s.g, s.floating = want, false
	return s, true
}

// holds checks the precondition of a change of owner.
func (s spec) holds(owner guest.NodeID, t guest.Term) (spec, bool) {
	seen := s.g
	seen.Owner, seen.Term = owner, t
	return s.sees(seen)
}

// step carries out one command; false where it had to be refused.
func (s spec) step(e Entry) (spec, bool) {
	switch o := e.Op.(type) {
	case ledger.AddGuest:
		if s.exists {
			return s, false
		}
		s.exists, s.floating, s.g, s.jobs = true, true, o.Guest, nil
		return s, true
	case ledger.SetGuest:
		s, ok := s.sees(e.SeenGuest)
		if !ok {
			return s, false
		}
		s.g = o.Guest
		return s, true
	case ledger.RemoveGuest:
		s, ok := s.sees(e.SeenGuest)
		if !ok || len(s.jobs) > 0 {
			return s, false
		}
		return spec{}, true
	case ledger.ChangeOwner:
		return s.changeOwner(o)
	case ledger.Retain:
		s, ok := s.holds(o.Owner, o.Term)
		s.g.Term.N++
		return s, ok
	case ledger.CreateJob:
		return s.createJob(o.Job)
	case ledger.UpdateJob:
		j, ok := s.jobs[o.Job.ID]
		if !ok || j != e.SeenJob || j.Removing && !o.Job.Removing || j.Target != o.Job.Target {
			return s, false
		}
		return s.withJob(o.Job), true
	case ledger.DropJob:
		removing := s.jobs[o.ID].Removing
		return s.without(func(j guest.Job) bool { return j.ID == o.ID }), removing
	case ledger.RemoveMember: // It is in the history of every guest.
		return s.without(func(j guest.Job) bool { return j.Target == o.ID }), !s.exists || s.g.Owner != o.ID
	default:
		return s, false // No client sends it.
	}
}

func (s spec) changeOwner(o ledger.ChangeOwner) (spec, bool) {
	s, ok := s.holds(o.Owner, o.Term)
	if !ok || o.To == s.g.Owner {
		return s, false
	}
	jobs := map[guest.JobID]guest.Job{}
	for id, j := range s.jobs {
		if j.Target == o.To {
			if j.Removing {
				continue
			}
			j.Target = s.g.Owner
		}
		jobs[id] = j
	}
	s.jobs, s.g.Owner = jobs, o.To
	s.g.Term.N++
	return s, true
}

func (s spec) createJob(job guest.Job) (spec, bool) {
	if _, ok := s.jobs[job.ID]; ok || !s.exists || job.Target == s.g.Owner {
		return s, false
	}
	for _, j := range s.jobs {
		if j.Target == job.Target {
			return s, false
		}
	}
	return s.withJob(job), true
}

func (s spec) withJob(job guest.Job) spec {
	s = s.without(func(guest.Job) bool { return false })
	s.jobs[job.ID] = job
	return s
}

// without is the state with a copy of the jobs, but for some.
func (s spec) without(drop func(guest.Job) bool) spec {
	jobs := map[guest.JobID]guest.Job{}
	for id, j := range s.jobs {
		if !drop(j) {
			jobs[id] = j
		}
	}
	s.jobs = jobs
	return s
}

// admits says whether the entry could happen in this state, and what comes of it.
func (s spec) admits(e Entry) (spec, bool) {
	if e.Op == nil {
		return s.reads(e.Read)
	}
	next, ok := s.step(e)
	switch {
	case e.Verdict == Done:
		return next.sealed(), ok
	case ok && !s.floating:
		return s, false // It was refused without a reason.
	default:
		return s, true
	}
}

func (s spec) reads(r Shown) (spec, bool) {
	if !r.Exists || !s.exists {
		return s, r.Exists == s.exists
	}
	s, ok := s.sees(r.Guest)
	if !ok || len(r.Jobs) != len(s.jobs) {
		return s, false
	}
	for _, j := range r.Jobs {
		if s.jobs[j.ID] != j {
			return s, false
		}
	}
	return s.sealed(), true
}

func model() porcupine.Model {
	return porcupine.Model{
		Partition: byGuest,
		Init:      func() any { return spec{}.sealed() },
		Step: func(state, input, _ any) (bool, any) {
			next, ok := state.(spec).admits(input.(Entry))
			return ok, next
		},
		Equal: func(a, b any) bool { return a.(spec).key == b.(spec).key },
	}
}

func byGuest(all []porcupine.Operation) [][]porcupine.Operation {
	byID := map[guest.ID][]porcupine.Operation{}
	for _, o := range all {
		id := o.Input.(Entry).Guest
		byID[id] = append(byID[id], o)
	}
	var out [][]porcupine.Operation
	for _, ops := range byID {
		out = append(out, ops)
	}
	return out
}

// checkTime bounds the search for an order of one history, in real time.
const checkTime = 20 * time.Second

// Linearizable says whether the entries could have happened one after the other,
// each between its call and its return; porcupine.Unknown where it was not found
// in time.
func Linearizable(entries []Entry) porcupine.CheckResult {
	var ops []porcupine.Operation
	for _, e := range entries {
		ops = append(ops, porcupine.Operation{ClientId: e.Client, Input: e, Call: e.Call, Return: e.Return})
	}
	return porcupine.CheckOperationsTimeout(model(), ops, checkTime)
}
