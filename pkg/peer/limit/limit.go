// Package limit counts what others do to this node: how many at a time, how often,
// and what of it the log should still tell. All of it is bounded itself, whatever
// they do.
//
// It knows nothing of connections; package peer is its only caller.
package limit

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Host is where a connection comes from, as it is counted: an IPv4 address, or the
// network of 64 bits that somebody with an IPv6 address has for himself.
type Host netip.Prefix

// HostOf is where a connection comes from, and its exact address; both are zero for
// what is no TCP address.
func HostOf(addr net.Addr) (h Host, exact netip.Addr) {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return Host{}, netip.Addr{}
	}
	exact = tcp.AddrPort().Addr().Unmap().WithZone("")
	bits := 64
	if exact.Is4() {
		bits = 32
	}
	prefix, err := exact.Prefix(bits)
	if err != nil {
		return Host{}, exact
	}
	return Host(prefix), exact
}

// Slots counts what goes on at a time, in all and for each of those who share it, so
// that one cannot keep the others out.
type Slots[K comparable] struct {
	mu    sync.Mutex
	free  int
	each  int
	taken map[K]int
}

// NewSlots has room for so many in all, and of each.
func NewSlots[K comparable](all, each int) *Slots[K] {
	return &Slots[K]{free: all, each: each, taken: map[K]int{}}
}

// Take takes a place for k, if there is one, until the release.
func (s *Slots[K]) Take(k K) (release func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.free <= 0 || s.taken[k] >= s.each {
		return nil, false
	}
	s.free--
	s.taken[k]++
	return sync.OnceFunc(func() { s.give(k) }), true
}

func (s *Slots[K]) give(k K) {
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

// sweepEvery bounds what it costs to look for those that can be forgotten.
const sweepEvery = time.Second

// Visits limits how often something happens, for each address.
type Visits struct {
	limit rate.Limit
	burst int
	rest  *rate.Limiter

	mu    sync.Mutex
	hosts map[Host]*rate.Limiter
	swept time.Time
}

// NewVisits lets each address do it so often, after a burst.
func NewVisits(perSecond float64, burst int) *Visits {
	v := &Visits{limit: rate.Limit(perSecond), burst: max(1, burst), hosts: map[Host]*rate.Limiter{}}
	v.rest = rate.NewLimiter(v.limit, v.burst)
	return v
}

// Allow says whether it may happen once more now.
func (v *Visits) Allow(h Host, now time.Time) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	l := v.hosts[h]
	if l == nil {
		if len(v.hosts) >= maxHosts && now.Sub(v.swept) >= sweepEvery {
			v.swept = now
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
func (v *Visits) sweep(now time.Time) {
	for h, l := range v.hosts {
		if l.TokensAt(now) >= float64(v.burst) {
			delete(v.hosts, h)
		}
	}
}
