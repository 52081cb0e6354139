package verify

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/plan"
	"github.com/tandemd/tandem/pkg/replicate/fault"
	"github.com/tandemd/tandem/pkg/replicate/local"
	"github.com/tandemd/tandem/pkg/replicate/verify/content"
	"github.com/tandemd/tandem/pkg/replicate/verify/reading"
	"github.com/tandemd/tandem/pkg/replicate/wire"
	"github.com/tandemd/tandem/pkg/zfs"
)

// Gate says whether a request comes from the guest's owner; *replicate.Target.
type Gate interface {
	Admit(ctx context.Context, from guest.NodeID, req wire.Request) (*ledger.State, guest.Guest, error)
}

// Server is the target's side: it reads replicas for their owners and tells the
// checksums. A session that its owner forgets ends by itself.
type Server struct {
	o      local.Options
	gate   Gate
	reader *reading.Reader
	// verifier keeps what was found.
	verifier *Verifier

	wg       sync.WaitGroup
	mu       sync.Mutex
	sessions map[sessionKey]*session
	// over tells owners that ask again why their sessions were ended.
	over   map[sessionKey]over
	closed bool
}

type sessionKey struct {
	from guest.NodeID
	name string
}

// NewServer makes that of a node.
func NewServer(o local.Options, gate Gate, v *Verifier) *Server {
	return &Server{o: o, gate: gate, reader: v.reader, verifier: v, sessions: map[sessionKey]*session{}, over: map[sessionKey]over{}}
}

const (
	// sessionLease is how long a session lives without a word of its owner.
	sessionLease = 90 * time.Second
	// readWait is how long a call waits for entries.
	readWait = 2 * time.Second
)

// session is one comparison that is going on.
type session struct {
	guest   guest.Guest
	cluster string
	point   Point
	kinds   map[guest.Volume]plan.Kind
	limiter *rate.Limiter
	lease   *time.Timer
	// life ends with the session, and says why.
	life   context.Context //nolint:containedctx // see above
	cancel context.CancelCauseFunc

	// turn is held by the call that reads.
	turn chan struct{}
	// The rest belongs to whoever has the turn.
	volume  guest.Volume
	reading *reading.Reading
	last    []content.Entry // of the last answer
	told    int             // entries of the volume up to its end
	done    bool
	release func() // the pools
}

// Begin chooses the point to compare and takes the pools.
func (s *Server) Begin(ctx context.Context, from guest.NodeID, req BeginRequest) (BeginReply, error) {
	if err := req.Validate(); err != nil {
		return BeginReply{}, err
	}
	view, g, err := s.gate.Admit(ctx, from, req.Request)
	if err != nil {
		return BeginReply{}, err
	}
	x := &session{guest: g, cluster: view.Cluster, limiter: limiter(req.Rate), turn: make(chan struct{}, 1)}
	reply, err := s.choose(ctx, x, req.Points)
	if err != nil {
		return BeginReply{}, err
	}
	datasets, err := s.o.Datasets(volumesOf(x.point))
	if err != nil {
		return BeginReply{}, err
	}
	if x.release, err = s.reader.Claim(g.ID, datasets); err != nil {
		return BeginReply{}, err
	}
	x.life, x.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	key := sessionKey{from, req.Session}
	x.lease = time.AfterFunc(sessionLease, func() { s.end(key, errors.New("its owner was not heard of any more")) })
	s.mu.Lock()
	_, taken := s.sessions[key]
	refused := taken || s.closed
	if !refused {
		s.sessions[key] = x
	}
	s.mu.Unlock()
	if refused {
		x.close(errors.New("it never began"))
		return BeginReply{}, fault.Retry("", "node %s does not begin a verification now", s.o.Name)
	}
	return reply, nil
}

func volumesOf(p Point) []guest.Volume {
	var out []guest.Volume
	for _, v := range p.Volumes {
		out = append(out, v.Volume)
	}
	return out
}

// limiter holds a reading to so many MB/s.
func limiter(mbs float64) *rate.Limiter {
	if mbs == 0 {
		return nil
	}
	const piece = 1 << 20
	return rate.NewLimiter(rate.Limit(mbs*1e6), piece)
}

