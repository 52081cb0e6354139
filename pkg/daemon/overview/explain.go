package overview

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/gossip"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/job"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/node"
	"github.com/tandemd/tandem/pkg/peer"
	"github.com/tandemd/tandem/pkg/replicate"
	"github.com/tandemd/tandem/pkg/sched"
)

// planPatience is how long a target has to tell what it has when its job is explained.
const planPatience = 5 * time.Second

// Explain tells of a job of this node why it is in its state, what comes next,
// and what its next sync would do. Only Job is left to the caller.
func (o *Overview) Explain(ctx context.Context, s *ledger.State, conf guest.Job) api.Explanation {
	now := time.Now()
	j, ok := o.Node.Status().Job(conf.ID)
	if !ok {
		j = node.JobStatus{Conf: conf} // It was made just now.
	}
	st := story{j: j, target: s.NameOf(conf.Target), spread: o.Spread, now: now}
	out := api.Explanation{
		Version: api.Version, Node: o.Name, Time: now, Status: o.jobStatus(s, j),
		Why: st.why(), Next: st.next(), Silent: []guest.NodeName{},
	}
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
			out.Why = append(out.Why, fmt.Sprintf("gossip holds %s for %s since %s", name, m.State, moment(m.Since)))
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
	if e.Status.Lagging {
		e.Why = append(e.Why, "that is older than its schedule "+conf.Schedule+" allows for: it lags")
	}
}

// story tells a job's state in sentences.
type story struct {
	j      node.JobStatus
	target string
	spread time.Duration
	now    time.Time
}

