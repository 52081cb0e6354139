package overview

import (
	"fmt"
	"strings"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/job"
	"github.com/tandemd/tandem/pkg/node"
	"github.com/tandemd/tandem/pkg/sched"
)

// story tells a job's state in sentences.
type story struct {
	j      node.JobStatus
	target string
	self   guest.NodeID
	spread time.Duration
	now    time.Time
	// zone is that in which times are told.
	zone *time.Location
}

func (s story) at(t time.Time) string { return moment(t, s.zone) }

func moment(t time.Time, zone *time.Location) string {
	return t.In(zone).Format("2006-01-02 15:04:05 MST")
}

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
		out = append(out, fmt.Sprintf("its last run failed, %d in a row by now; the last one began at %s: %s", f.Fails, s.at(f.LastTry), f.LastError))
		if s.j.Last.ErrorHint != "" {
			out = append(out, "what to do: "+s.j.Last.ErrorHint)
		}
		if !f.LastSync.IsZero() {
			out = append(out, "its last good run began at "+s.at(f.LastSync))
		}
		out = append(out, s.putOff(st.Wait)...)
	case job.Running:
		out = append(out, "a run began at "+s.at(st.Started))
	case job.Disabled:
		out = append(out, "an operator disabled it", s.lastRun())
	case job.Removing:
		out = append(out, s.whyRemoving(st)...)
	}
	if down := s.j.Job.DownSince; !down.IsZero() {
		out = append(out, fmt.Sprintf("gossip holds %s for dead since %s", s.target, s.at(down)))
	}
	return out
}

func (s story) lastRun() string {
	f := s.j.Job.Facts
	switch {
	case f.LastTry.IsZero():
		return "it has not run yet"
	case f.Fails > 0:
		return fmt.Sprintf("its last run, which began at %s, failed: %s", s.at(f.LastTry), f.LastError)
	case f.LastSync.IsZero():
		return "no run of it has succeeded yet"
	default:
		return fmt.Sprintf("its last run, which began at %s, succeeded", s.at(f.LastSync))
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
		out = append(out, fmt.Sprintf("%d tries to clean up failed; the last one began at %s: %s", st.Fails, s.at(st.LastTry), st.LastError))
	}
	return append(out, s.putOff(st.Wait)...)
}

func (s story) next() []string {
	if !s.j.Ready {
		return []string{"in a moment this node knows when it is due"}
	}
	switch st := s.j.Job.State.(type) {
	case job.OK:
		return append(s.nextRun("it runs at %s; its schedule is "+s.schedule()), s.whileDown(" at most")...)
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
	return fmt.Sprintf("%s (that is, %s)", s.j.Conf.Schedule, normal)
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
		out := []string{fmt.Sprintf(later, s.at(at))}
		if begins.After(at) && !manual {
			out = append(out, fmt.Sprintf("it then begins %s later: starts are spread (start_spread)", begins.Sub(at).Round(100*time.Millisecond)))
		}
		return out
	case s.j.Held != "":
		return []string{fmt.Sprintf("it is due since %s and waits for its turn: %s", s.at(at), s.j.Held)}
	case begins.After(s.now) && !manual:
		return []string{fmt.Sprintf("it is due and begins at %s: starts are spread (start_spread)", s.at(begins))}
	default:
		return []string{"it is due and begins now"}
	}
}

// begins is when the job starts once it is due: pkg/sched spreads what the
// calendar brings, which is due at a whole minute.
func (s story) begins(due time.Time) time.Time { return sched.Begin(s.self, due, s.spread) }

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
	last := len(words) - 1
	if last == 0 {
		return "failed runs are repeated every " + words[0]
	}
	return fmt.Sprintf("failed runs are repeated after %s, then every %s", strings.Join(words[:last], ", "), words[last])
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
		return append(out, "when the run has ended, it is disabled: an operator said so meanwhile")
	case !st.Again.IsZero():
		return append(out, "when the run has ended, it runs once more: an operator asked for it meanwhile")
	}
	out = append(out, "if it fails: "+s.retries())
	at := s.j.Job.Settings.Schedule.Next(st.Started, s.j.Job.Settings.Local)
	if !at.After(s.now) {
		return append(out, "when the run has ended well, the next one is due at once: its schedule "+s.schedule()+" named "+s.at(at))
	}
	return append(out, fmt.Sprintf("when the run has ended well, it runs again at %s, by its schedule %s", s.at(at), s.schedule()))
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
