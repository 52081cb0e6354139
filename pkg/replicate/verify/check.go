package verify

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/plan"
	"github.com/tandemd/tandem/pkg/replicate/fault"
	"github.com/tandemd/tandem/pkg/replicate/local"
	"github.com/tandemd/tandem/pkg/replicate/verify/content"
	"github.com/tandemd/tandem/pkg/replicate/verify/reading"
	"github.com/tandemd/tandem/pkg/replicate/wire"
	"github.com/tandemd/tandem/pkg/zfs"
)

// run compares, and records what it found.
func (c *check) run(ctx context.Context) {
	res := Result{Target: c.job.Target, Started: c.now().Started}
	err := c.compare(ctx, &res)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = fault.Retry("", "%s", cause.Error())
	}
	res.Ended, res.Bytes = c.v.o.Now(), c.now().Bytes
	res.conclude(err)
	if err := c.v.record(c.job.ID, c.guest.Term, res); err != nil {
		c.v.log.Error("what a verification found cannot be kept", zap.Stringer("job", c.job.ID), zap.Error(err))
	}
	c.v.log.Info("a replica was verified", zap.Stringer("job", c.job.ID), zap.String("outcome", string(res.Outcome)),
		zap.String("point", res.Point), zap.String("error", res.Error))
	if err := c.v.carry(context.WithoutCancel(ctx), c.view, c.job); err != nil {
		c.v.log.Debug("what a verification found is not told to the target yet", zap.Stringer("job", c.job.ID), zap.Error(err))
	}
	c.note(func(s *State) { s.Result, s.Bytes = &res, res.Bytes })
}

// conclude: a difference that was found is one, whatever failed besides.
func (r *Result) conclude(err error) {
	r.Outcome = Equal
	for _, v := range r.Volumes {
		switch {
		case len(v.Differences) > 0:
			r.Outcome = Differs
		case !v.Compared && r.Outcome == Equal:
			r.Outcome = Failed
			if v.Problem != nil && err == nil {
				err = &fault.Error{Class: fault.ClassPerson, Volume: v.Volume, Text: "not compared: " + v.Problem.Reason, Hint: v.Problem.Hint}
			}
		}
	}
	if err != nil {
		r.Error, r.Hint = err.Error(), fault.HintOf(err)
		if r.Outcome == Equal {
			r.Outcome = Failed
		}
	}
}

func (c *check) compare(ctx context.Context, res *Result) error {
	points, own, unpin, err := c.points(ctx)
	if err != nil {
		return err
	}
	defer func() { unpin() }()
	name := make([]byte, 8)
	if _, err := rand.Read(name); err != nil {
		return err
	}
	session := hex.EncodeToString(name)
	c.session = session
	err = c.call(ctx, PathBegin, BeginRequest{
		Request: wire.Request{Version: wire.Version, Job: c.job.ID, Term: c.guest.Term, Index: c.view.Index},
		Session: session, Points: points, Rate: c.mbs,
	}, &c.begun)
	if err != nil {
		return fault.Wrap(err, "ask %s to let its replica be compared", c.target)
	}
	defer c.end(ctx)
	defer c.attend(ctx)()
	point, err := chosen(points, c.begun)
	if err != nil {
		return fault.Never("", "%s: %v", c.target, err)
	}
	unpin = c.only(point, unpin)
	res.Point = point.Name
	total := uint64(0)
	for _, v := range point.Volumes {
		total += size(own[v.Volume])
	}
	c.note(func(s *State) { s.Point, s.Total = point.Name, total })
	for _, v := range point.Volumes {
		vol := VolumeResult{Volume: v.Volume, Kind: plan.Kind(own[v.Volume].Type)}
		err := c.volume(ctx, v, own[v.Volume], &vol)
		res.Volumes = append(res.Volumes, vol)
		if err != nil {
			return err
		}
	}
	return nil
}

// points are this node's complete ones, the newest first, and kept from now on.
func (c *check) points(ctx context.Context) (points []Point, own map[guest.Volume]zfs.Dataset, unpin func(), err error) {
	wait, cancel := context.WithTimeout(ctx, c.v.o.LockWait)
	defer cancel()
	release, err := c.v.o.Locks.Lock(wait, local.GuestLock(c.guest.ID))
	if err != nil {
		return nil, nil, nil, err
	}
	defer release()
	list, err := c.v.o.ZFS.List(ctx, c.names...)
	if err != nil {
		return nil, nil, nil, fault.Wrap(err, "list the volumes of guest %s", c.guest.ID)
	}
	own = map[guest.Volume]zfs.Dataset{}
	sides := map[guest.Volume][]plan.Snapshot{}
	for i, v := range c.guest.Volumes {
		if list[i].Err != nil {
			return nil, nil, nil, fault.WrapVolume(v, list[i].Err, "read it")
		}
		own[v], sides[v] = list[i], local.Side(c.names[i], list[i]).Snapshots
	}
	pins := map[guest.Volume][]uint64{}
	for _, p := range plan.Points(sides) {
		if !p.Complete() || len(points) == maxPoints {
			continue
		}
		x := Point{Name: p.Name}
		for _, v := range c.guest.Volumes {
			if s, ok := p.Snapshots[v]; ok {
				x.Volumes = append(x.Volumes, PointVolume{Volume: v, GUID: s.GUID})
				pins[v] = append(pins[v], s.GUID)
			}
		}
		points = append(points, x)
	}
	if len(points) == 0 {
		return nil, nil, nil, fault.Retry("run the job first, then verify", "guest %s has no point yet", c.guest.ID)
	}
	return points, own, c.v.o.Pins.Pin(c.guest.ID, pins), nil
}

