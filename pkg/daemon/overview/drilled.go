package overview

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/guest"
)

// failedDrills warns of replicas that failed their last drill.
func (o *Overview) failedDrills(all map[guest.ID]api.Drilled) (out []string) {
	for _, id := range slices.Sorted(maps.Keys(all)) {
		if d := all[id]; !d.Failed.IsZero() {
			out = append(out, fmt.Sprintf(
				"node %s: the replica of guest %s failed its drill at %s (%s): %s. See `tandem guest drill %s --list`; a drill that passes ends this warning",
				o.Name, id, d.Failed.UTC().Format(time.RFC3339), d.FailedPoint, d.Error, id))
		}
	}
	return out
}