// choose finds the first of the points that this node has complete.
func (s *Server) choose(ctx context.Context, x *session, points []Point) (BeginReply, error) {
	names, err := s.o.Datasets(x.guest.Volumes)
	if err != nil {
		return BeginReply{}, err
	}
	list, err := s.o.ZFS.List(ctx, names...)
	if err != nil {
		return BeginReply{}, fault.Wrap(err, "list the replicas of guest %s on %s", x.guest.ID, s.o.Name)
	}
	have, found := map[guest.Volume][]plan.Snapshot{}, map[guest.Volume]zfs.Dataset{}
	for i, v := range x.guest.Volumes {
		d := list[i]
		switch {
		case d.Err != nil && zfs.ClassOf(d.Err) != zfs.ClassGone:
			return BeginReply{}, fault.WrapVolume(v, d.Err, "read it on %s", s.o.Name)
		case d.Exists() && local.MarksOf(d).Are(x.cluster, x.guest.ID, v, plan.Replica):
			have[v], found[v] = local.Side(names[i], d).Snapshots, d
		}
	}
	complete := map[string]plan.Point{}
	for _, p := range plan.Points(have) {
		if p.Complete() {
			complete[p.Name] = p
		}
	}
	for _, p := range points {
		if !holds(complete[p.Name], p) {
			continue
		}
		x.point = p
		reply := BeginReply{Point: p.Name, Kinds: map[guest.Volume]plan.Kind{}, Problems: map[guest.Volume]Problem{}}
		for _, v := range p.Volumes {
			d := found[v.Volume]
			reply.Kinds[v.Volume] = plan.Kind(d.Type)
			if problem, ok := unreadable(d, s.o.Name); ok {
				reply.Problems[v.Volume] = problem
			}
		}
		x.kinds = reply.Kinds
		return reply, nil
	}
	return BeginReply{}, fault.Retry("run the job first, then verify", "node %s has no complete point of guest %s that its owner has too", s.o.Name, x.guest.ID)
}

// holds says that a point here is that of the owner: by GUID on every volume.
func holds(here plan.Point, p Point) bool {
	for _, v := range p.Volumes {
		if s, ok := here.Snapshots[v.Volume]; !ok || v.GUID == 0 || s.GUID != v.GUID {
			return false
		}
	}
	return len(p.Volumes) == len(here.Snapshots)
}

// unreadable is why the content of a dataset cannot be read on a node.
func unreadable(d zfs.Dataset, node guest.NodeName) (Problem, bool) {
	if d.KeyStatus != "unavailable" {
		return Problem{}, false
	}
	return Problem{
		Reason: fmt.Sprintf("it is encrypted, and its key is not loaded on %s: what it holds cannot be read there", node),
		Hint:   fmt.Sprintf("load the key there (zfs load-key %s), verify, and unload it again", d.EncryptionRoot),
	}, true
}

func (s *Server) session(from guest.NodeID, name string) (*session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := sessionKey{from, name}
	x := s.sessions[key]
	if x == nil {
		return nil, s.ended(s.over[key].why)
	}
	x.lease.Reset(sessionLease)
	return x, nil
}

// Read tells what comes next of a volume. It waits a little for it.
func (s *Server) Read(ctx context.Context, from guest.NodeID, req ReadRequest) (ReadReply, error) {
	x, err := s.session(from, req.Session)
	if err != nil {
		return ReadReply{}, err
	}
	select {
	case x.turn <- struct{}{}:
	case <-ctx.Done():
		return ReadReply{}, context.Cause(ctx)
	}
	defer func() { <-x.turn }()
	reply, err := s.next(ctx, x, req)
	if why := x.over(); why != nil {
		return ReadReply{}, s.ended(why)
	}
	return reply, err
}

// next is Read for whoever has the session's turn.
func (s *Server) next(ctx context.Context, x *session, req ReadRequest) (ReadReply, error) {
	if err := x.over(); err != nil {
		return ReadReply{}, err
	}
	if err := x.turnTo(s.reader, req); err != nil {
		return ReadReply{}, err
	}
	if req.From < x.told { // The last answer was lost.
		return ReadReply{Entries: x.last, Done: x.done}, nil
	}
	wait, cancel := context.WithTimeout(ctx, readWait)
	defer cancel()
	list, done, err := x.reading.Batch(wait, maxBatch)
	if err != nil {
		return ReadReply{}, fault.WrapVolume(req.Volume, err, "read it on %s", s.o.Name)
	}
	if len(list) > 0 {
		x.last, x.told = list, x.told+len(list)
	}
	x.done = done
	return ReadReply{Entries: list, Done: done}, nil
}

// turnTo has the session read the volume that is asked for, and checks the place.
func (x *session) turnTo(r *reading.Reader, req ReadRequest) error {
	if x.reading == nil || x.volume != req.Volume {
		var v PointVolume
		for _, at := range x.point.Volumes {
			if at.Volume == req.Volume {
				v = at
			}
		}
		if v.GUID == 0 || req.From != 0 {
			return fault.Never("", "volume %s: it is not one of the point's, or not read from its beginning", req.Volume)
		}
		if x.reading != nil {
			_ = x.reading.Close() // Sweep takes away what is left.
			x.reading = nil
		}
		opened, err := r.Open(x.life, reading.Spec{
			Guest: x.guest.ID, Cluster: x.cluster, Volume: v.Volume, Type: zfs.Type(x.kinds[v.Volume]),
			Name: x.point.Name, GUID: v.GUID, Limiter: x.limiter,
		})
		if err != nil {
			return err
		}
		x.volume, x.reading, x.last, x.told, x.done = v.Volume, opened, nil, 0, false
	}
	if req.From != x.told && req.From != x.told-len(x.last) {
		return fault.Never("", "volume %s: asked for entry %d, the next is %d", req.Volume, req.From, x.told)
	}
	return nil
}