// only keeps the point that is compared, and lets the others go.
func (c *check) only(p Point, unpin func()) (release func()) {
	pins := map[guest.Volume][]uint64{}
	for _, v := range p.Volumes {
		pins[v.Volume] = []uint64{v.GUID}
	}
	release = c.v.o.Pins.Pin(c.guest.ID, pins)
	unpin()
	return release
}

// chosen is the point that the target has named.
func chosen(points []Point, begun BeginReply) (Point, error) {
	for _, p := range points {
		if p.Name == begun.Point {
			return p, nil
		}
	}
	return Point{}, fmt.Errorf("it wants to compare %q, which it was not offered", begun.Point)
}

func size(d zfs.Dataset) uint64 {
	if d.Type == zfs.TypeVolume {
		return d.VolSize
	}
	return d.Referenced
}

// volume compares one volume.
func (c *check) volume(ctx context.Context, v PointVolume, own zfs.Dataset, out *VolumeResult) error {
	if p, ok := unreadable(own, c.v.o.Name); ok {
		out.Problem = &p
		return nil
	}
	if p, ok := c.begun.Problems[v.Volume]; ok {
		out.Problem = &p
		return nil
	}
	if kind := c.begun.Kinds[v.Volume]; kind != out.Kind {
		out.Add(content.Difference{What: []string{content.Type}})
		out.Compared = true
		return nil
	}
	r, err := c.v.reader.Open(ctx, reading.Spec{
		Guest: c.guest.ID, Cluster: c.view.Cluster, Volume: v.Volume, Type: own.Type, Name: c.now().Point, GUID: v.GUID, Limiter: limiter(c.mbs),
	})
	if err != nil {
		return err
	}
	c.note(func(s *State) { s.Volume, c.reading = v.Volume, r })
	source := func() (content.Entry, bool, error) {
		e, ok, err := r.Next(ctx)
		return e, ok, fault.WrapVolume(v.Volume, err, "read it here")
	}
	err = content.Compare(source, c.remote(ctx, v.Volume, out.Kind), out.Add)
	out.Compared = err == nil
	left := r.Close()
	c.note(func(s *State) {
		c.before += r.Bytes.Load()
		s.Bytes, c.reading = c.before, nil
	})
	if left != nil {
		c.v.log.Warn("a clone is left of a verification; it is tried again to take it away", zap.Error(left))
	}
	return err
}

// remote gives what the target tells of a volume.
func (c *check) remote(ctx context.Context, v guest.Volume, kind plan.Kind) content.Next {
	var reply ReadReply
	from := 0
	return func() (content.Entry, bool, error) {
		for len(reply.Entries) == 0 {
			if reply.Done {
				return content.Entry{}, false, nil
			}
			reply = ReadReply{}
			if err := c.ask(ctx, ReadRequest{Session: c.session, Volume: v, From: from}, &reply); err != nil {
				return content.Entry{}, false, fault.WrapVolume(v, err, "%s", c.target)
			}
			if err := reply.Validate(kind); err != nil {
				return content.Entry{}, false, fault.Never("", "volume %s: %s tells %v", v, c.target, err)
			}
			from += len(reply.Entries)
		}
		e := reply.Entries[0]
		reply.Entries = reply.Entries[1:]
		return e, true, nil
	}
}

const (
	// askAgain is between two tries of a question whose answer was lost, askFor how
	// long they go on: the target waits a little longer.
	askAgain = 2 * time.Second
	askFor   = 60 * time.Second
)

// ask asks for entries until there is an answer: a lost one is told again.
func (c *check) ask(ctx context.Context, req ReadRequest, reply *ReadReply) error {
	trying, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	for {
		err := c.call(ctx, PathRead, req, reply)
		var coded interface{ ErrorCode() string }
		if err == nil || ctx.Err() != nil || errors.As(err, &coded) {
			return err
		}
		again := time.NewTimer(askAgain)
		select {
		case <-again.C:
		case <-trying.Done():
			again.Stop()
			return err
		}
	}
}

func (c *check) call(ctx context.Context, path string, req, reply any) error {
	ctx, cancel := context.WithTimeout(ctx, c.v.o.CallTimeout)
	defer cancel()
	return c.v.link.Call(ctx, c.job.Target, path, req, reply)
}

// attendEvery is how often the target hears, and says, that the session goes on.
const attendEvery = 2 * time.Second

// attend keeps the session where this node's own disk is slow, and ends the
// verification once the target has ended it, until stop is called.
func (c *check) attend(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		every := time.NewTicker(attendEvery)
		defer every.Stop()
		for {
			select {
			case <-every.C:
			case <-ctx.Done():
				return
			}
			err := c.call(ctx, PathAttend, AttendRequest{Session: c.session}, &Attended{})
			var coded interface{ ErrorCode() string }
			if errors.As(err, &coded) && ctx.Err() == nil {
				c.End(fmt.Errorf("%s: %w", c.target, err))
				return
			}
		}
	})
	return func() {
		cancel()
		wg.Wait()
	}
}

// endPatience is how long a target has to hear that it may stop. It stops by
// itself where it does not hear it.
const endPatience = 5 * time.Second

func (c *check) end(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endPatience)
	defer cancel()
	if err := c.v.link.Call(ctx, c.job.Target, PathEnd, EndRequest{Session: c.session}, &Ended{}); err != nil {
		c.v.log.Debug("the target was not told that a verification has ended", zap.Error(err))
	}
}
