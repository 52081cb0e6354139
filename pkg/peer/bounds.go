package peer

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/peer/stream"
)

// What keeps those who connect from using up this node: how many at a time, how
// often, how much memory.

// host is where a connection comes from, as it is counted: an IPv4 address, or the
// network of 64 bits that somebody with an IPv6 address has for himself.
type host netip.Prefix

// hostOf is zero for what is no IP address.
func hostOf(addr net.Addr) (h host, exact netip.Addr) {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return host{}, netip.Addr{}
	}
	exact = tcp.AddrPort().Addr().Unmap().WithZone("")
	bits := 64
	if exact.Is4() {
		bits = 32
	}
	prefix, err := exact.Prefix(bits)
	if err != nil {
		return host{}, exact
	}
	return host(prefix), exact
}

// slots counts what goes on at a time, in all and for each of those who share it, so
// that one cannot keep the others out.
type slots[K comparable] struct {
	mu    sync.Mutex
	free  int
	each  int
	taken map[K]int
}

func newSlots[K comparable](all, each int) *slots[K] {
	return &slots[K]{free: all, each: each, taken: map[K]int{}}
}

// take takes a place for k, if there is one, until the release.
func (s *slots[K]) take(k K) (release func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.free <= 0 || s.taken[k] >= s.each {
		return nil, false
	}
	s.free--
	s.taken[k]++
	return sync.OnceFunc(func() { s.give(k) }), true
}

func (s *slots[K]) give(k K) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free++
	if s.taken[k]--; s.taken[k] == 0 {
		delete(s.taken, k)
	}
}

// maxHosts is how many addresses are told apart at a time; further ones share what
// one of them has.
const maxHosts = 1024

// visits limits how often something happens, for each address.
type visits struct {
	limit rate.Limit
	burst int
	rest  *rate.Limiter

	mu    sync.Mutex
	hosts map[host]*rate.Limiter
}

func newVisits(perSecond float64, burst int) *visits {
	v := &visits{limit: rate.Limit(perSecond), burst: max(1, burst), hosts: map[host]*rate.Limiter{}}
	v.rest = rate.NewLimiter(v.limit, v.burst)
	return v
}

func (v *visits) allow(h host, now time.Time) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	l := v.hosts[h]
	if l == nil {
		if len(v.hosts) >= maxHosts {
			v.sweep(now)
		}
		if len(v.hosts) >= maxHosts {
			return v.rest.AllowN(now, 1)
		}
		l = rate.NewLimiter(v.limit, v.burst)
		v.hosts[h] = l
	}
	return l.AllowN(now, 1)
}

// sweep forgets those who were away long enough to have their burst again.
func (v *visits) sweep(now time.Time) {
	for h, l := range v.hosts {
		if l.TokensAt(now) >= float64(v.burst) {
			delete(v.hosts, h)
		}
	}
}

// bodies bounds the memory that the requests of one member take up while they come
// in, so that a member gone wild is alone in waiting for its turn.
type bodies struct {
	each int64

	mu     sync.Mutex
	byNode map[guest.NodeID]*semaphore.Weighted
}

func (b *bodies) of(node guest.NodeID) *semaphore.Weighted {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.byNode[node] == nil {
		b.byNode[node] = semaphore.NewWeighted(b.each)
	}
	return b.byNode[node]
}

// bounded lets a request in when there is memory for a body of its size, which is at
// most limit.
func (b *bodies) bounded(next http.Handler, limit int64) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		size := r.ContentLength
		if size < 0 || size > limit {
			size = limit
		}
		memory := b.of(Caller(r.Context()))
		wait, cancel := context.WithTimeout(r.Context(), slowestBody)
		err := memory.Acquire(wait, size)
		cancel()
		if err != nil {
			writeError(w, http.StatusServiceUnavailable, stream.Coded(CodeBusy, "too many large requests of this node at a time"))
			return
		}
		read := &readBody{ReadCloser: r.Body, done: sync.OnceFunc(func() { memory.Release(size) })}
		defer read.done()
		r.Body = read
		next.ServeHTTP(w, r)
	})
}

// readBody tells when nothing more comes.
type readBody struct {
	io.ReadCloser
	done func()
}

// Read reads on.
func (b *readBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.done()
	}
	return n, err
}

var errTooMany = errors.New("too many connections")
