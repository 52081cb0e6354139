package job

import "time"

// Step is the machine: it is total over states and events, and an event that
// means nothing in a state changes nothing.
func Step(j Job, e Event, now time.Time) (Job, []Effect) {
	switch e := e.(type) {
	case TargetDown:
		return targetDown(j, e, now), nil
	case TargetUp:
		return targetUp(j, now), nil
	case Changed:
		j.Settings = e.Settings
		return j, nil
	case Restarted:
		return restarted(j, now), nil
	case Delete:
		return deleted(j, e, now)
	case Picked, Succeeded, Failed, Skipped, Ask, Enable, Disable:
	}
	switch s := j.State.(type) {
	case OK:
		return stepIdle(j, s.Wait, e, now)
	case Failing:
		return stepIdle(j, s.Wait, e, now)
	case Running:
		return stepRunning(j, s, e, now)
	case Removing:
		return stepRemoving(j, s, e, now)
	case Disabled:
		return stepDisabled(j, e)
	}
	return j, nil
}

func stepIdle(j Job, w Wait, e Event, now time.Time) (Job, []Effect) {
	switch e.(type) {
	case Picked:
		if !Due(j, now) {
			return j, nil
		}
		j.State = Running{Started: now, Now: w.Now, Manual: w.Manual}
		return j, []Effect{StartSync{Manual: w.Manual}}
	case Ask:
		j.State = idle(j.Facts, asked(w, now))
	case Disable:
		j.State = Disabled{}
	default: // nothing runs, nothing to enable
	}
	return j, nil
}

// asked keeps an older wish's place in the queue.
func asked(w Wait, now time.Time) Wait {
	if w.Now.IsZero() || w.Now.After(now) {
		w.Now = now
	}
	w.Manual, w.Until, w.Why = true, time.Time{}, ""
	return w
}

func stepRunning(j Job, s Running, e Event, now time.Time) (Job, []Effect) {
	switch e := e.(type) {
	case Succeeded:
		j.Facts.LastTry, j.Facts.LastEnd, j.Facts.LastSync = s.Started, now, s.Started
		j.Facts.Fails, j.Facts.LastError, j.Facts.Interrupted = 0, "", false
		j.State = s.after(j.Facts, Wait{})
	case Failed:
		j.Facts.LastTry, j.Facts.LastEnd = s.Started, now
		j.Facts.Fails++
		j.Facts.LastError, j.Facts.Interrupted = e.Reason, false
		j.State = s.after(j.Facts, Wait{Now: s.Back})
	case Skipped:
		// Nothing was tried: the facts stay, and what made it due stays due.
		j.State = s.after(j.Facts, Wait{Now: s.Now, Manual: s.Manual, Until: now.Add(SkipPause), Why: e.Reason})
	case Ask:
		if s.Again.IsZero() {
			s.Again = now
		}
		j.State = s
	case Disable:
		s.Disable = true
		j.State = s
	case Enable:
		s.Disable = false
		j.State = s
	default: // Picked: it runs already
	}
	return j, nil
}

// after is the state that follows a run.
func (s Running) after(f Facts, w Wait) State {
	if s.Disable {
		return Disabled{}
	}
	if !s.Again.IsZero() {
		w = asked(w, s.Again)
	}
	return idle(f, w)
}

func stepDisabled(j Job, e Event) (Job, []Effect) {
	switch e.(type) {
	case Enable:
		j.State = idle(j.Facts, Wait{})
	case Ask:
		return j, []Effect{Refuse{Reason: "the job is disabled; enable it first"}}
	default: // nothing runs
	}
	return j, nil
}

func stepRemoving(j Job, s Removing, e Event, now time.Time) (Job, []Effect) {
	if s.Gone {
		return j, nil
	}
	switch e.(type) {
	case Picked:
		if !Due(j, now) {
			return j, nil
		}
		s.Busy, s.LastTry, s.Wait = true, now, Wait{}
		j.State = s
		return j, []Effect{StartRemoval{Keep: s.Keep}}
	case Succeeded, Failed, Skipped:
		if !s.Busy {
			return j, nil
		}
		return s.ended(j, e, now)
	case Ask:
		s.Wait = asked(s.Wait, now)
		j.State = s
	case Enable, Disable:
		return j, []Effect{Refuse{Reason: "the job is being removed"}}
	default: // the others are the same in every state
	}
	return j, nil
}

