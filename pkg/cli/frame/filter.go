package frame

import (
	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/guest"
)

// Filter reads --guest and --node; what is empty filters nothing.
func Filter(guestID, node string) (f api.Filter, err error) {
	if guestID != "" {
		if f.Guest, err = guest.ParseID(guestID); err != nil {
			return f, Invalid(err)
		}
	}
	if node != "" {
		f.Node, err = guest.ParseNodeName(node)
	}
	return f, Invalid(err)
}
