package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/gossip"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/member"
	"github.com/tandemd/tandem/pkg/member/rules"
	"github.com/tandemd/tandem/pkg/move/promote"
	"github.com/tandemd/tandem/pkg/move/recovery"
	"github.com/tandemd/tandem/pkg/peer"
)

// recoverer is what a recovery needs of this node.
type recoverer struct{ c *cluster }

// Points tells what this node has of a guest: complete points that its owner had, and
// what it has besides.
func (r recoverer) Points(ctx context.Context, g guest.Guest) recovery.Word {
	c := r.c
	held, err := c.promoter.Points(ctx, c.d.book.Current().Cluster, g)
	var w recovery.Word
	if err != nil {
		w.Trouble = err.Error()
	}
	for _, h := range held {
		if h.Diverged {
			w.Newer = append(w.Newer, fmt.Sprintf("diverged data: the point %s", h.Name))
			continue
		}
		w.Points = append(w.Points, recovery.Point{Name: h.Name, GUIDs: h.GUIDs, Taken: h.Taken, Left: h.Left})
	}
	if len(w.Points) > 0 {
		r.dated(ctx, g, &w)
		w.Newer = append(w.Newer, newer(held)...)
	}
	return w
}

// newer is what there is beyond the newest complete point.
func newer(held []promote.Held) []string {
	i := slices.IndexFunc(held, func(h promote.Held) bool { return !h.Diverged })
	if i < 0 {
		return nil
	}
	var out []string
	for v, n := range held[i].Newer {
		out = append(out, fmt.Sprintf("%s of volume %s newer than %s that are no complete point", api.Size(n), v, held[i].Name))
	}
	slices.Sort(out)
	return out
}

// dated adds until when the newest point is current.
func (r recoverer) dated(ctx context.Context, g guest.Guest, w *recovery.Word) {
	replicas, err := r.c.target.Replicas(ctx)
	if err != nil {
		r.c.log.Warn("until when replicas are current cannot be read", zap.Stringer("guest", g.ID), zap.Error(err))
	}
	for _, x := range replicas {
		if x.Guest == g.ID && x.Point != nil && x.Point.Name == w.Points[0].Name {
			w.Points[0].Arrived, w.Points[0].Age = x.Point.Arrived, x.Point.Age
		}
	}
}

// hearFor is how long a node has to answer.
const hearFor = 3 * time.Second

// Hears says that a node's daemon answers on the peer connection, whatever it says.
func (r recoverer) Hears(ctx context.Context, node guest.NodeID) bool {
	if node == r.c.d.id.Node {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, hearFor)
	defer cancel()
	err := r.c.d.peer.Call(ctx, node, member.PathClaim, struct{}{}, &rules.Answer{})
	_, said := errors.AsType[*peer.RemoteError](err)
	return err == nil || said || errors.Is(err, peer.ErrRefused)
}

// DownSince is when gossip last had the node alive.
func (r recoverer) DownSince(node guest.NodeID) time.Time {
	if m, ok := r.c.gossip.Member(node); ok && m.State != gossip.Alive {
		return m.Since
	}
	return time.Time{}
}

// Conflict is why no owner may be changed: two generations went on apart, and nobody
// has decided yet.
func (r recoverer) Conflict() string {
	return r.c.d.book.Current().Named(r.c.convener.Status().Alarm)
}

// Fences says that there is a fence command.
func (r recoverer) Fences() bool { return r.c.d.conf.FenceCommand != "" }

// Fence runs the fence command with the node's name; it must exit with 0.
func (r recoverer) Fence(ctx context.Context, node guest.NodeName) error {
	conf := r.c.d.conf
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Duration(conf.FenceTimeout))
	defer cancel()
	cmd := exec.CommandContext(ctx, conf.FenceCommand, string(node))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second // A child that it left behind may hold the pipe.
	r.c.log.Info("fencing a node", zap.String("node", string(node)), zap.String("command", conf.FenceCommand))
	err := cmd.Run()
	if err != nil {
		said := strings.TrimSpace(out.String())
		if ctx.Err() != nil {
			err = fmt.Errorf("it did not end within %s", time.Duration(conf.FenceTimeout))
		}
		if said != "" {
			err = fmt.Errorf("%w: %s", err, said[max(0, len(said)-500):])
		}
		return fmt.Errorf("%s %s: %w", conf.FenceCommand, node, err)
	}
	return nil
}
