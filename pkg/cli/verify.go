package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/cli/frame"
	"github.com/tandemd/tandem/pkg/cli/report"
	"github.com/tandemd/tandem/pkg/guest"
)

// verifyDoc is the JSON of `verify`.
type verifyDoc struct {
	Version       int                `json:"version"`
	Verifications []api.Verification `json:"verifications"`
	// Errors are of jobs that could not be verified at all.
	Errors []verifyError `json:"errors"`
}

type verifyError struct {
	Job guest.JobID `json:"job"`
	*api.Error
}

func (a *app) verifyCmd() *cobra.Command {
	var mbs float64
	var acknowledge bool
	cmd := &cobra.Command{
		Use:   "verify ID",
		Short: "Compare a replica with its source, byte for byte",
		Long: `Compares the replica of a job (100-0), or those of all jobs of a guest (100), with
the source: both nodes read the newest point that is complete on both, and tell
each other checksums. Neither side is changed, syncs go on. What differs is told:
ranges of zvols, names of files with what differs of them.

It ends with this command (Ctrl-C, a lost connection). What it found is remembered:
` + "`tandem status`" + ` warns of a replica that differs until a later verification finds
it equal, or until --acknowledge.

Exit codes:
  0  equal; with --acknowledge: done
  1  a replica differs, or it was refused
  2  cannot tell: something could not be read, a node did not answer, or it was ended`,
		Example: `  tandem verify 100-0
  tandem verify 100 --rate 50
  tandem verify 100-0 --acknowledge`,
		Args: frame.Arguments("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			jobs, err := a.jobsOf(cmd.Context(), args[0])
			switch {
			case err != nil:
				return err
			case acknowledge && cmd.Flags().Changed("rate"):
				return frame.Usage(cmd, "--acknowledge reads nothing, so --rate does not go with it")
			case acknowledge:
				return a.acknowledge(cmd.Context(), jobs)
			case cmd.Flags().Changed("rate") && !(mbs >= guest.MinRate && mbs <= 1e6):
				return frame.Usage(cmd, "--rate %v: must be at least %v MB/s", mbs, guest.MinRate)
			}
			return a.verify(cmd.Context(), jobs, mbs)
		},
		ValidArgsFunction: a.completeJob,
	}
	cmd.Flags().Float64Var(&mbs, "rate", 0, "read at most so many `MB/s` on either node (10^6 bytes)")
	cmd.Flags().BoolVar(&acknowledge, "acknowledge", false, "end the warning about a difference that was found")
	return cmd
}

// jobsOf are the job, or all jobs of the guest, that the argument names.
func (a *app) jobsOf(ctx context.Context, text string) ([]guest.JobID, error) {
	if strings.Contains(text, "-") {
		id, err := guest.ParseJobID(text)
		return []guest.JobID{id}, frame.Invalid(err)
	}
	g, err := guest.ParseID(text)
	if err != nil {
		return nil, frame.Invalid(fmt.Errorf("%q: must be a job like 100-0 or a guest like 100", text))
	}
	jobs, err := a.Client().Jobs(ctx)
	if err != nil {
		return nil, err
	}
	var out []guest.JobID
	for _, j := range jobs {
		if j.Guest == g {
			out = append(out, j.ID)
		}
	}
	if len(out) == 0 {
		return nil, &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("guest %s has no job, so there is no replica to verify", g), Hint: "`tandem list` shows all jobs"}
	}
	return out, nil
}

func (a *app) acknowledge(ctx context.Context, jobs []guest.JobID) error {
	var errs []error
	for _, id := range jobs {
		err := a.Client().AcknowledgeVerify(ctx, id)
		if err == nil {
			err = a.Print(struct {
				Version int         `json:"version"`
				Job     guest.JobID `json:"job"`
			}{api.Version, id}, fmt.Sprintf("job %s: the difference is acknowledged", id))
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// verify compares one replica after the other.
func (a *app) verify(ctx context.Context, jobs []guest.JobID, mbs float64) error {
	doc := verifyDoc{Version: api.Version, Verifications: []api.Verification{}, Errors: []verifyError{}}
	code := frame.ExitOK
	for _, id := range jobs {
		v, err := a.verifyOne(ctx, api.VerifyRequest{Job: id, Rate: mbs})
		e, ok := errors.AsType[*api.Error](err)
		switch {
		case err != nil && (!ok || len(jobs) == 1 || ctx.Err() != nil):
			return err
		case err != nil:
			doc.Errors = append(doc.Errors, verifyError{id, e})
			code = worse(code, refusal(e))
			if err := a.Warn([]string{fmt.Sprintf("job %s: %s", id, e.Message)}); err != nil {
				return err
			}
			continue
		}
		doc.Verifications = append(doc.Verifications, v)
		code = worse(code, outcome(*v.Result))
		if a.Output != frame.FormatJSON {
			if err := a.Print(nil, report.Verified(v)...); err != nil {
				return err
			}
		}
	}
	if a.Output == frame.FormatJSON {
		if err := a.Print(doc); err != nil {
			return err
		}
	}
	if code != frame.ExitOK {
		return frame.Verdict(code)
	}
	return nil
}

// worse: what is known to be wrong goes before what cannot be told.
func worse(a, b int) int {
	if a == frame.ExitError || b == frame.ExitError {
		return frame.ExitError
	}
	return max(a, b)
}

func refusal(e *api.Error) int {
	if e.Code == api.CodeUnavailable || e.Code == api.CodeUnknown {
		return frame.ExitUnknown
	}
	return frame.ExitError
}

func outcome(r api.VerifyResult) int {
	switch r.Outcome {
	case api.VerifyEqual:
		return frame.ExitOK
	case api.VerifyDiffers:
		return frame.ExitError
	default:
		return frame.ExitUnknown
	}
}

// cancelPatience is how long the owner has to hear that nobody watches any more;
// it finds that out by itself, too.
const cancelPatience = 3 * time.Second

// verifyOne compares one replica, shows how far it is, and ends it when ctx ends.
func (a *app) verifyOne(ctx context.Context, r api.VerifyRequest) (api.Verification, error) {
	c := a.Client()
	started, err := c.StartVerify(ctx, r)
	if err != nil {
		return api.Verification{}, err
	}
	f := follower{app: a, job: r.Job}
	for {
		v, err := c.WatchVerify(ctx, started.VerifyID)
		if ctx.Err() != nil {
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), cancelPatience)
			defer cancel()
			_ = c.CancelVerify(end, started.VerifyID) // it ends by itself where that fails
			return v, errors.Join(f.clear(), &api.Error{Code: api.CodeUnknown, Message: fmt.Sprintf("the verification of job %s was ended", r.Job)})
		}
		if err == nil && v.Result == nil && v.Bytes > 0 && a.Output != frame.FormatJSON {
			err = f.showProgress(api.Watch{Time: v.Time, Progress: &api.Progress{Started: v.Started, Phase: "verify", Sent: v.Bytes, Total: v.Total}})
		}
		if err != nil || v.Result != nil {
			return v, errors.Join(err, f.clear())
		}
	}
}
