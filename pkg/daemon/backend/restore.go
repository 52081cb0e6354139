package backend

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/replicate/aside"
	"github.com/tandemd/tandem/pkg/zfs"
)

// showTimeout is what a node has to tell all of a copy, its files compared.
const showTimeout = time.Minute

func (b *Backend) viewer() (*aside.Viewer, string, error) {
	c, err := b.cluster()
	if err != nil {
		return nil, "", err
	}
	return c.Aside.Viewer(c.Mounts), b.Book.Current().Cluster, nil
}

func (b *Backend) showHere(ctx context.Context, r copyRequest) (api.DivergedDetail, error) {
	v, cluster, err := b.viewer()
	if err != nil {
		return api.DivergedDetail{}, err
	}
	d, err := v.Show(ctx, cluster, r.Dataset)
	if err != nil {
		return api.DivergedDetail{}, err
	}
	out := api.DivergedDetail{
		Version: api.Version, DivergedCopy: b.copyOf(d.Copy), Type: string(d.Data.Type), Newer: d.Newer, At: d.At, Trouble: d.Trouble,
		Snapshots: []api.DivergedSnapshot{}, Clones: []api.DivergedClone{},
	}
	for _, s := range d.Data.Snapshots {
		out.Snapshots = append(out.Snapshots, api.DivergedSnapshot{Name: s.Name, Taken: s.Creation, Written: s.Written})
	}
	s := b.Book.Current()
	for _, x := range d.Clones {
		one := api.DivergedClone{Dataset: x.Dataset}
		if g, ok := s.GuestOf(x.Volume); ok {
			one.Guest = g.ID
		}
		out.Clones = append(out.Clones, one)
	}
	if d.Diff != nil {
		out.Diff = &api.FileDiff{
			Added: d.Diff.Added, Removed: d.Diff.Removed, Modified: d.Diff.Modified, Renamed: d.Diff.Renamed, First: some(d.Diff.First),
		}
	}
	return out, nil
}

// ShowDiverged tells all of one copy.
func (b *Backend) ShowDiverged(ctx context.Context, r api.CopyRequest) (api.DivergedDetail, error) {
	ctx, cancel := context.WithTimeout(ctx, showTimeout)
	defer cancel()
	return errand[copyRequest, api.DivergedDetail]{pathShow, copyRequest{r.Dataset}, b.showHere}.at(ctx, b, r.Node)
}

func (b *Backend) mountHere(ctx context.Context, r copyRequest) (api.DivergedMount, error) {
	v, cluster, err := b.viewer()
	if err != nil {
		return api.DivergedMount{}, err
	}
	at, c, err := v.Mount(ctx, cluster, r.Dataset)
	return api.DivergedMount{Version: api.Version, Node: b.Name, Dataset: r.Dataset, At: at, Device: c.Data.Type == zfs.TypeVolume}, err
}

// MountDiverged makes one copy readable on its node.
func (b *Backend) MountDiverged(ctx context.Context, r api.CopyRequest) (api.DivergedMount, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	return errand[copyRequest, api.DivergedMount]{pathMount, copyRequest{r.Dataset}, b.mountHere}.at(ctx, b, r.Node)
}

func (b *Backend) unmountHere(ctx context.Context, r copyRequest) (api.DivergedCopy, error) {
	v, cluster, err := b.viewer()
	if err != nil {
		return api.DivergedCopy{}, err
	}
	c, err := v.Unmount(ctx, cluster, r.Dataset)
	return b.copyOf(c), err
}

// UnmountDiverged ends what MountDiverged did.
func (b *Backend) UnmountDiverged(ctx context.Context, r api.CopyRequest) (api.DivergedCopy, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	return errand[copyRequest, api.DivergedCopy]{pathUnmount, copyRequest{r.Dataset}, b.unmountHere}.at(ctx, b, r.Node)
}

// restoreRequest asks the node that has the copies.
type restoreRequest struct {
	api.RestoreRequest
	By string `json:"by"`
	// Index is how far the sender's ledger is.
	Index uint64 `json:"index"`
}

// RestoreDiverged makes a guest of its own out of copies.
func (b *Backend) RestoreDiverged(ctx context.Context, r api.RestoreRequest) (api.Restored, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	q := restoreRequest{RestoreRequest: r, By: b.caller(ctx), Index: b.Book.Current().Index}
	return errand[restoreRequest, api.Restored]{pathRestore, q, b.restoreHere}.at(ctx, b, r.Node)
}

