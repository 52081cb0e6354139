package replica

import (
	"context"
	"fmt"
	"slices"

	"github.com/tandemd/tandem/pkg/replicate/local"
)

// unbookmark destroys those of Tandem's bookmarks that the owner says nobody needs.
func (c *commit) unbookmark(ctx context.Context) {
	for i, l := range c.list {
		for _, b := range local.Side(l.name, l.data).Bookmarks {
			if !b.Ours() || !slices.Contains(c.req.Volumes[i].Unbookmark, b.Name) {
				continue
			}
			if err := local.DropBookmark(ctx, c.t.o.ZFS, l.name+"#"+b.Name); err != nil {
				c.warnings = append(c.warnings, fmt.Sprintf("volume %s: the bookmark %s is left: %v", l.volume, b.Name, err))
			}
		}
	}
}
