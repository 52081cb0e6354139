package movesim_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/move/migrate"
	"github.com/tandemd/tandem/pkg/move/recovery"
	"github.com/tandemd/tandem/pkg/replicate"
	"github.com/tandemd/tandem/pkg/replicate/fault"
)

// link is the network as a daemon sees it.
type link struct{ *process }

// remote is an error as it comes over the wire.
type remote struct{ code, text, hint string }

func (r *remote) Error() string     { return r.text }
func (r *remote) ErrorCode() string { return r.code }
func (r *remote) ErrorHint() string { return r.hint }

func overWire(err error) error {
	if err == nil {
		return nil
	}
	out := &remote{text: err.Error(), code: "failed", hint: replicate.HintOf(err)}
	if coded, ok := errors.AsType[interface {
		error
		ErrorCode() string
	}](err); ok {
		out.code = coded.ErrorCode()
	}
	return out
}

func convert(from, to any) error {
	b, err := json.Marshal(from)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, to)
}

var errUnreachable = errors.New("it cannot be reached")

// patience is how long a node waits for one that it cannot hear.
const patience = 5 * time.Second

// reach finds the daemon at the other end; done is to be called after the work there.
func (p *process) reach(ctx context.Context, to guest.NodeID) (q *process, done func(), err error) {
	w := p.m.w
	lost := w.chance(w.losses(), "lost")
	m := w.machine(to)
	w.mu.Lock()
	if !lost && w.alive(p.m, m) && m.daemon.ready {
		q = m.daemon
		q.wg.Add(1)
	}
	w.mu.Unlock()
	if q == nil {
		pause(ctx, patience)
		return nil, nil, errUnreachable
	}
	return q, q.wg.Done, nil
}

// hears says whether the other end can be heard still.
func (p *process) hears(q *process) bool {
	p.m.w.mu.Lock()
	defer p.m.w.mu.Unlock()
	return !p.dead && !q.dead && p.m.w.reaches(p.m.n, q.m.n)
}

// meet is a context that ends with the caller's, and with the daemon that serves it.
func (p *process) meet(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(p.ctx, func() { cancel(errKilled) })
	return ctx, func() { stop(); cancel(nil) }
}

