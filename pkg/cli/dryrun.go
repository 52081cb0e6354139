package cli

import (
	"context"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/cli/frame"
	"github.com/tandemd/tandem/pkg/guest"
)

// plannedDoc is the JSON of `run --dry-run`.
type plannedDoc struct {
	Version int            `json:"version"`
	Job     guest.JobID    `json:"job"`
	Node    guest.NodeName `json:"node"`
	// Plan is nil where it cannot be told, and NoPlan says why.
	Plan   *api.PlannedSync `json:"plan,omitempty"`
	NoPlan string           `json:"no_plan,omitempty"`
}

// dryRun prints what a run would do.
func (a *app) dryRun(ctx context.Context, id guest.JobID) error {
	e, err := a.Client().Explain(ctx, id)
	if err != nil {
		return err
	}
	doc := plannedDoc{Version: api.Version, Job: id, Node: e.Node, Plan: e.Plan, NoPlan: e.NoPlan}
	if err := a.Print(doc, a.Text().Plan(e)...); err != nil {
		return err
	}
	switch {
	case e.Plan == nil, e.Plan.Remembered != "":
		return frame.Verdict(frame.ExitUnknown)
	case len(e.Plan.Refusals) > 0:
		return frame.Verdict(frame.ExitError)
	}
	return nil
}
