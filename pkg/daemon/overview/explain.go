package overview

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/gossip"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/node"
	"github.com/tandemd/tandem/pkg/peer"
	"github.com/tandemd/tandem/pkg/replicate"
)

// planPatience is how long a target has to tell what it has when its job is explained.
const planPatience = 5 * time.Second

// Explain tells of a job of this node why it is in its state, what comes next,
// and what its next sync would do. Only Job is left to the caller.
func (o *Overview) Explain(ctx context.Context, s *ledger.State, conf guest.Job) api.Explanation {
	j := o.known(ctx, conf)
	now := time.Now()
	st := story{j: j, target: s.NameOf(conf.Target), self: o.Self, spread: o.Spread(), now: now, zone: time.Local}
	out := api.Explanation{
		Version: api.Version, Node: o.Name, Time: now, Status: o.jobStatus(s, j),
		Why: st.why(), Next: st.next(), Silent: []guest.NodeName{},
	}
	out.Why = append(out.Why, whyVerified(out.Status.Verified, st.zone)...)
	if out.NoPlan = st.noPlan(); out.NoPlan != "" {
		return out
	}
	p, err := o.Plan(ctx, conf.ID, planPatience)
	switch {
	case err != nil:
		out.NoPlan = withHint("a sync would fail before it could be planned: "+s.Named(err.Error()), s.Named(replicate.HintOf(err)))
		return out
	case p.Unknown:
		out.NoPlan = fmt.Sprintf("%s; and since %s has the guest it has not told what it has", s.Named(p.Silent.Error()), o.Name)
	default:
		out.Plan = planned(s, p)
	}
	if _, answered := errors.AsType[*peer.RemoteError](p.Silent); p.Silent != nil && !answered {
		out.Silent = append(out.Silent, guest.NodeName(st.target))
	}
	for _, r := range p.Refusals {
		out.Next = append(out.Next, withHint("it will fail: "+s.Named(r.Error()), s.Named(r.Hint)))
	}
	return out
}

// known is the job as the loop has it. One that was made just now is waited for a
// little: its past is being read.
func (o *Overview) known(ctx context.Context, conf guest.Job) node.JobStatus {
	const wait, look = 2 * time.Second, 20 * time.Millisecond
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		j, ok := o.Node.Status().Job(conf.ID)
		if ok && j.Ready {
			return j
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			j.Conf = conf
			return j
		}
	}
}

func withHint(text, hint string) string {
	if hint == "" {
		return text
	}
	return text + " (hint: " + hint + ")"
}

// planned is a preview as clients see it.
func planned(s *ledger.State, p replicate.Preview) *api.PlannedSync {
	out := &api.PlannedSync{Kind: string(p.Kind), Base: p.Base, Bytes: p.Bytes, Volumes: []api.PlannedVolume{}}
	if p.Silent != nil {
		out.Remembered = s.Named(p.Silent.Error())
	}
	for _, v := range p.Volumes {
		pv := api.PlannedVolume{Volume: v.Volume, Kind: string(v.Kind), Base: v.Base, Bytes: v.Bytes, Reason: s.Named(v.Reason)}
		for _, step := range v.Steps {
			pv.Steps = append(pv.Steps, s.Named(step))
		}
		out.Volumes = append(out.Volumes, pv)
	}
	for _, w := range p.Warnings {
		out.Warnings = append(out.Warnings, s.Named(w))
	}
	for _, c := range p.Cleans {
		out.Cleans = append(out.Cleans, api.PlannedClean{Node: guest.NodeName(c.Node), Volume: c.Volume, Snapshots: c.Snapshots})
	}
	for _, r := range p.Refusals {
		text := r.Error()
		if r.Err != nil {
			text = r.Err.Error() // without the volume, which stands beside it
		}
		out.Refusals = append(out.Refusals, api.PlannedRefusal{Volume: r.Volume, Reason: s.Named(text), Hint: s.Named(r.Hint)})
	}
	return out
}

// Blind explains a job whose owner does not answer, from what is known here.
func (o *Overview) Blind(s *ledger.State, conf guest.Job, cause error) api.Explanation {
	owner := s.Guests[conf.ID.Guest].Owner
	name := s.NameOf(owner)
	out := api.Explanation{
		Version: api.Version, Node: o.Name, Time: time.Now(), Status: blankStatus(s, conf), Silent: []guest.NodeName{guest.NodeName(name)},
		NoPlan: "only " + name + " can plan it",
	}
	out.Why = append(out.Why, fmt.Sprintf("%s, which has guest %s, does not answer: %s", name, conf.ID.Guest, s.Named(cause.Error())))
	for _, m := range o.Gossip.Members() {
		if m.Node == owner && m.State != gossip.Alive {
			out.Why = append(out.Why, fmt.Sprintf("gossip holds %s for %s since %s", name, m.State, moment(m.Since, time.Local)))
		}
	}
	switch {
	case conf.Removing:
		out.Why = append(out.Why, "an operator deleted it")
		out.Next = append(out.Next, name+" cleans up and drops it when it is back; `tandem delete "+conf.ID.String()+" --force` drops it at once")
	case conf.Disabled:
		out.Why = append(out.Why, "an operator disabled it")
		out.Next = append(out.Next, "nothing, until `tandem enable "+conf.ID.String()+"`")
	default:
		out.Next = append(out.Next,
			fmt.Sprintf("if %s is only cut off from here, it goes on with its schedule %s; if it is down, it does so when it is back", name, conf.Schedule),
			"no other node sends what guest "+conf.ID.Guest.String()+" writes on "+name)
	}
	return out
}

// Complete adds what the target itself says.
func (o *Overview) Complete(ctx context.Context, s *ledger.State, conf guest.Job, e *api.Explanation) {
	var r *Report
	if conf.Target == o.Self {
		own := o.Report(ctx)
		r = &own
	} else {
		r = o.ask(ctx, conf.Target, o.Patience(conf.Target))
	}
	target := guest.NodeName(s.NameOf(conf.Target))
	if r == nil {
		if !slices.Contains(e.Silent, target) {
			e.Silent = append(e.Silent, target)
		}
		return
	}
	owner := s.Guests[conf.ID.Guest].Owner
	all := map[guest.NodeID]*Report{conf.Target: r}
	if owner != conf.Target {
		all[owner] = &Report{Jobs: []api.JobStatus{e.Status}}
	}
	e.Status = o.merge(s, conf, all)
	if e.Status.Lag != nil {
		e.Why = append(e.Why, fmt.Sprintf("the newest complete point on %s is %s, %s old", target, e.Status.Point,
			(time.Duration(*e.Status.Lag)*time.Second).String()))
	} else {
		e.Why = append(e.Why, fmt.Sprintf("%s has no complete point of guest %s", target, conf.ID.Guest))
	}
	for _, f := range filling(r.Storages) {
		if f.has(s.Guests[conf.ID.Guest]) {
			e.Why = append(e.Why, fmt.Sprintf("on %s, %s", target, f.text))
		}
	}
	if e.Status.Lagging {
		e.Why = append(e.Why, "that is older than its schedule "+conf.Schedule+" allows for: it lags")
	}
}
