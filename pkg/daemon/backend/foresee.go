package backend

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/daemon/overview"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/peer"
	"github.com/tandemd/tandem/pkg/replicate"
)

const pathForesee = "/node/foresee"

// foreseeRequest asks a guest's owner what stands against a job, or against volumes, that the ledger does not have yet.
type foreseeRequest struct {
	Guest guest.Guest `json:"guest"`
	Job   guest.Job   `json:"job"`
	Index uint64      `json:"index"`
}

// foreseen is the answer.
type foreseen struct {
	Warnings []string  `json:"warnings,omitempty"`
	Against  []against `json:"against,omitempty"`
}

type against struct {
	Volume guest.Volume `json:"volume"`
	Text   string       `json:"text"`
	Hint   string       `json:"hint"`
	// Stands says that it does not pass by itself.
	Stands bool `json:"stands"`
}

func (b *Backend) handleForesee(mux *http.ServeMux) {
	peer.Handle(mux, pathForesee, func(ctx context.Context, r foreseeRequest) (foreseen, error) {
		b.catchUp(ctx, r.Index)
		return b.foreseeHere(ctx, r)
	})
}

// foreseeHere is the owner's word.
func (b *Backend) foreseeHere(ctx context.Context, r foreseeRequest) (foreseen, error) {
	c, err := b.cluster()
	if err != nil {
		return foreseen{}, err
	}
	p, err := c.Source.Foresee(ctx, r.Guest, r.Job, overview.ReportTimeout)
	if err != nil {
		return foreseen{}, err
	}
	out := foreseen{Warnings: p.Warnings}
	if p.Silent != nil {
		out.Warnings = append(out.Warnings, fmt.Sprintf("whether the target can take it was not checked: %v", p.Silent))
	}
	for _, e := range p.Refusals {
		out.Against = append(out.Against, against{Volume: e.Volume, Text: e.Error(), Hint: e.Hint, Stands: replicate.Standing(e)})
	}
	return out, nil
}

// foresee refuses a job, or volumes that are added to one (nil: all are looked at), whose first sync would be refused: with the
// words of that sync. Where the owner or the target does not answer, the warnings say so.
func (b *Backend) foresee(ctx context.Context, what string, r foreseeRequest, added []guest.Volume) (warnings []string, err error) {
	s := b.Book.Current()
	r.Index = s.Index
	if _, known := s.Guests[r.Guest.ID]; !known || r.Job.Target == r.Guest.Owner {
		return nil, nil // The ledger says what is wrong.
	}
	var out foreseen
	if r.Guest.Owner == b.Self {
		out, err = b.foreseeHere(ctx, r)
	} else {
		ctx, cancel := context.WithTimeout(ctx, overview.ReportTimeout+explainSlack)
		defer cancel()
		err = b.Peers.Call(ctx, r.Guest.Owner, pathForesee, r, &out)
	}
	if err != nil {
		return []string{fmt.Sprintf("%s: what its first sync will do was not checked: %v", what, s.Named(err.Error()))}, nil
	}
	var refused []error
	hint := ""
	for _, a := range out.Against {
		switch {
		case added != nil && !slices.Contains(added, a.Volume):
		case a.Stands:
			refused = append(refused, errors.New(a.Text))
			hint = a.Hint
		default:
			out.Warnings = append(out.Warnings, a.Text)
		}
	}
	if len(refused) > 0 {
		return nil, &api.Error{Code: api.CodeRefused, Message: fmt.Sprintf("%s: %v", what, errors.Join(refused...)), Hint: hint}
	}
	return out.Warnings, nil
}
