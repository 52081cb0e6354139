package replica

import (
	"context"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/replicate/wire"
)

// Admit checks a request that reads a replica as one that changes it is checked:
// it comes from the guest's owner at the current term, and the job points here.
func (t *Target) Admit(ctx context.Context, from guest.NodeID, req wire.Request) (*ledger.State, guest.Guest, error) {
	return t.admitJob(ctx, from, req)
}
