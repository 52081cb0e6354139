package verify

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/replicate/fault"
	"github.com/tandemd/tandem/pkg/replicate/watched"
)

// over is a session that has ended.
type over struct {
	why error
	at  time.Time
}

// ended is what an owner is told whose session is none any more; why is nil where
// nobody remembers.
func (s *Server) ended(why error) error {
	if why == nil {
		why = errors.New("the daemon was restarted there, or it is long ago")
	}
	return fault.Retry("begin it again", "the verification was ended on %s: %s", s.o.Name, why)
}

// Attend says that the owner still wants its session, or why there is none any more.
func (s *Server) Attend(_ context.Context, from guest.NodeID, req AttendRequest) (Attended, error) {
	_, err := s.session(from, req.Session)
	return Attended{}, err
}

// End ends a session; one that is not there is no error.
func (s *Server) End(_ context.Context, from guest.NodeID, req EndRequest) (Ended, error) {
	s.end(sessionKey{from, req.Session}, errors.New("its owner ended it"))
	return Ended{}, nil
}

func (s *Server) end(key sessionKey, why error) {
	s.mu.Lock()
	x := s.sessions[key]
	delete(s.sessions, key)
	if x != nil {
		s.remember(key, why)
	}
	s.mu.Unlock()
	if x != nil {
		x.close(why)
	}
}

// over is why the session has ended; nil while it goes on.
func (x *session) over() error { return context.Cause(x.life) }

func (x *session) close(why error) {
	x.lease.Stop()
	x.cancel(why)
	x.turn <- struct{}{}
	defer func() { <-x.turn }()
	if x.reading != nil {
		_ = x.reading.Close() // Sweep takes away what is left.
		x.reading = nil
	}
	x.release()
}

// remember keeps why a session was ended as long as its owner may ask. The caller
// holds the lock.
func (s *Server) remember(key sessionKey, why error) {
	now := s.o.Now()
	for k, o := range s.over {
		if age := now.Sub(o.at); age < 0 || age > sessionLease {
			delete(s.over, k)
		}
	}
	s.over[key] = over{why: why, at: now}
}

// Aside is why what is read of a replica is ended that is set aside.
func Aside(v guest.Volume, why string) error {
	return fmt.Errorf("the replica of volume %s is set aside, because %s; the next sync makes it anew", v, cmp.Or(why, "it diverged"))
}

// EndGuest ends what is read of a guest's replicas here, because they go or another
// takes their place, and waits until nothing reads them any more, or ctx ends.
func (s *Server) EndGuest(ctx context.Context, id guest.ID, why error) {
	select {
	case <-s.endAll(func(x *session) bool { return x.guest.ID == id }, why):
	case <-ctx.Done():
	}
}

// Learn ends what is read of guests that have another owner by now: the replica may be
// the guest's own volume. It does not wait.
func (s *Server) Learn(view *ledger.State) {
	s.endAll(func(x *session) bool { return moved(view, x.guest) }, errOwner)
}

// moved says that the ledger has another owner of the guest, or none.
func moved(view *ledger.State, g guest.Guest) bool {
	now, ok := view.Guests[g.ID]
	return !ok || now.Term != g.Term
}

// Close ends all, and nothing begins any more.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	<-s.endAll(func(*session) bool { return true }, watched.ErrStopped)
	s.wg.Wait()
}

// endAll ends sessions at once, and tells when nothing is read for them any more.
func (s *Server) endAll(which func(*session) bool, why error) (ended <-chan struct{}) {
	done := make(chan struct{})
	s.mu.Lock()
	defer s.mu.Unlock()
	var keys []sessionKey
	for key, x := range s.sessions {
		if which(x) {
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		close(done)
		return done
	}
	s.wg.Go(func() {
		defer close(done)
		var wg sync.WaitGroup
		for _, key := range keys {
			wg.Go(func() { s.end(key, why) })
		}
		wg.Wait()
	})
	return done
}
