package replicate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/plan"
	"github.com/tandemd/tandem/pkg/replicate/fault"
	"github.com/tandemd/tandem/pkg/replicate/wire"
	"github.com/tandemd/tandem/pkg/zfs"
)

// perform does the steps of all volumes, some volumes side by side. A volume that
// fails does not stop the others: what they send now need not be sent later.
func (r *run) perform(ctx context.Context, p plan.Plan) error {
	var wg sync.WaitGroup
	turns := make(chan struct{}, r.s.o.Streams)
	errs := make([]error, len(p.Volumes))
	for i, v := range p.Volumes {
		wg.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			errs[i] = r.volume(ctx, v)
		})
	}
	wg.Wait()
	return fault.Worst(errs)
}

func (r *run) volume(ctx context.Context, v plan.VolumePlan) error {
	r.note(func() {
		res := r.volumeResult(v.Volume)
		if v.Base != nil && res.Base == "" {
			res.Base = v.Base.Name
		}
		if len(v.Steps) > 0 {
			res.Kind = kindOf(v, res.Kind)
		}
	})
	for _, step := range v.Steps {
		if err := context.Cause(ctx); err != nil {
			return fault.Retry("", "the run was ended: %v", err)
		}
		r.log("%s: %s", v.Volume, describe(step))
		if err := r.step(ctx, v.Volume, step); err != nil {
			return fault.WrapVolume(v.Volume, err, "%s", step.Verb)
		}
		r.note(func() { r.volumeResult(v.Volume).Steps++ })
	}
	return nil
}

// kindOf is what the volume's part is; a resumed full stream stays "resumed".
func kindOf(v plan.VolumePlan, before Kind) Kind {
	switch {
	case before == KindResumed || before == KindFull:
		return before
	case v.Steps[0].Verb == plan.Resume:
		return KindResumed
	case v.Steps[0].Verb == plan.Abort, v.Steps[0].Verb == plan.SetAside, v.Steps[0].Verb == plan.Promote:
		return before
	case v.Base == nil:
		return KindFull
	default:
		return KindIncremental
	}
}

func describe(s plan.Step) string {
	switch s.Verb {
	case plan.Full:
		return fmt.Sprintf("send %s whole: %s", s.To.Name, s.Reason)
	case plan.Single, plan.Run:
		return fmt.Sprintf("send %s to %s (%d snapshots): %s", s.From.Name, s.To.Name, len(s.Arrivals), s.Reason)
	case plan.Branch:
		return fmt.Sprintf("send %s to %s: %s", s.From.Name, s.To.Name, s.Reason)
	case plan.Resume, plan.Abort, plan.SetAside, plan.Promote:
		return s.Reason
	}
	return s.Reason
}

func (r *run) step(ctx context.Context, v guest.Volume, step plan.Step) error {
	if step.Verb == plan.SetAside || step.Verb == plan.Promote {
		return r.aside(ctx, v, step)
	}
	if step.Verb == plan.Abort {
		req := wire.AbortRequest{Request: r.request(), Volume: v, Token: step.Token}
		return r.s.call(ctx, r.job.Target, wire.PathAbort, req, &wire.AbortReply{})
	}
	i := slices.Index(r.guest.Volumes, v)
	header := wire.ReceiveHeader{
		Request: r.request(), Volume: v, Kind: r.pairs[i].Source.Kind, Verb: step.Verb,
		From: step.From.GUID, To: step.To, Token: step.Token, Nature: r.nature(i),
	}
	reply, err := r.stream(ctx, v, header, sendSpec(r.names[i], step))
	if err != nil {
		return err
	}
	if reply.Warning != "" {
		r.warn("%s: %s", r.target, reply.Warning)
	}
	if reply.Newest.GUID != step.To.GUID {
		return fault.Retry("the next run finds out what the target has", "%s was sent with GUID %d, but the target's newest snapshot is %s with %d",
			step.To.Name, step.To.GUID, reply.Newest.Name, reply.Newest.GUID)
	}
	return nil
}

func sendSpec(dataset string, step plan.Step) zfs.SendSpec {
	if step.Verb == plan.Resume {
		return zfs.SendSpec{Token: step.Token, Dataset: dataset}
	}
	spec := zfs.SendSpec{Snapshot: dataset + "@" + step.To.Name, Intermediates: step.Verb == plan.Run, Raw: step.Raw}
	switch {
	case step.Verb == plan.Full:
	case step.From.Bookmark:
		spec.From = dataset + "#" + step.From.Name
	default:
		spec.From = dataset + "@" + step.From.Name
	}
	return spec
}

