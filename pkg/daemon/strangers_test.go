package daemon_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/identity"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/member"
	"github.com/tandemd/tandem/pkg/peer"
)

// join takes a machine into the cluster of another, or says why it is not taken.
func (m *machine) join(issuer *machine) error {
	m.t.Helper()
	token, err := issuer.api.Token(m.t.Context(), api.TokenRequest{})
	if err != nil {
		m.t.Fatal(err)
	}
	_, err = m.api.Join(m.t.Context(), api.JoinRequest{Address: token.Address, Token: token.Text})
	return err
}

// quorate waits until a machine's cluster has n members and is quorate, with nobody
// of them away.
func (m *machine) quorate(n int) {
	m.t.Helper()
	until(m.t, string(m.conf.NodeName)+" sees all members of a quorate cluster", func() bool {
		c, err := m.api.Cluster(m.t.Context())
		return err == nil && c.Quorate && c.Leader != "" && len(c.Members) == n &&
			!slices.ContainsFunc(c.Members, func(m api.Member) bool { return m.State != "alive" && m.State != "self" })
	})
}

// logged lets a test see what a machine logs from now on.
func (m *machine) logged() *observer.ObservedLogs {
	core, logs := observer.New(zapcore.InfoLevel)
	m.log = zap.New(core)
	return logs
}

// fake is somebody with a key and no daemon: the test speaks with the peers itself.
type fake struct {
	*peer.Peer
	self       ledger.Member
	generation string
}

// fakes knows the members of a cluster by what one of them answered.
type fakes struct{ *member.Book }

func (f fakes) ResolvePeer(id guest.NodeID) (peer.Target, error) {
	addr, fp, err := f.Locate(id)
	return peer.Target{Address: addr, Fingerprint: fp}, err
}

