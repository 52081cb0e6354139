package gossip

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/hashicorp/memberlist"
	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/guest"
)

// retransmits is how often each node passes a change on, times the number of digits
// of the number of nodes, which counts as two at least. With memberlist's own 4, and
// one digit, one change in ten misses a node of eight.
const retransmits = 6

// Options of Start.
type Options struct {
	Node guest.NodeID
	// Cluster is the ID of the cluster. Packets of another one are dropped.
	Cluster string
	// Bind is the address to listen on, IP:PORT, TCP and UDP.
	Bind string
	// Advertise is the address that others are told, IP:PORT; empty means Bind.
	Advertise string
	Keys      Keys
	// Boot grows with each start of the daemon, and is at least 1.
	Boot uint64
	Meta Meta
	// Peers are the members, to keep contact with; nobody else is heard. It answers
	// from memory.
	Peers func() []Peer
	// Fetch carries a request over the peer connection to another node's Serve.
	Fetch  func(ctx context.Context, node guest.NodeID, request []byte) ([]byte, error)
	Logger *zap.Logger
	Timing Timing
}

// Timing holds what depends on how fast the machines are. Zero means the default,
// for a few nodes in one place, some of them busy.
type Timing struct {
	// Probe is how often one other node is looked after (1 s), and Answer how long it
	// may take (700 ms). A node that does not answer is dead after six probes more.
	Probe  time.Duration
	Answer time.Duration
	// Spread is how often news is passed on (100 ms).
	Spread time.Duration
	// Exchange is how often all entries are compared with one other node (30 s).
	Exchange time.Duration
	// Crowd is how often they are compared with three others while there is more news
	// than broadcasts carry (1 s).
	Crowd time.Duration
	// Connect bounds a connection for that (3 s).
	Connect time.Duration
	// Fetch bounds fetching from one node what differs (10 s).
	Fetch time.Duration
	// Rejoin is how often nodes that are away are looked for (15 s).
	Rejoin time.Duration
	// Meta is how often changed metadata is sent at most (1 s), and Applied how long it
	// waits where only the index changed (5 s).
	Meta    time.Duration
	Applied time.Duration
	// Leave bounds saying goodbye (1 s).
	Leave time.Duration
}

func (o Options) withDefaults() (Options, error) {
	for v, def := range map[*time.Duration]time.Duration{
		&o.Timing.Probe:    time.Second,
		&o.Timing.Answer:   700 * time.Millisecond,
		&o.Timing.Spread:   100 * time.Millisecond,
		&o.Timing.Exchange: 30 * time.Second,
		&o.Timing.Crowd:    time.Second,
		&o.Timing.Connect:  3 * time.Second,
		&o.Timing.Fetch:    10 * time.Second,
		&o.Timing.Rejoin:   15 * time.Second,
		&o.Timing.Meta:     time.Second,
		&o.Timing.Applied:  5 * time.Second,
		&o.Timing.Leave:    time.Second,
	} {
		if *v == 0 {
			*v = def
		}
	}
	switch {
	case o.Cluster == "" || len(o.Cluster) > memberlist.LabelMaxSize:
		return o, fmt.Errorf("cluster ID %q: must have 1 to %d bytes", o.Cluster, memberlist.LabelMaxSize)
	case o.Boot == 0:
		return o, errors.New("the boot counter must be at least 1")
	case o.Peers == nil || o.Fetch == nil || o.Logger == nil:
		return o, errors.New("no Peers, no Fetch or no Logger given")
	}
	if o.Advertise == "" {
		o.Advertise = o.Bind
	}
	return o, o.Node.Validate()
}

// memberlist translates the options.
func (o Options) memberlist(g *Gossip) (*memberlist.Config, error) {
	advertise, err := netip.ParseAddrPort(o.Advertise)
	if err != nil {
		return nil, fmt.Errorf("address %q to tell others: must be IP:PORT", o.Advertise)
	}
	c := memberlist.DefaultLANConfig()
	c.Name = string(o.Node)
	c.Label = o.Cluster
	c.Transport = g.guard
	c.BindPort, c.AdvertisePort = g.guard.GetAutoBindPort(), int(advertise.Port())
	if c.AdvertisePort == 0 {
		c.AdvertisePort = c.BindPort
	}
	if !advertise.Addr().IsUnspecified() {
		c.AdvertiseAddr = advertise.Addr().String()
	}
	c.Keyring = g.keys
	c.EnableCompression = false
	c.ProbeInterval, c.ProbeTimeout = o.Timing.Probe, o.Timing.Answer
	c.SuspicionMult, c.RetransmitMult = 6, 5

	c.GossipInterval = o.Timing.Spread
	c.PushPullInterval = o.Timing.Exchange
	c.TCPTimeout = o.Timing.Connect
	// A node that was reinstalled or moved has a new address; once it was dead for
	// a moment that is fine, since its name is an ID that nobody else has.
	c.DeadNodeReclaimTime = time.Second
	c.Delegate = delegate{g}
	c.Events = events{g}
	c.Alive = door{g}
	return c, nil
}
