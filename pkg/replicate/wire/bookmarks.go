package wire

import (
	"fmt"

	"github.com/tandemd/tandem/pkg/plan"
	"github.com/tandemd/tandem/pkg/zfs/zname"
)

// InventoryBookmarks are those of an InventoryVolume that Tandem made.
type InventoryBookmarks struct {
	Bookmarks []InventoryBookmark `json:"bookmarks,omitempty"`
}

// InventoryBookmark is one bookmark at the target.
type InventoryBookmark struct {
	Name string `json:"name"`
	GUID uint64 `json:"guid"`
	TXG  uint64 `json:"txg"`
}

// CommitBookmarks is what a commit does to the bookmarks of one volume.
type CommitBookmarks struct {
	// Bookmark are the GUIDs of those to delete of which a bookmark is made first.
	Bookmark []uint64 `json:"bookmark,omitempty"`
	// Unbookmark are names of bookmarks that nobody needs.
	Unbookmark []string `json:"unbookmark,omitempty"`
}

func (b InventoryBookmarks) validate() error {
	if len(b.Bookmarks) > maxSnapshots {
		return fmt.Errorf("%d bookmarks: more than %d", len(b.Bookmarks), maxSnapshots)
	}
	for _, x := range b.Bookmarks {
		if err := zname.Own(x.Name); err != nil {
			return err
		}
	}
	return nil
}

func (b InventoryBookmarks) planned() []plan.Bookmark {
	var out []plan.Bookmark
	for _, x := range b.Bookmarks {
		out = append(out, plan.Bookmark{Name: x.Name, GUID: x.GUID, TXG: x.TXG})
	}
	return out
}

func (c CommitBookmarks) validate() error {
	if n := len(c.Bookmark) + len(c.Unbookmark); n > maxSnapshots {
		return fmt.Errorf("%d bookmarks: more than %d", n, maxSnapshots)
	}
	for _, name := range c.Unbookmark {
		if err := zname.Own(name); err != nil {
			return err
		}
	}
	return nil
}
