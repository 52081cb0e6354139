package backend

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/daemon/poll"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/replicate/release"
)

// releaseTimeout is what a node has to take Tandem off volumes: destroying one
// with many snapshots takes its time.
const releaseTimeout = 5 * time.Minute

// removal is what an operator takes out of Tandem's care.
type removal struct {
	// guest is as it was before.
	guest   guest.Guest
	volumes []guest.Volume
	// delete says that the data goes too; whole, that the guest goes, and not some of its volumes.
	delete, whole bool
	// unmounted are volumes that checkGone has unmounted.
	unmounted []guest.Volume
}

func (r removal) question(b *Backend) poll.Question[release.Request, []release.Result] {
	return poll.Question[release.Request, []release.Result]{
		Path: pathRelease, Patience: releaseTimeout, Here: b.releaseHere,
		Ask: release.Request{
			Guest: r.guest.ID, Volumes: r.volumes, Delete: r.delete, Whole: r.whole, Unit: r.guest.Unit,
			Owner: r.guest.Owner, Cuts: r.guest.Beginning.CutsUntil(""),
		},
	}
}

func (b *Backend) releaseHere(ctx context.Context, r release.Request) ([]release.Result, error) {
	c, err := b.cluster()
	if err != nil {
		return nil, err
	}
	if !r.Check {
		c.Unread(r.Guest)
	}
	if r.Delete && r.Unit != "" {
		runs, err := c.Runs(ctx, r.Unit)
		r.Idle = err == nil && !runs
	}
	return c.Releaser.Release(ctx, r)
}

// checkGone refuses where data that is to be deleted cannot be: nothing is
// changed then. A node that does not answer is a reason too, as long as it is the owner.
func (b *Backend) checkGone(ctx context.Context, r *removal) error {
	if len(r.volumes) == 0 || !r.delete {
		return nil
	}
	q := r.question(b)
	q.Ask.Check = true
	s := b.Book.Current()
	mounted := false
	for id, a := range poll.All(ctx, b.asker(), s.MemberList(), q) {
		if a.Err != nil && id == r.guest.Owner {
			return &api.Error{
				Code:    api.CodeUnavailable,
				Message: fmt.Sprintf("guest %s: its owner %s did not answer, so its data cannot be deleted: %v", r.guest.ID, s.NameOf(id), a.Err),
				Hint:    "nothing was changed; try again when it is back, or keep the data",
			}
		}
		for _, res := range a.Said {
			if res.Left != "" {
				return stays(*r, res, s.NameOf(id))
			}
			mounted = mounted || res.Mounted && id == r.guest.Owner
		}
	}
	if !mounted {
		return nil
	}
	// Only a try tells that nobody uses a filesystem. A daemon that dies after it has left the guest as it was: its next start mounts it.
	results, err := b.mounts(ctx, *r, release.Unmount)
	for _, res := range results {
		switch {
		case res.Unmounted:
			r.unmounted = append(r.unmounted, res.Volume)
		case res.Left != "":
			err = stays(*r, res, s.NameOf(r.guest.Owner))
		}
	}
	return err
}

func stays(r removal, res release.Result, node string) error {
	return &api.Error{
		Code:    api.CodeRefused,
		Message: fmt.Sprintf("the data of guest %s cannot be deleted: %s on %s: %s", r.guest.ID, res.Dataset, node, res.Left),
		Hint:    "nothing was changed; try again once that is no longer so, or keep the data",
	}
}

// mounts has the guest's owner unmount its filesystems, or mount them again.
func (b *Backend) mounts(ctx context.Context, r removal, how release.Mounts) ([]release.Result, error) {
	ask := r.question(b).Ask
	ask.Check, ask.Mounts = true, how
	return ofGuest(ctx, b, r.guest, question{pathRelease, ask}, func() ([]release.Result, error) { return b.releaseHere(ctx, ask) })
}

// letGo carries the command by which the ledger lets go of what is to be removed. Where that
// is refused, what was unmounted for it is mounted again.
func (b *Backend) letGo(ctx context.Context, r removal, op ledger.Op) error {
	err := b.edit(ctx, op)
	if err == nil || len(r.unmounted) == 0 {
		return err
	}
	if e, ok := errors.AsType[*api.Error](err); ok && e.Code == api.CodeUnknown {
		return err // It may be done.
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	r.volumes = r.unmounted
	_, _ = b.mounts(ctx, r, release.Remount) // Else the guest's next start mounts them.
	return err
}

// release takes Tandem off volumes that the ledger gives to no guest any more, on
// all nodes. It tells what became of them, and who did not answer. Where data is to go
// the owner's goes first: as long as it is there, so are its replicas.
func (b *Backend) release(ctx context.Context, r removal) (traces []api.Trace, warnings []string) {
	if len(r.volumes) == 0 {
		return nil, nil
	}
	s := b.Book.Current()
	q := r.question(b)
	q.Ask.Index = s.Index
	ask := func(members []ledger.Member) map[guest.NodeID]poll.Answer[[]release.Result] {
		// The change is made: what follows from it is not left half done.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
		defer cancel()
		return poll.All(ctx, b.asker(), members, q)
	}
	isOwner := func(m ledger.Member) bool { return m.ID == r.guest.Owner }
	others := slices.DeleteFunc(s.MemberList(), isOwner)
	answers := ask(slices.DeleteFunc(s.MemberList(), func(m ledger.Member) bool { return !isOwner(m) }))
	if a := answers[r.guest.Owner]; r.delete && (a.Err != nil || slices.ContainsFunc(a.Said, func(res release.Result) bool { return res.Left != "" })) {
		q.Ask.Delete = false
		warnings = append(warnings, fmt.Sprintf(
			"%s could not destroy all of its data, so the replicas on other nodes stay: `tandem diverged list` shows those of guests that are gone", s.NameOf(r.guest.Owner)))
	}
	maps.Copy(answers, ask(others))
	for _, m := range s.MemberList() {
		a := answers[m.ID]
		for _, res := range a.Said {
			traces = append(traces, traceOf(m, res))
		}
		switch {
		case a.Err == nil:
		case m.ID == r.guest.Owner:
			warnings = append(warnings, fmt.Sprintf("the marks of Tandem are left on the volumes on %s, where a later `tandem guest add` takes them off: %v",
				m.Name, b.failure(a.Err)))
		case len(m.Storages) > 0:
			warnings = append(warnings, fmt.Sprintf("node %s did not answer: replicas may be left there", m.Name))
		}
	}
	return traces, warnings
}

func traceOf(m ledger.Member, r release.Result) api.Trace {
	t := api.Trace{Node: m.Name, Volume: r.Volume, Dataset: r.Dataset, Fate: api.FateKept, Reason: r.Left}
	switch {
	case r.Left != "":
		t.Fate = api.FateLeft
	case r.Destroyed:
		t.Fate = api.FateDestroyed
	case r.Replica:
		t.Fate = api.FateReplica
	}
	return t
}