// Call asks another node.
func (l link) Call(ctx context.Context, to guest.NodeID, path string, req, resp any) error {
	w := l.m.w
	if err := l.touch("call " + path); err != nil {
		return err
	}
	if !pause(ctx, w.upTo(20*time.Millisecond, "call")) {
		return context.Cause(ctx)
	}
	q, done, err := l.reach(ctx, to)
	if err != nil {
		return err
	}
	type answer struct {
		out any
		err error
	}
	answers := make(chan answer, 1)
	go func() {
		defer done()
		ctx, end := q.meet(ctx)
		defer end()
		var a answer
		if a.err = q.touch("called " + path); a.err == nil {
			a.out, a.err = q.serve(ctx, l.m.id, path, req)
		}
		if dead := q.touch("answer " + path); dead != nil {
			a = answer{err: dead}
		}
		answers <- a
	}()
	var a answer
	select {
	case a = <-answers:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if !l.hears(q) || w.chance(w.losses(), "answer lost") {
		pause(ctx, patience)
		return errUnreachable
	}
	if err := l.touch("answered " + path); err != nil {
		return err
	}
	if a.err != nil {
		return overWire(a.err)
	}
	if resp == nil {
		return nil
	}
	return convert(a.out, resp)
}

func handle[Req, Resp any](ctx context.Context, from guest.NodeID, in any, f func(context.Context, guest.NodeID, Req) (Resp, error)) (any, error) {
	var req Req
	if err := convert(in, &req); err != nil {
		return nil, err
	}
	return f(ctx, from, req)
}

const (
	pathCheck   = "/move/check"
	pathLanding = "/move/landing"
	pathPoints  = "/recover/points"
)

func (p *process) serve(ctx context.Context, from guest.NodeID, path string, req any) (any, error) {
	switch path {
	case replicate.PathInventory:
		return handle(ctx, from, req, p.target.Inventory)
	case replicate.PathAbort:
		return handle(ctx, from, req, p.target.Abort)
	case replicate.PathCommit:
		return handle(ctx, from, req, p.target.Commit)
	case replicate.PathAside:
		return handle(ctx, from, req, p.target.Aside)
	case replicate.PathRemove:
		return handle(ctx, from, req, p.target.Remove)
	case pathCheck:
		return handle(ctx, from, req, p.couldStart)
	case pathLanding:
		return handle(ctx, from, req, p.landed)
	case pathPoints:
		return handle(ctx, from, req, p.points)
	default:
		return nil, fmt.Errorf("there is no call %s", path)
	}
}

type sink struct {
	l    link
	to   *process
	w    *io.PipeWriter
	done chan struct{}
	out  replicate.ReceiveReply
	err  error
}

// Open starts a stream.
func (l link) Open(ctx context.Context, to guest.NodeID, header any, _ *rate.Limiter) (replicate.Sink, error) {
	var h replicate.ReceiveHeader
	if err := convert(header, &h); err != nil {
		return nil, err
	}
	if err := l.touch("open " + h.Volume.Name); err != nil {
		return nil, err
	}
	q, done, err := l.reach(ctx, to)
	if err != nil {
		return nil, err
	}
	r, w := io.Pipe()
	s := &sink{l: l, to: q, w: w, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		defer done()
		ctx, end := q.meet(ctx)
		defer end()
		defer context.AfterFunc(ctx, func() { _ = r.CloseWithError(errKilled) })()
		if s.err = q.touch("opened " + h.Volume.Name); s.err == nil {
			over := q.lets(h, l.m.id)
			s.out, s.err = q.target.Receive(ctx, l.m.id, h, r)
			over()
		}
		_ = r.CloseWithError(overWire(s.err))
	}()
	return s, nil
}

// sender is who sends into a dataset, in which term.
type sender struct {
	node  guest.NodeID
	guest guest.ID
	term  guest.Term
}

// lets notes a stream into a dataset, until the function that it returns is called.
func (p *process) lets(h replicate.ReceiveHeader, from guest.NodeID) func() {
	w, name := p.m.w, "tank/g/"+h.Volume.Name
	s := &sender{from, h.Job.Guest, h.Term}
	w.mu.Lock()
	defer w.mu.Unlock()
	p.senders[name] = append(p.senders[name], s)
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		p.senders[name] = slices.DeleteFunc(p.senders[name], func(x *sender) bool { return x == s })
	}
}

// took holds a receive that has just ended against who this machine knows as the owner.
// What it learnt in this very moment it cannot have acted on.
func (m *machine) took(dataset string) {
	w := m.w
	w.mu.Lock()
	defer w.mu.Unlock()
	p := m.daemon
	if p == nil || p.dead || len(p.senders[dataset]) == 0 {
		return
	}
	for _, s := range p.senders[dataset] {
		if g := p.view.Guests[s.guest]; g.Owner == s.node && g.Term == s.term || p.learnt[g.ID].Equal(time.Now()) {
			return
		}
	}
	s := p.senders[dataset][0]
	g := p.view.Guests[s.guest]
	w.judge.blame("%s took data of guest %s from %s at term %d, and knew that it is %s's at term %d",
		m.name, g.ID, w.machine(s.node).name, s.term.N, w.machine(g.Owner).name, g.Term.N)
}

// Write sends a part of it.
func (s *sink) Write(b []byte) (int, error) {
	if err := s.l.touch("send"); err != nil {
		return 0, err
	}
	time.Sleep(s.l.m.w.upTo(3*time.Millisecond, "send"))
	if !s.l.hears(s.to) {
		_ = s.w.CloseWithError(io.ErrUnexpectedEOF)
		return 0, errUnreachable
	}
	if err := s.to.touch("got"); err != nil {
		_ = s.w.CloseWithError(io.ErrUnexpectedEOF)
		return 0, errUnreachable
	}
	return s.w.Write(b)
}