func moment(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05 MST") }

func (s story) why() []string {
	if !s.j.Ready {
		return []string{"what it did before is being read"}
	}
	var out []string
	f := s.j.Job.Facts
	switch st := s.j.Job.State.(type) {
	case job.OK:
		out = append(out, s.lastRun())
		if f.Interrupted {
			out = append(out, "its last run was cut by the end of tandemd")
		}
		out = append(out, s.putOff(st.Wait)...)
	case job.Failing:
		out = append(out, fmt.Sprintf("its last run failed, %d in a row by now; the last one began at %s: %s", f.Fails, moment(f.LastTry), f.LastError))
		if s.j.Last.ErrorHint != "" {
			out = append(out, "what to do: "+s.j.Last.ErrorHint)
		}
		if !f.LastSync.IsZero() {
			out = append(out, "its last good run began at "+moment(f.LastSync))
		}
		out = append(out, s.putOff(st.Wait)...)
	case job.Running:
		out = append(out, "a run began at "+moment(st.Started))
	case job.Disabled:
		out = append(out, "an operator disabled it", s.lastRun())
	case job.Removing:
		out = append(out, s.whyRemoving(st)...)
	}
	if down := s.j.Job.DownSince; !down.IsZero() {
		out = append(out, fmt.Sprintf("gossip holds %s for dead since %s", s.target, moment(down)))
	}
	return out
}

func (s story) lastRun() string {
	f := s.j.Job.Facts
	switch {
	case f.LastTry.IsZero():
		return "it has not run yet"
	case f.Fails > 0:
		return fmt.Sprintf("its last run, which began at %s, failed: %s", moment(f.LastTry), f.LastError)
	case f.LastSync.IsZero():
		return "no run of it has succeeded yet"
	default:
		return fmt.Sprintf("its last run, which began at %s, succeeded", moment(f.LastSync))
	}
}

func (s story) putOff(w job.Wait) []string {
	if !w.Until.After(s.now) || w.Why == "" {
		return nil
	}
	return []string{"it could not begin: " + w.Why}
}

func (s story) whyRemoving(st job.Removing) []string {
	what := "an operator deleted it: its snapshots on the owner and its replica are being removed"
	if st.Keep {
		what = "an operator deleted it: its snapshots on the owner are being removed, its replica stays"
	}
	out := []string{what}
	if st.Fails > 0 {
		out = append(out, fmt.Sprintf("%d tries to clean up failed; the last one began at %s: %s", st.Fails, moment(st.LastTry), st.LastError))
	}
	return append(out, s.putOff(st.Wait)...)
}

func (s story) next() []string {
	if !s.j.Ready {
		return []string{"in a moment this node knows when it is due"}
	}
	switch st := s.j.Job.State.(type) {
	case job.OK:
		return append(s.nextRun("it runs at %s, by its schedule "+s.schedule()), s.whileDown(" at most")...)
	case job.Failing:
		out := s.nextRun("it is tried again at %s: " + s.retries())
		out = append(out, "its schedule "+s.schedule()+" counts again from the first success; `tandem schedule-now "+s.j.Conf.ID.String()+"` tries at once")
		return append(out, s.whileDown(", and at once when it is back")...)
	case job.Running:
		return s.afterRun(st)
	case job.Disabled:
		return []string{"nothing, until `tandem enable " + s.j.Conf.ID.String() + "`"}
	case job.Removing:
		if st.Busy {
			return []string{"it is gone when that has ended well"}
		}
		return append(s.nextRun("it is tried again at %s"),
			"`tandem delete "+s.j.Conf.ID.String()+" --force` drops it at once, with what it leaves")
	}
	return nil
}

// schedule is how the operator wrote it, with what it means where that differs.
func (s story) schedule() string {
	normal := s.j.Job.Settings.Schedule.Normalized()
	if normal == s.j.Conf.Schedule {
		return normal
	}
	return fmt.Sprintf("%s (%s)", s.j.Conf.Schedule, normal)
}

// nextRun tells when the job begins; later is the sentence for one that is not due.
func (s story) nextRun(later string) []string {
	at, ok := job.NextWake(s.j.Job, s.now)
	if !ok {
		return nil
	}
	manual := job.Manual(s.j.Job)
	switch begins := s.begins(at); {
	case at.After(s.now):
		out := []string{fmt.Sprintf(later, moment(at))}
		if begins.After(at) && !manual {
			out = append(out, fmt.Sprintf("it then begins %s later: starts are spread (start_spread)", begins.Sub(at).Round(100*time.Millisecond)))
		}
		return out
	case s.j.Held != "":
		return []string{fmt.Sprintf("it is due since %s and waits for its turn: %s", moment(at), s.j.Held)}
	case begins.After(s.now) && !manual:
		return []string{fmt.Sprintf("it is due and begins at %s: starts are spread (start_spread)", moment(begins))}
	default:
		return []string{"it is due and begins now"}
	}
}

// begins is when the job starts once it is due: starts are spread, but not those
// that an operator asked for.
func (s story) begins(due time.Time) time.Time {
	return due.Add(sched.Offset(s.j.Conf.ID, s.spread))
}

func (s story) retryList() []time.Duration {
	if list := s.j.Job.Settings.Retries; len(list) > 0 {
		return list
	}
	return job.DefaultRetries()
}

func (s story) retries() string {
	var words []string
	for _, d := range s.retryList() {
		words = append(words, short(d))
	}
	last := words[len(words)-1]
	return fmt.Sprintf("failed runs are repeated after %s, then every %s", strings.Join(words, ", "), last)
}

// short is a duration without the zeros at its end.
func short(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

func (s story) whileDown(besides string) []string {
	if s.j.Job.DownSince.IsZero() {
		return nil
	}
	list := s.retryList()
	return []string{fmt.Sprintf("while %s is down it is tried every %s%s", s.target, short(list[len(list)-1]), besides)}
}

func (s story) afterRun(st job.Running) []string {
	id := s.j.Conf.ID.String()
	out := []string{"its log: `tandem log -f " + id + "`"}
	switch {
	case st.Disable:
		return append(out, "when the run has ended, it stays disabled")
	case !st.Again.IsZero():
		return append(out, "when the run has ended, it runs once more: an operator asked for it meanwhile")
	}
	at := s.j.Job.Settings.Schedule.Next(st.Started, s.j.Job.Settings.Local)
	if !at.After(s.now) {
		return append(out, "when the run has ended well, the next one is due at once: its schedule "+s.schedule()+" named "+moment(at))
	}
	return append(out, fmt.Sprintf("when the run has ended well, it runs again at %s, by its schedule %s", moment(at), s.schedule()))
}

// noPlan is why no next sync can be planned now; empty where it can.
func (s story) noPlan() string {
	if !s.j.Ready {
		return "what it did before is being read"
	}
	switch s.j.Job.State.(type) {
	case job.Running:
		return "a run goes on; what the next one sends is known when it has ended"
	case job.Removing:
		return "it is being removed, nothing is sent any more"
	case job.OK, job.Failing, job.Disabled:
	}
	return ""
}
