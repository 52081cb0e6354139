package plan

import (
	"fmt"
	"slices"

	"github.com/tandemd/tandem/pkg/guest"
)

// bookmarkPrefix begins the name of each of Tandem's bookmarks. Bookmarks carry no
// properties: the name, with the GUID in it, is their mark.
const bookmarkPrefix = "tandem_base_"

// BookmarkName is the name of the bookmark of a snapshot that is a base, by its GUID.
func BookmarkName(guid uint64) string { return fmt.Sprintf("%s%016x", bookmarkPrefix, guid) }

// Ours says that Tandem made the bookmark.
func (b Bookmark) Ours() bool { return b.GUID != 0 && b.Name == BookmarkName(b.GUID) }

// Needless are the names of those of Tandem's bookmarks of a volume that no
// target needs: it has a newer base by now, or is no target any more.
func Needless(vol guest.Volume, bookmarks []Bookmark, targets []Holding) []string {
	var out []string
	for _, b := range bookmarks {
		needed := slices.ContainsFunc(targets, func(t Holding) bool {
			return !t.Known || slices.Contains(t.Volumes[vol].Pins, b.GUID)
		})
		if b.Ours() && !needed {
			out = append(out, b.Name)
		}
	}
	return out
}
