package local

import (
	"context"
	"slices"

	"github.com/tandemd/tandem/pkg/plan"
	"github.com/tandemd/tandem/pkg/zfs"
)

// Spare is how a snapshot that nobody needs is destroyed, with a bookmark of it
// where a target that is away needs one. It is false where that cannot have its
// name: then the snapshot stays.
func Spare(d zfs.Dataset, ref plan.Ref, bookmark bool) (zfs.Spare, bool) { //nolint:revive // flag-parameter: it is the verdict
	s := zfs.Spare{Ref: zfs.Ref{Name: ref.Name, GUID: ref.GUID}}
	name := plan.BookmarkName(ref.GUID)
	if !bookmark || slices.ContainsFunc(d.Bookmarks, func(b zfs.Bookmark) bool { return b.Name == name && b.GUID == ref.GUID }) {
		return s, true
	}
	s.Bookmark = name
	return s, len(d.Name)+1+len(name) <= plan.MaxName
}

// DropBookmark destroys a bookmark by its full name. That it is gone is as good.
func DropBookmark(ctx context.Context, z interface {
	DestroyBookmark(ctx context.Context, bookmark string) error
}, full string,
) error {
	err := z.DestroyBookmark(ctx, full)
	if zfs.ClassOf(err) == zfs.ClassGone {
		return nil
	}
	return err
}