// ended takes the result of a cleaning, or of the sync that the removal cancelled.
func (s Removing) ended(j Job, e Event, now time.Time) (Job, []Effect) {
	s.Busy = false
	var effects []Effect
	if cleaning := !s.LastTry.IsZero(); cleaning {
		switch e := e.(type) {
		case Succeeded:
			s.Gone = true
			effects = []Effect{Forget{}}
		case Failed:
			s.Fails++
			s.LastError = e.Reason
		case Skipped:
			s.Wait = Wait{Until: now.Add(SkipPause), Why: e.Reason}
		default:
		}
	}
	j.State = s
	return j, effects
}

func deleted(j Job, e Delete, now time.Time) (Job, []Effect) {
	next := Removing{Since: now, Keep: e.Keep}
	switch s := j.State.(type) {
	case Running:
		next.Busy = true
	case Removing:
		if s.Gone {
			return j, nil
		}
		next = s
		next.Keep = e.Keep
	case OK, Failing, Disabled:
	}
	var effects []Effect
	_, syncing := j.State.(Running)
	if syncing || e.Force && next.Busy {
		effects = append(effects, CancelRun{})
	}
	if e.Force {
		next.Gone = true
		effects = append(effects, Forget{Forced: true})
	}
	j.State = next
	return j, effects
}

// targetDown leaves only the slow tries, also to a failing job that was about
// to be tried because its target had come back.
func targetDown(j Job, e TargetDown, now time.Time) Job {
	if !j.DownSince.IsZero() {
		return j
	}
	j.DownSince = e.Since
	if e.Since.IsZero() {
		j.DownSince = now
	}
	switch s := j.State.(type) {
	case Failing:
		if !s.Manual {
			s.Now = time.Time{}
		}
		j.State = s
	case Running:
		s.Back = time.Time{}
		j.State = s
	case OK, Disabled, Removing:
	}
	return j
}

// targetUp makes a job that waits for its target due at once, also when the run
// that the target's end has broken is still to fail. One in good order goes on by
// its calendar, which may have made it due meanwhile.
func targetUp(j Job, now time.Time) Job {
	if j.DownSince.IsZero() {
		return j
	}
	j.DownSince = time.Time{}
	switch s := j.State.(type) {
	case Failing:
		if s.Now.IsZero() {
			s.Now = now
		}
		j.State = s
	case Removing:
		if s.Wait.Now.IsZero() && (s.Fails > 0 || s.Busy) {
			s.Wait.Now = now
		}
		j.State = s
	case Running:
		s.Back = now
		j.State = s
	case OK, Disabled:
	}
	return j
}

func restarted(j Job, now time.Time) Job {
	spec := Spec{Settings: j.Settings}
	switch s := j.State.(type) {
	case Running:
		j.Facts.LastTry, j.Facts.Interrupted = s.Started, true
		j.Facts.LastEnd = time.Time{}
		spec.Disabled = s.Disable
	case Disabled:
		spec.Disabled = true
	case Removing:
		if s.Gone {
			return j
		}
		spec.Removing, spec.Keep = true, s.Keep
	case OK, Failing:
	}
	next := New(spec, j.Facts, now)
	next.DownSince = j.DownSince
	return next
}

// Follow brings the job to what the ledger says now, as the events that lie
// between.
func Follow(j Job, spec Spec, now time.Time) (Job, []Effect) {
	var effects []Effect
	step := func(e Event) {
		var more []Effect
		j, more = Step(j, e, now)
		effects = append(effects, more...)
	}
	if !j.Settings.equal(spec.Settings) {
		step(Changed{Settings: spec.Settings})
	}
	if removing, ok := j.State.(Removing); ok || spec.Removing {
		if spec.Removing && (!ok || removing.Keep != spec.Keep) {
			step(Delete{Keep: spec.Keep})
		}
		return j, effects
	}
	switch s := j.State.(type) {
	case Disabled:
		if !spec.Disabled {
			step(Enable{})
		}
	case Running:
		if spec.Disabled != s.Disable {
			step(toggle(spec))
		}
	case OK, Failing:
		if spec.Disabled {
			step(Disable{})
		}
	case Removing:
	}
	return j, effects
}

func toggle(spec Spec) Event {
	if spec.Disabled {
		return Disable{}
	}
	return Enable{}
}
