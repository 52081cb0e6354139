package rules

import (
	"net/netip"
	"time"
)

// Attempts limits how often one address may try to join. The zero value is
// ready; it is not safe for concurrent use.
type Attempts struct{ byPrefix map[netip.Prefix]bucket }

// bucket fills by one attempt every attemptEvery up to attemptBurst; full is when
// it will be full again.
type bucket struct{ full time.Time }

const (
	attemptBurst = 5
	attemptEvery = 10 * time.Second
	// attemptAddresses bounds the memory that strangers can make this node use.
	attemptAddresses = 4096
)

// Take counts an attempt from a remote address (host:port) and says how long it
// has to wait; 0: it may go on. Hosts of one IPv6 network (/64) count as one.
func (a *Attempts) Take(remote string, now time.Time) time.Duration {
	p := prefixOf(remote)
	b, known := a.byPrefix[p]
	if !known && len(a.byPrefix) >= attemptAddresses {
		for q, old := range a.byPrefix {
			if !old.full.After(now) {
				delete(a.byPrefix, q)
			}
		}
		if len(a.byPrefix) >= attemptAddresses {
			return attemptEvery
		}
	}
	if b.full.Before(now) || b.full.Sub(now) > attemptBurst*attemptEvery { // the latter: the clock was set back
		b.full = now
	}
	next := b.full.Add(attemptEvery)
	if wait := next.Sub(now) - attemptBurst*attemptEvery; wait > 0 {
		return wait
	}
	if a.byPrefix == nil {
		a.byPrefix = map[netip.Prefix]bucket{}
	}
	a.byPrefix[p] = bucket{full: next}
	return 0
}

// prefixOf is whom an address belongs to; what is no address counts together.
func prefixOf(remote string) netip.Prefix {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Prefix{}
	}
	addr := ap.Addr().Unmap().WithZone("")
	bits := 64
	if addr.Is4() {
		bits = 32
	}
	p, _ := addr.Prefix(bits) // valid for any address
	return p
}