// newFake joins the cluster under a name, so that its key is a member's.
func newFake(tb testing.TB, issuer *machine, name guest.NodeName) *fake {
	tb.Helper()
	id, err := identity.LoadOrCreate(tb.TempDir())
	if err != nil {
		tb.Fatal(err)
	}
	book := member.NewBook(nil)
	p, err := peer.New(peer.Options{
		Node: id.Node, Certificate: id.Certificate, Trust: book, Resolver: fakes{book}, Logger: zap.NewNop(),
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { p.Close() })
	f := &fake{Peer: p, self: ledger.Member{
		ID: id.Node, Name: name, Fingerprint: id.Fingerprint, Peer: freePort(tb), Gossip: freePort(tb),
		Storages: []string{"local-zfs"}, Format: ledger.Format,
	}}
	token, err := issuer.api.Token(tb.Context(), api.TokenRequest{})
	if err != nil {
		tb.Fatal(err)
	}
	parsed, err := identity.ParseToken(token.Text)
	if err != nil {
		tb.Fatal(err)
	}
	var reply member.JoinReply
	at := peer.Target{Address: token.Address, Fingerprint: parsed.Fingerprint}
	if err := p.JoinCall(tb.Context(), at, member.PathJoin, member.JoinRequest{Token: token.Text, Member: f.self}, &reply); err != nil {
		tb.Fatal(err)
	}
	book.Learn(reply.Ledger)
	f.generation = reply.Ledger.Generation
	return f
}

// propose carries a command to the ledger by way of a member.
func (f *fake) propose(ctx context.Context, tb testing.TB, by guest.NodeID, op ledger.Op) {
	tb.Helper()
	data, err := ledger.Command{ID: fmt.Sprintf("%s %T %v", tb.Name(), op, op), By: "a test", Op: op}.Encode()
	if err != nil {
		tb.Fatal(err)
	}
	var out ledger.Outcome
	bound := append([]byte(f.generation+"\n"), data...)
	if err := f.Call(ctx, by, "/ledger/apply", map[string][]byte{"command": bound}, &out); err != nil || out.Refused != "" {
		tb.Fatalf("%T: %v, %q", op, err, out.Refused)
	}
}

// A machine that lost its state folder is a new node: it cannot take the old one's
// place while that is a member, and can once it was removed.
func TestCluster_LostStateFolder(t *testing.T) {
	t.Parallel()
	n := cluster(t, 1)
	old := newFake(t, n[0], "n2")
	m := newMachine(t, "n2")
	err := m.join(n[0])
	if err == nil || !strings.Contains(err.Error(), "the name n2 belongs to a member with another ID") || !strings.Contains(err.Error(), "remove that one first") {
		t.Errorf("joined under the name of a member: %v", err)
	}
	if _, err := m.api.Cluster(t.Context()); err == nil {
		t.Error("a node that was refused thinks it is in a cluster")
	}
	status, err := n[0].api.Cluster(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n[0].api.RemoveMember(t.Context(), api.RemoveMemberRequest{Node: "n2", Force: true}); err != nil {
		t.Fatal(err)
	}
	if err := m.join(n[0]); err != nil {
		t.Fatal(err)
	}
	n[0].quorate(2)
	m.quorate(2)
	// The removed key is a stranger's.
	if err := old.Call(t.Context(), status.Members[0].ID, "/ledger/view", struct{}{}, nil); err == nil {
		t.Error("the removed node is still listened to")
	}
	// The same once more with the same ID: the folder came back from the dead.
	m.stop()
	if err := os.Rename(m.conf.StateDir+"/cluster.json", m.conf.StateDir+"/cluster.json.lost"); err != nil {
		t.Fatal(err)
	}
	m.start()
	if err := m.join(n[0]); err != nil {
		t.Errorf("a member that forgot its cluster joins again with its own ID: %v", err)
	}
	m.quorate(2)
}

// A node that changes its addresses is found again, whether it is one of them, two, or
// all, one after the other.
func TestCluster_ChangedAddresses(t *testing.T) {
	t.Parallel()
	n := cluster(t, 3)
	for _, m := range n {
		m.quorate(3)
	}
	until(t, "all vote", func() bool {
		c, err := n[0].api.Cluster(t.Context())
		return err == nil && c.Voters == 3
	})
	for _, m := range n {
		m.stop()
		m.conf.Peer, m.conf.Gossip = freePort(t), freePort(t)
		m.start()
		for _, other := range n {
			other.quorate(3)
			until(t, "all know the new address", func() bool {
				c, err := other.api.Cluster(t.Context())
				return err == nil && slices.ContainsFunc(c.Members, func(am api.Member) bool {
					return am.Name == m.conf.NodeName && am.Peer == m.conf.Peer && am.Gossip == m.conf.Gossip
				})
			})
		}
	}
}

// Two at once: the third is where both find each other again.
func TestCluster_TwoOfThreeChangeTheirAddressesAtOnce(t *testing.T) {
	t.Parallel()
	n := cluster(t, 3)
	until(t, "all vote", func() bool {
		c, err := n[0].api.Cluster(t.Context())
		return err == nil && c.Voters == 3
	})
	for _, m := range n[:2] {
		m.stop()
		m.conf.Peer, m.conf.Gossip = freePort(t), freePort(t)
	}
	for _, m := range n[:2] {
		m.start()
	}
	for _, m := range n {
		m.quorate(3)
	}
}

// Two clusters that reach each other, because a machine of one was given the addresses
// that a member of the other had.
func TestCluster_TwoClustersDoNotMix(t *testing.T) {
	t.Parallel()
	x := stoppedMachine(t, "x1")
	logs := map[string]*observer.ObservedLogs{"x1": x.logged()}
	x.start()
	if _, err := x.api.InitCluster(t.Context(), api.InitRequest{}); err != nil {
		t.Fatal(err)
	}
	x2 := newMachine(t, "x2")
	if err := x2.join(x); err != nil {
		t.Fatal(err)
	}
	x.quorate(2)
	y := newMachine(t, "y1")
	if _, err := y.api.InitCluster(t.Context(), api.InitRequest{}); err != nil {
		t.Fatal(err)
	}
	y2 := stoppedMachine(t, "y2")
	logs["y2"] = y2.logged()
	x2.stop()
	y2.conf.Peer, y2.conf.Gossip = x2.conf.Peer, x2.conf.Gossip
	y2.start()
	if err := y2.join(y); err != nil {
		t.Fatal(err)
	}
	y2.quorate(2)
	until(t, "x1 says that somebody else is at x2's address", func() bool {
		return logs["x1"].FilterMessageSnippet("another node answers at the address of a member").Len() > 0
	})
	until(t, "y2 says that a stranger knocks", func() bool {
		return logs["y2"].FilterMessageSnippet("connection refused").Len() > 0
	})
	before := map[string]int{}
	for name, l := range logs {
		l.TakeAll()
		before[name] = l.Len()
	}
	wait(t, 10*time.Second)
	for name, l := range logs {
		// An election is three lines, at most every one and a half seconds.
		if got := l.All(); len(got) > 21 {
			t.Errorf("%s goes on telling: %d lines in 10 s:", name, len(got))
			for _, e := range got[:10] {
				t.Log(e.Level, e.LoggerName, e.Message, e.ContextMap())
			}
		}
	}
	for _, m := range []*machine{y, y2} {
		m.quorate(2)
	}
	if c, err := x.api.Cluster(t.Context()); err != nil || len(c.Members) != 2 || c.Members[1].State == "alive" {
		t.Errorf("x1 sees %+v, %v", c, err)
	}
	y2.stop()
	x2.start()
	x.quorate(2)
}

// wait lets real time pass, for what must not happen.
func wait(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}
