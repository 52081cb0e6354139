package backend

import (
	"context"
	"fmt"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/daemon/overview"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
)

// checkStorages asks a target whether its storages can take the volumes. One that
// does not answer is no reason to refuse; the warnings say so. What names the
// thing that needs it.
func (b *Backend) checkStorages(ctx context.Context, what string, target ledger.Member, volumes []guest.Volume) (warnings []string, err error) {
	var storages []api.Storage
	if target.ID == b.Self {
		storages = b.Storages.Look(ctx)
	} else {
		ctx, cancel := context.WithTimeout(ctx, overview.ReportTimeout)
		defer cancel()
		if err := b.Peers.Call(ctx, target.ID, pathStorages, struct{}{}, &storages); err != nil {
			return []string{fmt.Sprintf("node %s did not answer, so its storages were not checked: %v", target.Name, err)}, nil
		}
	}
	broken := map[string]string{}
	for _, s := range storages {
		broken[s.Name] = s.Error
	}
	for _, v := range volumes {
		if why := broken[v.Storage]; why != "" {
			return nil, &api.Error{
				Code:    api.CodeRefused,
				Message: fmt.Sprintf("%s: storage %s of node %s, which volume %s needs, cannot be used: %s", what, v.Storage, target.Name, v, why),
				Hint:    fmt.Sprintf("make the dataset on %s, or correct [storages] in its configuration", target.Name),
			}
		}
	}
	return nil, nil
}