// Finish ends it, and waits for what the other side says.
func (s *sink) Finish(result any) error {
	_ = s.w.Close()
	<-s.done
	switch {
	case !s.l.hears(s.to):
		return errUnreachable
	case s.err != nil:
		return overWire(s.err)
	}
	if err := s.l.touch("finished"); err != nil {
		return err
	}
	return convert(s.out, result)
}

// Abort cuts it.
func (s *sink) Abort(err error) {
	_ = s.w.CloseWithError(overWire(err))
	<-s.done
}

type moveQuestion struct {
	Guest   guest.ID
	Index   uint64
	Stopped bool
}

// checkMove refuses what would fail, as the daemon does.
func (p *process) checkMove(ctx context.Context, g guest.Guest, r migrate.Record) error {
	view := council{p}.View()
	p.m.w.mu.Lock()
	alive := p.m.w.alive(p.m, p.m.w.machine(r.To))
	p.m.w.mu.Unlock()
	if !alive || !p.m.w.quorate(p.m) {
		return fault.Never("", "it is not alive, or there is no majority")
	}
	if err := p.source.Claim(ctx, g.ID); err != nil {
		return err
	}
	ready, err := p.promoter.Ready(ctx, view.Cluster, g)
	if err == nil && !ready {
		err = fault.Retry("", "guest %s is not in use here yet", g.ID)
	}
	if err != nil {
		return err
	}
	return link{p}.Call(ctx, r.To, pathCheck, moveQuestion{Guest: g.ID, Index: view.Index}, nil)
}

func (p *process) couldStart(ctx context.Context, _ guest.NodeID, q moveQuestion) (struct{}, error) {
	g, ok := council{p}.View().Guests[q.Guest]
	if !ok || g.Unit == "" {
		return struct{}{}, nil
	}
	st, err := units{p}.State(ctx, g.Unit)
	if err == nil && st.Running {
		err = errors.New("the unit runs there already")
	}
	return struct{}{}, err
}

func (p *process) askLanding(ctx context.Context, r migrate.Record) (l migrate.Landing, err error) {
	err = link{p}.Call(ctx, r.To, pathLanding, moveQuestion{r.Guest, council{p}.View().Index, r.Beginning().Stopped}, &l)
	return l, err
}

func (p *process) landed(ctx context.Context, _ guest.NodeID, q moveQuestion) (l migrate.Landing, err error) {
	view := council{p}.View()
	g, ok := view.Guests[q.Guest]
	switch {
	case view.Index < q.Index:
		return migrate.Landing{Trouble: "its ledger is behind"}, nil
	case !ok || g.Owner != p.m.id:
		return l, fmt.Errorf("guest %s is not this node's", q.Guest)
	case q.Stopped || g.Unit == "":
		l.Ready, err = p.promoter.Ready(ctx, view.Cluster, g)
		return l, err
	}
	st, err := p.m.units.State(ctx, g.Unit)
	l.Ready, l.Running = st.Active == "active", st.Active == "active"
	return l, err
}

// points is what a member says when a guest is to be recovered.
func (p *process) points(ctx context.Context, _ guest.NodeID, q moveQuestion) (recovery.Word, error) {
	view := council{p}.View()
	if view.Index < q.Index {
		return recovery.Word{}, errors.New("its ledger is behind")
	}
	g := view.Guests[q.Guest]
	p.m.w.mu.Lock()
	word := recovery.Word{Hears: p.m.w.alive(p.m, p.m.w.machine(g.Owner))}
	p.m.w.mu.Unlock()
	held, err := p.promoter.Points(ctx, view.Cluster, g)
	if err != nil {
		word.Trouble = err.Error()
	}
	for _, h := range held {
		if !h.Diverged && !h.Left { // The operators here bring nothing back that was given up.
			word.Points = append(word.Points, recovery.Point{Name: h.Name, GUIDs: h.GUIDs, Taken: h.Taken})
		}
	}
	return word, nil
}
