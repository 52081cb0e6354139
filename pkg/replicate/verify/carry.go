package verify

import (
	"context"
	"slices"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/replicate/fault"
	"github.com/tandemd/tandem/pkg/replicate/verify/content"
	"github.com/tandemd/tandem/pkg/replicate/wire"
)

// What was found outlives the owner who found it: it is told to the job's target,
// which keeps it with the replica that it is about, and whoever owns the guest next
// asks for it.

// PathRecord is the call that tells, or asks for, what verifications found.
const PathRecord = "/verify/record"

// RecordRequest tells a target what was found of its replica.
type RecordRequest struct {
	wire.Request
	// Record is nil to ask for it.
	Record *Record `json:"record,omitempty"`
}

// RecordReply is what the target remembers.
type RecordReply struct {
	Record Record `json:"record"`
}

// Validate refuses what no verification leads to.
func (r Record) Validate() error {
	for _, res := range []*Result{r.Last, r.Differs} {
		if res == nil {
			continue
		}
		known := slices.Contains([]Outcome{Equal, Differs, Failed}, res.Outcome)
		if err := res.Target.Validate(); err != nil || !known || len(res.Volumes) > maxVolumes {
			return fault.Never("", "verification: what was found: target %q, outcome %q, %d volumes", res.Target, res.Outcome, len(res.Volumes))
		}
	}
	return nil
}

// Record keeps what the owner found, or tells it.
func (s *Server) Record(ctx context.Context, from guest.NodeID, req RecordRequest) (RecordReply, error) {
	if _, _, err := s.gate.Admit(ctx, from, req.Request); err != nil {
		return RecordReply{}, err
	}
	v := s.verifier
	v.mu.Lock()
	defer v.mu.Unlock()
	if req.Record == nil {
		return RecordReply{Record: *v.load(req.Job)}, nil
	}
	if err := req.Record.Validate(); err != nil {
		return RecordReply{}, err
	}
	r := *req.Record
	r.Owner, r.Term, r.Told = from, req.Term, true
	return RecordReply{Record: r}, v.keep(req.Job, r)
}

// Carry asks the targets of guests that are this node's since a while what was found
// before, and tells them what they do not know yet. What cannot be done now is done
// with the next call.
func (v *Verifier) Carry(ctx context.Context) {
	view := v.o.Ledger.View()
	silent := map[guest.NodeID]bool{}
	for _, job := range view.JobList() {
		if ctx.Err() != nil {
			return
		}
		if job.Removing || silent[job.Target] || view.Guests[job.ID.Guest].Owner != v.o.Node {
			continue
		}
		if err := v.carry(ctx, view, job); err != nil {
			silent[job.Target] = true
			v.log.Debug("what verifications found is not carried yet", zap.Stringer("job", job.ID), zap.Error(err))
		}
	}
}

// carry does it for one job of this node's guests.
func (v *Verifier) carry(ctx context.Context, view *ledger.State, job guest.Job) error {
	term := view.Guests[job.ID.Guest].Term
	v.mu.Lock()
	own := v.load(job.ID)
	v.mu.Unlock()
	req := RecordRequest{Request: wire.Request{Version: wire.Version, Job: job.ID, Term: term, Index: view.Index}}
	switch {
	case own.Term != term:
	case own.Told || own.Last == nil:
		return nil
	default:
		req.Record = own
	}
	ctx, cancel := context.WithTimeout(ctx, endPatience)
	defer cancel()
	var reply RecordReply
	if err := v.link.Call(ctx, job.Target, PathRecord, req, &reply); err != nil {
		return err
	}
	if err := reply.Record.Validate(); err != nil {
		return err
	}
	best := own.of(job.Target, v.o.Node)
	best.Told = req.Record != nil
	their := reply.Record.of(job.Target, v.o.Node)
	if req.Record == nil && their.Last != nil && (best.Last == nil || !their.Last.Ended.Before(best.Last.Ended)) {
		best = their
	}
	best.Term, best.Owner = term, v.o.Node
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.records[job.ID] != own:
		return nil // It was verified, or acknowledged, meanwhile.
	case best.Last == nil:
		v.records[job.ID] = &best
		return nil
	}
	return v.keep(job.ID, best)
}

// of is what a record says of the copies on this node and on a job's target; nothing
// where it is about others. What the target found when it was the owner, and this
// node the target, is about the same two.
func (r Record) of(target, self guest.NodeID) Record {
	switch {
	case r.Last != nil && r.Last.Target == target:
		return r
	case r.Last != nil && r.Last.Target == self && r.Owner == target:
		r.Last, r.Differs, r.Told = r.Last.turned(target), r.Differs.turned(target), false
		return r
	}
	return Record{}
}

// turned is the same seen from the other side.
func (r *Result) turned(target guest.NodeID) *Result {
	if r == nil {
		return nil
	}
	out := *r
	out.Target, out.Volumes = target, slices.Clone(r.Volumes)
	for i, v := range out.Volumes {
		out.Volumes[i].Differences = slices.Clone(v.Differences)
		for n, d := range v.Differences {
			what := slices.Clone(d.What)
			for k := range what {
				switch what[k] {
				case content.Missing:
					what[k] = content.Extra
				case content.Extra:
					what[k] = content.Missing
				}
			}
			out.Volumes[i].Differences[n].What = what
		}
	}
	return &out
}