// stream carries one zfs send to the target. Of two failures the first cause is
// reported: a receiver's before that of a send that lost its reader.
func (r *run) stream(ctx context.Context, v guest.Volume, header wire.ReceiveHeader, spec zfs.SendSpec) (wire.ReceiveReply, error) {
	var reply wire.ReceiveReply
	sink, err := r.s.link.Open(ctx, r.job.Target, header, r.task.Limiter)
	if err != nil {
		return reply, fault.Wrap(err, "open a stream to %s", r.target)
	}
	if header.Verb == plan.Resume {
		r.tried(v)
	}
	out, err := r.s.o.ZFS.Send(ctx, spec)
	if err != nil {
		sink.Abort(err)
		return reply, err
	}
	pace := r.watch(v)
	defer pace.stop(r)
	in := &counted{r: out, add: func(n int) { r.sent(v, n) }, at: func(reading bool, n int) { pace.at(r, v, reading, n) }}
	_, err = io.Copy(sink, in)
	_ = out.Close()
	switch {
	case in.failed != nil:
		sink.Abort(in.failed)
		return reply, in.failed
	case err != nil:
		sink.Abort(err)
		return reply, fault.Wrap(err, "%s", r.target)
	}
	if err := out.Wait(); err != nil {
		sink.Abort(err)
		return reply, err
	}
	if err := sink.Finish(&reply); err != nil {
		return reply, fault.Wrap(err, "%s", r.target)
	}
	return reply, nil
}

// counted counts what is read and keeps the reader's own failure apart from the writer's.
type counted struct {
	r      io.Reader
	add    func(int)
	at     func(reading bool, n int)
	failed error
}

func (c *counted) Read(p []byte) (int, error) {
	c.at(true, 0)
	n, err := c.r.Read(p)
	c.at(false, n)
	if n > 0 {
		c.add(n)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		c.failed = err
	}
	return n, err
}

func (r *run) note(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
}

// warn notes what an operator should know, once however often the run looks again.
func (r *run) warn(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	r.note(func() {
		if !slices.Contains(r.result.Warnings, text) {
			r.result.Warnings = append(r.result.Warnings, text)
		}
	})
}

func (r *run) warnings(p plan.Plan) {
	for _, w := range p.Warnings {
		if w.Volume == (guest.Volume{}) {
			r.warn("%s", w.Text)
			continue
		}
		r.warn("volume %s: %s", w.Volume, w.Text)
	}
}

func (r *run) log(format string, args ...any) {
	if r.task.Log != nil {
		r.note(func() { r.task.Log(fmt.Sprintf(format, args...)) })
	}
}

// volumeResult is the volume's part of the result. The caller holds the lock.
func (r *run) volumeResult(v guest.Volume) *VolumeResult {
	if r.volumes[v] == nil {
		r.volumes[v] = &VolumeResult{Volume: v, Kind: KindNothing}
	}
	return r.volumes[v]
}

func (r *run) phase(p Phase, total uint64) {
	r.note(func() {
		r.progress.Phase = p
		if total > 0 {
			r.progress.Total = r.progress.Bytes + total
		}
		r.tell()
	})
}

// tellEvery is the least time between two reports of bytes.
const tellEvery = 500 * time.Millisecond

func (r *run) sent(v guest.Volume, n int) {
	r.note(func() {
		r.volumeResult(v).Bytes += uint64(n)
		r.progress.Bytes += uint64(n)
		r.result.Bytes += uint64(n)
		if since := r.s.o.Now().Sub(r.told); since >= tellEvery || since < 0 { // a clock may be set back
			r.tell()
		}
	})
}

// tell reports progress. The caller holds the lock.
func (r *run) tell() {
	r.told = r.s.o.Now()
	if r.task.Progress != nil {
		r.task.Progress(r.progress)
	}
}

// finish is the result as it is now.
func (r *run) finish() Result {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.result
	if out.Kind == "" {
		out.Kind = KindIncremental
	}
	for _, v := range r.guest.Volumes {
		res := *r.volumeResult(v)
		out.Volumes = append(out.Volumes, res)
		if out.Base == "" {
			out.Base = res.Base
		}
		switch {
		case res.Kind == KindFull:
			out.Kind = KindFull
		case res.Kind == KindResumed && out.Kind != KindFull:
			out.Kind = KindResumed
		}
	}
	if out.Kind == KindFull {
		out.Base = ""
	}
	return out
}
