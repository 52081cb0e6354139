package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/cli/frame"
	"github.com/tandemd/tandem/pkg/cli/report"
	"github.com/tandemd/tandem/pkg/guest"
)

// eventDoc is one line of the JSON of `run` and `log -f`; one of its last four
// fields is set.
type eventDoc struct {
	Version int         `json:"version"`
	Job     guest.JobID `json:"job"`
	Run     uint64      `json:"run"`
	// Waiting is why the run has not begun.
	Waiting string `json:"waiting,omitempty"`
	// Line is a line of its log.
	Line     *api.LogLine  `json:"line,omitempty"`
	Progress *api.Progress `json:"progress,omitempty"`
	// Ended is the run when it has ended. Its log is empty where its lines came before.
	Ended *api.Run `json:"ended,omitempty"`
}

func (a *app) runCmd() *cobra.Command {
	var dry bool
	cmd := &cobra.Command{
		Use:   "run ID",
		Short: "Run a job now and watch it",
		Long: `Has a job run as soon as the limits allow, also while it waits after an error,
and shows its log and its progress until it has ended. It runs on the node that
has the guest, whichever node is asked. Ctrl-C ends the watching only: the run
goes on. With -o json each event is a line.

With --dry-run it is planned and not begun: the steps with their reasons, about how
many bytes they send, what would be refused, and which snapshots go then. Nothing
is changed anywhere. What is written meanwhile is not in it.

Exit codes:
  0  the run succeeded, also where there was nothing to send
  1  it was refused, failed or was skipped; --dry-run: it would be refused
  2  cannot tell: a node did not answer, or the watching was ended`,
		Example: `  tandem run 100-0
  tandem run 100-0 -o json
  tandem run 100-0 --dry-run`,
		Args: frame.Arguments("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := guest.ParseJobID(args[0])
			if err != nil {
				return frame.Invalid(err)
			}
			if dry {
				return a.dryRun(cmd.Context(), id)
			}
			return a.run(cmd.Context(), id)
		},
		ValidArgsFunction: a.completeJob,
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "print the plan and do nothing of it")
	return cmd
}

func (a *app) run(ctx context.Context, id guest.JobID) error {
	c := a.Client()
	started, err := c.StartRun(ctx, id)
	if err != nil {
		return err
	}
	f := follower{app: a, job: id, run: started.Run}
	if err := f.say(fmt.Sprintf("job %s runs on %s", id, started.Node)); err != nil {
		return err
	}
	ended, err := f.follow(ctx, c)
	switch {
	case err == nil && ended != nil:
		return f.verdict(*ended)
	case ctx.Err() != nil:
		return &api.Error{
			Code:    api.CodeUnknown,
			Message: fmt.Sprintf("no longer watched: job %s runs on by itself", id),
			Hint:    fmt.Sprintf("watch it with `tandem log -f %s`", id),
		}
	case err != nil:
		return err
	}
	return &api.Error{
		Code:    api.CodeUnknown,
		Message: fmt.Sprintf("the run of job %s did not begin, or was not recorded", id),
		Hint:    fmt.Sprintf("see `tandem explain %s`", id),
	}
}

// verdict tells how the run ended; what is no success is an error.
func (f *follower) verdict(r api.Run) error {
	text := fmt.Sprintf("run %d of job %s: %s", r.ID, r.Job, report.Outcome(r))
	if r.Outcome == api.OutcomeOK {
		return f.say(text)
	}
	e := &api.Error{Code: api.CodeRefused, Message: text, Hint: r.Hint}
	if r.Error != "" {
		e.Message += ": " + r.Error
	}
	if r.Outcome == api.OutcomeInterrupted {
		e.Code = api.CodeUnknown
	}
	return e
}

// followLog prints the last runs and goes on with the one that goes on.
func (a *app) followLog(cmd *cobra.Command, job string, n int) error {
	ctx, c := cmd.Context(), a.Client()
	id, runs, err := a.runs(cmd, job, n)
	if err != nil {
		return err
	}
	f := follower{app: a, job: id, run: 1}
	for _, r := range runs {
		f.run, f.lines = r.ID, len(r.Log)
		if r.Outcome != api.OutcomeRunning {
			f.run, f.lines = r.ID+1, 0
		}
		if err := f.past(r); err != nil {
			return err
		}
	}
	ended, err := f.follow(ctx, c)
	switch {
	case ctx.Err() != nil:
		return f.clear() // Whoever ended it knows.
	case err != nil:
		return err
	case ended == nil:
		return f.say(fmt.Sprintf("Job %s does not run now.", id))
	}
	return f.say(strings.Join(append([]string{fmt.Sprintf("run %d: %s", ended.ID, report.Outcome(*ended))}, report.Reason(*ended)...), "\n"))
}

