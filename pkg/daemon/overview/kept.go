package overview

import (
	"context"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/replicate"
)

// Kept are the replicas of this node to which no job points. What could not be read is an error beside the others.
func (o *Overview) Kept(ctx context.Context) ([]api.KeptCopy, error) {
	replicas, err := o.Target.Replicas(ctx)
	return o.kept(replicas), err
}

func (o *Overview) kept(replicas []replicate.ReplicaStatus) []api.KeptCopy {
	var out []api.KeptCopy
	s := o.Book.Current()
	for _, r := range replicas {
		g, known := s.Guests[r.Guest]
		if !r.Kept || known && g.Owner == o.Self { // A guest that has just come here is about to use them.
			continue
		}
		k := api.KeptCopy{Node: o.Name, Guest: r.Guest, Volumes: []api.KeptVolume{}, Unfinished: r.Unfinished}
		for _, v := range r.Volumes {
			k.Volumes = append(k.Volumes, api.KeptVolume{Volume: v.Volume, Dataset: v.Dataset, Used: v.Used})
			k.Used += v.Used
		}
		if known {
			k.Owner, k.Only = guest.NodeName(s.NameOf(g.Owner)), len(s.JobsOf(g.ID)) == 0
		}
		if r.Point != nil {
			k.Point = r.Point.Name
			if now := o.Now(); !r.Point.Arrived.After(now.Add(clockSlack)) {
				age := r.Point.Lag(now).Seconds()
				k.Age = &age
			}
		}
		out = append(out, k)
	}
	return out
}
