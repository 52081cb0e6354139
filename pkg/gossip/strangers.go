package gossip

import (
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/gossip/guard"
)

// Stranger is an address that sends gossip which is not for this cluster as it is
// now. Senders of packets can be forged, so it is a hint for a person.
type Stranger struct {
	Address string // without the port
	// Cluster is the ID of the cluster that it gossips for; empty: this one, with a
	// key that is not in use.
	Cluster string
	// First and Last are when that was heard, by this node's clock.
	First, Last time.Time
}

// maxStrangers bounds what a stranger can make this node remember.
const maxStrangers = 16

// strangers are those heard lately.
type strangers struct {
	mu   sync.Mutex
	list []Stranger
}

// note remembers who sent it and answers whether that is new.
func (s *strangers) note(address, cluster string, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.list, func(x Stranger) bool { return x.Address == address && x.Cluster == cluster })
	if i >= 0 {
		s.list[i].Last = now
		return false
	}
	if len(s.list) >= maxStrangers {
		oldest := 0
		for i := range s.list {
			if s.list[i].Last.Before(s.list[oldest].Last) {
				oldest = i
			}
		}
		s.list = slices.Delete(s.list, oldest, oldest+1)
	}
	s.list = append(s.list, Stranger{Address: address, Cluster: cluster, First: now, Last: now})
	return true
}

// Strangers are the addresses that lately sent gossip which is not for this
// cluster as it is now.
func (g *Gossip) Strangers() []Stranger {
	g.strangers.mu.Lock()
	defer g.strangers.mu.Unlock()
	return slices.Clone(g.strangers.list)
}

// refused is told what the guard did not let in.
func (g *Gossip) refused(from net.Addr, why error) {
	var foreign *guard.ForeignError
	cluster := ""
	switch {
	case errors.As(why, &foreign) && isID(foreign.Label):
		cluster = foreign.Label
	case !errors.As(why, &foreign) && !errors.Is(why, guard.ErrKey) && !errors.Is(why, guard.ErrMessage):
		// Cut, or out of time, in the middle of a message: a member that is busy gives up so, and tries again.
		g.log.Debug("gossip: a connection ended before its message had come", zap.Stringer("from", from), zap.Error(why))
		return
	case !errors.Is(why, guard.ErrKey):
		g.quiet.warn("gossip: something that no member sends was dropped", zap.Stringer("from", from), zap.Error(why))
		return
	}
	host, _, err := net.SplitHostPort(from.String())
	if err != nil {
		host = from.String()
	}
	if g.strangers.note(host, cluster, time.Now()) {
		g.quiet.warn("gossip: a stranger was not let in", zap.Stringer("from", from), zap.Error(why))
	}
}

// isID tells a cluster's ID from what else may stand in its place.
func isID(s string) bool {
	return len(s) <= 64 && strings.Trim(s, "0123456789abcdef") == ""
}
