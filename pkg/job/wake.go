package job

import (
	"fmt"
	"time"
)

// NextWake is when the job is due next, or since when it has been. It is false
// where no time makes it run: it runs already, is disabled, or is gone.
func NextWake(j Job, now time.Time) (time.Time, bool) {
	var at time.Time
	var w Wait
	switch s := j.State.(type) {
	case OK:
		w, at = s.Wait, j.byCalendar(now)
	case Failing:
		w, at = s.Wait, j.retryAt(try{j.Facts.LastTry, j.Facts.LastEnd, j.Facts.Fails}, now)
	case Removing:
		if s.Busy || s.Gone {
			return time.Time{}, false
		}
		w, at = s.Wait, earlier(s.Since, now)
		if s.Fails > 0 {
			at = j.retryAt(try{s.LastTry, s.LastTry, s.Fails}, now)
		}
	case Running, Disabled:
		return time.Time{}, false
	}
	if !w.Now.IsZero() {
		at = earlier(w.Now, now)
		// A target that comes and goes does not make a failing job run without a pause.
		if end := j.Facts.LastEnd; !w.Manual && j.Facts.Fails > 0 && !future(end, now) {
			at = later(at, end.Add(MinPause))
		}
	}
	if !future(w.Until, now) {
		at = later(at, w.Until)
	}
	return at, true
}

// Due says whether the job should run now.
func Due(j Job, now time.Time) bool {
	at, ok := NextWake(j, now)
	return ok && !at.After(now)
}

// Manual says whether the next run was asked for by an operator.
func Manual(j Job) bool {
	switch s := j.State.(type) {
	case OK:
		return s.Manual
	case Failing:
		return s.Manual
	case Removing:
		return s.Wait.Manual
	case Running:
		return s.Manual
	case Disabled:
	}
	return false
}

// byCalendar is the next run of a job in good order. A fact in the future means
// that the clock was set back, and the run is due: once, because it then is a
// fact of the present.
func (j Job) byCalendar(now time.Time) time.Time {
	base := j.Facts.LastTry
	if base.IsZero() {
		base = j.Facts.Known
	}
	if future(base, now) {
		return now
	}
	at := j.Settings.Schedule.Next(base, j.Settings.Local)
	if !j.DownSince.IsZero() && !j.Facts.LastTry.IsZero() {
		at = later(at, base.Add(j.Settings.slow()))
	}
	return at
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// try is a failed run: its start, its end, and how many failed in a row.
type try struct {
	start, end time.Time
	n          int
}

// retryAt is when a failed run is tried again, counted from its start.
func (j Job) retryAt(t try, now time.Time) time.Time {
	if future(t.start, now) {
		return now
	}
	at := t.start.Add(j.Settings.retry(t.n))
	if !j.DownSince.IsZero() {
		at = t.start.Add(j.Settings.slow())
	}
	if future(t.end, now) {
		return at
	}
	return later(at, t.end.Add(MinPause))
}

// future says that a fact lies where only a clock that was set back can have left it.
func future(t, now time.Time) bool { return t.After(now.Add(clockSlack)) }

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// Describe is the job's state in words, for status: "ok", "running", "error (3):
// REASON", "waiting for n2 (down since …)", "waiting: the guest is locked",
// "disabled", "removing".
func Describe(j Job, now time.Time) string {
	switch s := j.State.(type) {
	case OK:
		if text, ok := j.waiting(s.Wait, now); ok {
			return text
		}
		return "ok"
	case Failing:
		if text, ok := j.waiting(s.Wait, now); ok {
			return text
		}
		return fmt.Sprintf("error (%d): %s", j.Facts.Fails, j.Facts.LastError)
	case Running:
		if s.Disable {
			return "running, then disabled"
		}
		return "running"
	case Disabled:
		return "disabled"
	case Removing:
		return j.describeRemoving(s, now)
	}
	return ""
}

func (j Job) describeRemoving(s Removing, now time.Time) string {
	if s.Gone {
		return "removed"
	}
	if text, ok := j.waiting(s.Wait, now); ok && !s.Busy {
		return "removing: " + text
	}
	if s.Fails > 0 {
		return fmt.Sprintf("removing (%d tries failed): %s", s.Fails, s.LastError)
	}
	return "removing"
}

// waiting tells what keeps the job from running: its target, once a run is
// overdue or has failed, or a lock.
func (j Job) waiting(w Wait, now time.Time) (string, bool) {
	if w.Until.After(now) && !future(w.Until, now) {
		return "waiting: " + w.Why, true
	}
	if j.DownSince.IsZero() {
		return "", false
	}
	if _, ok := j.State.(OK); ok {
		alive := j
		alive.DownSince = time.Time{}
		if !Due(alive, now) {
			return "", false
		}
	}
	return fmt.Sprintf("waiting for %s (down since %s)", j.Settings.Target, j.DownSince.In(j.zone()).Format(time.DateTime)), true
}

func (j Job) zone() *time.Location {
	if j.Settings.Local == nil {
		return time.UTC
	}
	return j.Settings.Local
}
