package guests

import (
	"context"
	"slices"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/cli/frame"
	"github.com/tandemd/tandem/pkg/cli/report"
	"github.com/tandemd/tandem/pkg/guest"
)

// copiesDoc is the part of the JSON of `guest show` and `status` that is about copies.
type copiesDoc struct {
	Diverged []api.DivergedCopy `json:"diverged"`
	Kept     []api.KeptCopy     `json:"kept"`
	Drills   []drillDoc         `json:"drills"`
	// Silent are the members that did not answer.
	Silent []guest.NodeName `json:"silent"`
}

// showDoc is the JSON of `guest show`.
type showDoc struct {
	guestDoc
	copiesDoc
}

// statusDoc is the JSON of `guest status`.
type statusDoc struct {
	guestsDoc
	copiesDoc
}

// copies asks what nodes have of a guest beside its owner's data; 0: of all guests.
func (a verbs) copies(ctx context.Context, id guest.ID) (c report.Copies, err error) {
	if c.Status, err = a.Client().Status(ctx, api.Filter{Guest: id}); err != nil {
		return c, err
	}
	c.Diverged, err = a.Client().Diverged(ctx, api.DivergedRequest{Guest: id})
	return c, err
}

func docOf(c report.Copies, guests ...api.Guest) copiesDoc {
	about := map[guest.ID]bool{}
	for _, g := range guests {
		about[g.ID] = true
	}
	shown := func(id guest.ID) bool { return about[id] }
	l := c.Of(shown)
	jobs := slices.DeleteFunc(slices.Clone(c.Status.Jobs), func(j api.JobStatus) bool { return !shown(j.Guest) })
	return copiesDoc{Diverged: frame.List(l.Copies), Kept: frame.List(l.Kept), Drills: drillsOf(jobs), Silent: frame.List(l.Silent)}
}
