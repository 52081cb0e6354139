package daemon

import (
	"context"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
)

// proposeTimeout bounds how long a command looks for a leader and waits for it.
const proposeTimeout = 10 * time.Second

func (c *cluster) propose(ctx context.Context, by string, op ledger.Op) error {
	ctx, cancel := context.WithTimeout(ctx, proposeTimeout)
	defer cancel()
	_, err := c.cons.Propose(ctx, ledger.Command{By: by, At: c.d.now().Unix(), Op: op})
	return err
}

// edit is propose for a cluster that runs: the book has learnt of the change when
// it returns.
func (c *cluster) edit(ctx context.Context, by string, op ledger.Op) error {
	err := c.propose(ctx, by, op)
	c.d.book.Learn(c.cons.View()) // Why it was refused is in there, too.
	return err
}

func (c *cluster) dropJob(ctx context.Context, id guest.JobID) error {
	if _, ok := c.d.book.Current().Jobs[id]; !ok {
		return nil
	}
	return c.propose(ctx, string(c.d.conf.NodeName), ledger.DropJob{ID: id})
}
