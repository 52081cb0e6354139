package overview

import (
	"context"
	"fmt"

	"github.com/tandemd/tandem/pkg/api"
)

// setAside tells of diverged data on this node, which takes space until an
// operator discards it. What cannot be read is told with the replicas.
func (o *Overview) setAside(ctx context.Context) []string {
	copies, _ := o.Aside.All(ctx, o.Book.Current().Cluster)
	n, used := 0, uint64(0)
	for _, c := range copies {
		if len(c.Superseded) == 0 {
			n++
			used += c.Data.Used
		}
	}
	switch n {
	case 0:
		return nil
	case 1:
		return []string{fmt.Sprintf("node %s: a diverged copy of a volume was set aside and takes %s: see `tandem diverged list`", o.Name, api.Size(used))}
	default:
		return []string{fmt.Sprintf("node %s: %d diverged copies of volumes were set aside and take %s: see `tandem diverged list`", o.Name, n, api.Size(used))}
	}
}
