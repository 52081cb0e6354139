package report

import (
	"slices"
	"strings"
	"time"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/guest"
)

// Copies is what the nodes tell of the copies of guests beside their owners' data.
type Copies struct {
	Status   api.Status
	Diverged api.DivergedList
}

// Of is what of it is about guests that are shown.
func (c Copies) Of(shown func(guest.ID) bool) api.DivergedList {
	l := c.Diverged
	l.Copies = slices.DeleteFunc(slices.Clone(l.Copies), func(x api.DivergedCopy) bool { return !shown(x.Guest) })
	l.Kept = slices.DeleteFunc(slices.Clone(l.Kept), func(x api.KeptCopy) bool { return !shown(x.Guest) })
	return l
}

// apart is the text of `diverged list` below that of guests, where there is any.
func (p Printer) apart(c Copies, shown func(guest.ID) bool) []string {
	l := c.Of(shown)
	if len(l.Copies)+len(l.Kept) == 0 {
		return nil
	}
	return append([]string{""}, p.Diverged(l)...)
}

// jobs are those of a guest, one for each of its replicas.
func (c Copies) jobs(id guest.ID) []api.JobStatus {
	return slices.DeleteFunc(sorted(c.Status.Jobs), func(j api.JobStatus) bool { return j.Guest != id })
}

// drillRows are for `guest show`.
func (p Printer) drillRows(c Copies, id guest.ID) [][]string {
	var all []string
	for _, j := range c.jobs(id) {
		text := p.drilled(c.Status, j)
		switch {
		case slices.Contains(c.Status.Silent, j.Target):
			text = "?"
		case text == "":
			text = "never"
		}
		all = append(all, "on "+string(j.Target)+": "+text)
	}
	if len(all) == 0 {
		return nil
	}
	return listed("drilled", all)
}

// drilledShort is for `guest status`: how the last drill of each replica went, and how long ago.
func (c Copies) drilledShort(id guest.ID) string {
	var all []string
	ago := func(t time.Time) string { return span(c.Status.Time.Sub(t)) }
	for _, j := range c.jobs(id) {
		text := "never"
		switch d := j.Drilled; {
		case slices.Contains(c.Status.Silent, j.Target):
			text = "?"
		case d == nil:
		case !d.Failed.IsZero():
			text = "FAILED " + ago(d.Failed)
		case !d.Passed.IsZero():
			text = "passed " + ago(d.Passed)
		}
		all = append(all, string(j.Target)+" "+text)
	}
	return strings.Join(all, ", ")
}