// past prints what is known of a run when the following begins.
func (f *follower) past(r api.Run) error {
	if f.app.Output != frame.FormatJSON {
		return f.say(strings.Join(f.app.Text().Log([]api.Run{r}), "\n"))
	}
	e := eventDoc{Version: api.Version, Job: f.job, Run: r.ID}
	if r.Outcome != api.OutcomeRunning {
		e.Ended = &r
		return f.event(e)
	}
	for _, l := range r.Log {
		e.Line = &l
		if err := f.event(e); err != nil {
			return err
		}
	}
	return nil
}

func (f *follower) event(e eventDoc) error { return json.NewEncoder(f.app.Stdout).Encode(e) }

// follower shows a run while it goes on.
type follower struct {
	app *app
	job guest.JobID
	run uint64
	// lines are those of its log that are known.
	lines int
	// waiting and progress are what was told last.
	waiting  string
	progress *api.Progress
	// open says that a line of progress stands on the terminal and is to be overwritten.
	open bool
}

// follow watches until the run has ended; nil: it will not begin soon.
func (f *follower) follow(ctx context.Context, c api.Backend) (*api.Run, error) {
	for {
		w, err := c.Watch(ctx, api.WatchRequest{Job: f.job, Run: f.run, Lines: f.lines})
		if err == nil {
			if w.Run != nil {
				f.run = w.Run.ID
			}
			err = f.show(w)
		}
		if err != nil {
			return nil, errors.Join(err, f.clear())
		}
		if w.Ended() || w.Idle {
			return w.Run, f.clear()
		}
	}
}

func (f *follower) show(w api.Watch) error {
	if f.app.Output == frame.FormatJSON {
		return f.showEvents(w)
	}
	if w.Waiting != "" && w.Waiting != f.waiting {
		f.waiting = w.Waiting
		if err := f.say("waiting: " + report.OneLine(w.Waiting)); err != nil {
			return err
		}
	}
	if w.Run == nil {
		return nil
	}
	for _, l := range w.Run.Log {
		if err := f.say(f.app.Text().LogLine(f.job, l)); err != nil {
			return err
		}
	}
	f.lines += len(w.Run.Log)
	if w.Progress == nil {
		return nil
	}
	return f.showProgress(w)
}

// showProgress keeps one line of it on a terminal; elsewhere a line tells each
// new phase and each tenth.
func (f *follower) showProgress(w api.Watch) error {
	text := report.Progress(*w.Progress, w.Time)
	last := f.progress
	if f.app.Terminal {
		f.progress, f.open = w.Progress, true
		const columns = 79
		if r := []rune(text); len(r) > columns {
			text = string(r[:columns])
		}
		return f.write("\r\x1b[K" + text)
	}
	if last != nil && last.Phase == w.Progress.Phase && tenth(*last) == tenth(*w.Progress) {
		return nil
	}
	f.progress = w.Progress
	return f.say(text)
}

func tenth(p api.Progress) int64 {
	if p.Total <= 0 {
		return 0
	}
	return 10 * p.Sent / p.Total
}

func (f *follower) showEvents(w api.Watch) error {
	event := func(e eventDoc) error {
		e.Version, e.Job, e.Run = api.Version, f.job, f.run
		return f.event(e)
	}
	if w.Waiting != "" && w.Waiting != f.waiting {
		f.waiting = w.Waiting
		if err := event(eventDoc{Waiting: w.Waiting}); err != nil {
			return err
		}
	}
	if w.Run == nil {
		return nil
	}
	for _, l := range w.Run.Log {
		if err := event(eventDoc{Line: &l}); err != nil {
			return err
		}
	}
	f.lines += len(w.Run.Log)
	if w.Progress != nil && (f.progress == nil || *f.progress != *w.Progress) {
		f.progress = w.Progress
		if err := event(eventDoc{Progress: w.Progress}); err != nil {
			return err
		}
	}
	if !w.Ended() {
		return nil
	}
	ended := *w.Run
	ended.Log = []api.LogLine{}
	return event(eventDoc{Ended: &ended})
}

// say prints a line of text; JSON has none.
func (f *follower) say(line string) error {
	if f.app.Output == frame.FormatJSON {
		return nil
	}
	if err := f.clear(); err != nil {
		return err
	}
	return f.write(report.Printable(line) + "\n")
}

// clear takes the line of progress off the terminal.
func (f *follower) clear() error {
	if !f.open {
		return nil
	}
	f.open = false
	return f.write("\r\x1b[K")
}

func (f *follower) write(s string) error {
	_, err := io.WriteString(f.app.Stdout, s)
	return err
}
