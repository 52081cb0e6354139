package limit_test

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/tandemd/tandem/pkg/peer/limit"
)

func tcp(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 1} }

func TestHostOf(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		same bool
	}{
		{"192.0.2.1", "192.0.2.1", true},
		{"192.0.2.1", "192.0.2.2", false},
		{"192.0.2.1", "::ffff:192.0.2.1", true},
		{"2001:db8::1", "2001:db8::ffff:2", true}, // one network of 64 bits is one customer's
		{"2001:db8::1", "2001:db8:0:1::1", false},
	} {
		a, _ := limit.HostOf(tcp(tc.a))
		b, _ := limit.HostOf(tcp(tc.b))
		if (a == b) != tc.same {
			t.Errorf("%s and %s: counted as one is %v, want %v", tc.a, tc.b, a == b, tc.same)
		}
	}
}

func TestSlots(t *testing.T) {
	s := limit.NewSlots[string](3, 2)
	a1, ok1 := s.Take("a")
	_, ok2 := s.Take("a")
	_, ok3 := s.Take("a")
	if !ok1 || !ok2 || ok3 {
		t.Errorf("a got %v %v %v, want two places", ok1, ok2, ok3)
	}
	if _, ok := s.Take("b"); !ok {
		t.Error("a keeps b out")
	}
	if _, ok := s.Take("c"); ok {
		t.Error("there are four places")
	}
	a1()
	a1() // counts once
	if _, ok := s.Take("c"); !ok {
		t.Error("a place was not given back")
	}
	if _, ok := s.Take("c"); ok {
		t.Error("a place was given back twice")
	}
}

// However many addresses there are, they share what is left for those that are not
// remembered, and those that were quiet make room.
func TestVisits_ManyAddresses(t *testing.T) {
	v := limit.NewVisits(1, 2)
	now := time.Unix(1_800_000_000, 0)
	allowed := 0
	for i := range 5000 {
		h, _ := limit.HostOf(tcp(fmt.Sprintf("10.0.%d.%d", i/250, i%250)))
		if v.Allow(h, now) {
			allowed++
		}
	}
	if allowed > 1030 {
		t.Errorf("%d of 5000 addresses were let in at once", allowed)
	}
	late, _ := limit.HostOf(tcp("192.0.2.1"))
	if v.Allow(late, now) {
		t.Error("one more was let in")
	}
	if !v.Allow(late, now.Add(time.Minute)) {
		t.Error("it is still kept out when the others are quiet")
	}
}

func TestNotices(t *testing.T) {
	n := limit.NewNotices()
	now := time.Unix(1_800_000_000, 0)
	tell := func(kind string, after time.Duration) string {
		left, ok := n.Tell(kind, now.Add(after))
		return fmt.Sprint(ok, left)
	}
	for i, tc := range []struct {
		kind  string
		after time.Duration
		want  string
	}{
		{"a", 0, "true 0"},
		{"a", time.Second, "false 0"},
		{"b", time.Second, "true 0"},
		{"a", time.Minute, "false 0"},
		{"a", time.Hour, "true 2"},
		{"a", time.Hour + time.Second, "false 0"},
	} {
		if got := tell(tc.kind, tc.after); got != tc.want {
			t.Errorf("%d: %s after %v: got %s, want %s", i, tc.kind, tc.after, got, tc.want)
		}
	}
	n.Over("a")
	if got := tell("a", time.Hour+time.Minute); got != "true 0" {
		t.Errorf("what was over is told again: got %s", got)
	}
	told := 0
	for i := range 5000 {
		if _, ok := n.Tell(fmt.Sprint("kind ", i), now.Add(2*time.Hour)); ok {
			told++
		}
	}
	if told > 1025 {
		t.Errorf("%d kinds were told in a moment", told)
	}
}