// restoreHere makes the clones, then the guest on the ledger, then its volumes ready. Cut anywhere it is gone on with when it is
// asked again with the same ID; where the ledger refuses the guest, the clones go.
func (b *Backend) restoreHere(ctx context.Context, q restoreRequest) (api.Restored, error) {
	c, err := b.cluster()
	if err != nil {
		return api.Restored{}, err
	}
	b.catchUp(ctx, q.Index)
	s := b.Book.Current()
	if q.As == 0 {
		q.As = nextID(s)
	}
	r, err := c.Aside.Restore(ctx, s.Cluster, q.Datasets, q.As)
	if err != nil {
		return api.Restored{}, err
	}
	if !r.Known {
		if err := b.admit(ctx, c, q, r); err != nil {
			return api.Restored{}, err
		}
	}
	err = c.Aside.Settle(ctx, r)
	var warnings []string
	if err == nil {
		warnings, err = c.Copies.Own(ctx, r.As)
	}
	if err != nil {
		f := b.failure(err)
		e, _ := errors.AsType[*api.Error](f)
		return api.Restored{}, &api.Error{
			Code: e.Code, Message: fmt.Sprintf("guest %s is made, but its volumes are not ready yet: %s", r.As, e.Message),
			Hint: fmt.Sprintf("ask again with --as %s: it goes on from there", r.As),
		}
	}
	return b.restored(r, warnings), nil
}

func (b *Backend) restored(r aside.Restoration, warnings []string) api.Restored {
	out := api.Restored{
		Version: api.Version, Guest: r.As, Name: b.Book.Current().Guests[r.As].Name, Node: b.Name, From: r.Guest, Volumes: []api.RestoredVolume{},
		Warnings: some(warnings),
	}
	for _, v := range r.Volumes {
		out.Volumes = append(out.Volumes, api.RestoredVolume{Copy: v.Copy.Data.Name, Volume: v.Volume, Dataset: v.Dataset})
	}
	return out
}

// admit adds the guest to the ledger, or has the clones go where it is refused.
func (b *Backend) admit(ctx context.Context, c *Cluster, q restoreRequest, r aside.Restoration) error {
	g := b.restoredGuest(r)
	err := g.Validate()
	if err != nil {
		err = invalid("%v", err)
	} else {
		err = b.editFor(ctx, q.By, ledger.AddGuest{Guest: g, Force: q.Force})
	}
	if err == nil {
		return nil
	}
	now, known := b.Book.Current().Guests[r.As]
	e, ok := errors.AsType[*api.Error](err)
	switch {
	case known && now.Owner == b.Self && now.Has(r.Volumes[0].Volume):
		return nil // Asked twice at the same time, or before.
	case !ok || e.Code == api.CodeUnknown:
		return &api.Error{
			Code: api.CodeUnknown, Message: fmt.Sprintf("whether guest %s was added is not known: %v", r.As, err),
			Hint: fmt.Sprintf("ask again with --as %s: it goes on from there", r.As),
		}
	}
	if left := c.Aside.Undo(ctx, r); left != nil {
		return &api.Error{Code: e.Code, Message: fmt.Sprintf("%s; %v", e.Message, left), Hint: e.Hint}
	}
	return err
}

// restoredGuest has no unit and no configuration file: those of the guest that the data was of name that guest's volumes.
func (b *Backend) restoredGuest(r aside.Restoration) guest.Guest {
	g := guest.Guest{ID: r.As, Type: guest.CT, Name: "guest-" + r.Guest.String() + divergedSuffix, Owner: b.Self, Volumes: r.List()}
	for _, v := range r.Volumes {
		if v.Copy.Data.Type == zfs.TypeVolume {
			g.Type = guest.VM
		}
	}
	if old, ok := b.Book.Current().Guests[r.Guest]; ok {
		g.Type = old.Type
		if len(old.Name)+len(divergedSuffix) <= maxGuestName {
			g.Name = old.Name + divergedSuffix
		}
	}
	return g
}

const (
	divergedSuffix = "-diverged"
	maxGuestName   = 255
)

// nextID is one above the highest that a guest has.
func nextID(s *ledger.State) guest.ID {
	next := guest.MinID
	for id := range s.Guests {
		next = max(next, id+1)
	}
	return next
}
