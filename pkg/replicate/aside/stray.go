package aside

import (
	"strings"

	"github.com/tandemd/tandem/pkg/zfs"
)

// Stray says that a hold on a snapshot of a replica was for a copy that is not
// there any more: somebody destroyed it past Tandem. Where it was only renamed, it
// is still a clone, and ZFS keeps what it depends on.
func Stray(hold string, replica zfs.Dataset, copies []Copy) bool {
	if !strings.HasPrefix(hold, tagPrefix) || hold == tag(replica) {
		return false
	}
	for _, c := range copies {
		if tag(c.Data) == hold {
			return false
		}
	}
	return true
}
