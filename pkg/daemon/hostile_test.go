package daemon_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/zap/zaptest/observer"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/member"
	"github.com/tandemd/tandem/pkg/peer"
	"github.com/tandemd/tandem/pkg/replicate"
)

// hostileFor is longer in a soak: go test ./pkg/daemon -run Hostile -args -hostile 10m.
var hostileFor = flag.Duration("hostile", 2*time.Second, "how long the hostile tests last")

// paths are the calls between daemons.
func paths() []string {
	return []string{
		"/ledger/apply", "/ledger/view", "/node/report", "/node/storages", "/node/check-guest", "/node/runs", "/node/schedule-now",
		member.PathClaim, replicate.PathInventory, replicate.PathAbort, replicate.PathCommit, replicate.PathRemove, "/none",
	}
}

// victim is a node of a cluster in which a member that is none of ours has a key, owns a
// guest and replicates it to the node.
type victim struct {
	*machine
	fake    *fake
	id      guest.NodeID
	logs    *observer.ObservedLogs
	request string // the beginning of what a source sends
}

func newVictim(tb testing.TB) *victim {
	tb.Helper()
	v := &victim{machine: stoppedMachine(tb, "n1")}
	v.logs = v.logged()
	v.start()
	if _, err := v.api.InitCluster(tb.Context(), api.InitRequest{}); err != nil {
		tb.Fatal(err)
	}
	v.fake = newFake(tb, v.machine, "n2")
	c, err := v.api.Cluster(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	v.id = c.Members[0].ID
	g := guest.Guest{ID: 100, Type: guest.VM, Name: "web", Volumes: []guest.Volume{volume(100)}, Owner: v.fake.self.ID}
	v.fake.propose(tb.Context(), tb, v.id, ledger.AddGuest{Guest: g})
	j := guest.Job{ID: guest.JobID{Guest: 100}, Target: v.id, Schedule: "*/15", Snapshots: guest.Mirror}
	v.fake.propose(tb.Context(), tb, v.id, ledger.CreateJob{Job: j})
	v.request = fmt.Sprintf(`"version":1,"job":"100-0","term":{"n":1,"generation":%q},"index":1`, v.fake.generation)
	return v
}

// unhurt checks that no handler fell over what it was given since it was looked at last.
func (v *victim) unhurt(tb testing.TB) {
	tb.Helper()
	for _, e := range v.logs.TakeAll() {
		if strings.Contains(e.Message, "panic") {
			tb.Fatalf("%s: %s %v", e.LoggerName, e.Message, e.ContextMap())
		}
	}
}

// bodies are requests that are understood, to begin with.
func (v *victim) bodies() []string {
	vol := volume(100).String()
	return []string{
		`{}`, `null`, `[]`, `{"command":"e30="}`,
		`{"command":"` + base64.StdEncoding.EncodeToString([]byte(v.fake.generation+"\n"+`{"kind":"ask","op":{}}`)) + `"}`,
		`{"job":"100-0","n":-1}`, `{"id":100,"type":"vm","name":"x","volumes":["` + vol + `"],"owner":"` + string(v.id) + `"}`,
		`{` + v.request + `}`,
		`{` + v.request + `,"volume":"` + vol + `","token":"1-0-0-0"}`,
		`{` + v.request + `,"volume":"` + vol + `","kind":"volume","verb":"full","to":{"name":"x","guid":1}}`,
		`{` + v.request + `,"point":"tandem_1_n2_1_x","property":"{}","age":0,"volumes":[{"volume":"` + vol + `","guid":1,"mark":[{"name":"a","guid":2}],"delete":[{"name":"b","guid":3}]}]}`,
		`{` + v.request + `,"keep":true,"volumes":[{"volume":"` + vol + `","has":[1]}]}`,
	}
}

// spoilt is a body with a number, a string or a piece of it replaced.
func spoilt(r *rand.Rand, body string) []byte {
	b := []byte(body)
	for range r.IntN(3) {
		at := r.IntN(len(b))
		switch r.IntN(4) {
		case 0:
			b[at] = byte(r.Uint32())
		case 1:
			b = append(b[:at:at], b[at+r.IntN(len(b)-at):]...)
		case 2:
			b = append(b[:at:at], append([]byte(strings.Repeat("9", r.IntN(30))), b[at:]...)...)
		case 3:
			b = append(b[:at:at], append(bytes.Repeat([]byte("["), r.IntN(20000)), b[at:]...)...)
		}
		if len(b) == 0 {
			return []byte("0")
		}
	}
	return b
}

// A member gone wild speaks all protocols, with garbage in them. It counts goroutines,
// so that no other daemons may run beside it.
func TestHostile_MemberOfTheCluster(t *testing.T) {
	v := newVictim(t)
	layer, err := v.fake.RaftLayer(v.fake.generation)
	if err != nil {
		t.Fatal(err)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	bodies, all := v.bodies(), paths()
	before := runtime.NumGoroutine()
	ctx, cancel := context.WithTimeout(t.Context(), *hostileFor)
	defer cancel()
	n := 0
	for ; ctx.Err() == nil; n++ {
		call, done := context.WithTimeout(ctx, 100*time.Millisecond)
		body := spoilt(r, bodies[r.IntN(len(bodies))])
		switch r.IntN(3) {
		case 0:
			_ = v.fake.Call(call, v.id, all[r.IntN(len(all))], json.RawMessage(body), nil)
		case 1:
			if s, err := v.fake.OpenStream(call, v.id, json.RawMessage(body), nil); err == nil {
				_, _ = s.Write(body)
				_ = s.CloseWrite()
				_ = s.Result(nil)
				_ = s.Close()
			}
		case 2:
			if c, err := layer.Dial(raft.ServerAddress(v.id), time.Second); err == nil {
				_ = c.SetDeadline(time.Now().Add(20 * time.Millisecond))
				_, _ = c.Write(append([]byte{byte(r.IntN(6)), 0x80 | byte(r.IntN(4)), 0xa4}, body...))
				_, _ = io.Copy(io.Discard, c)
				_ = c.Close()
			}
		}
		done()
	}
	v.unhurt(t)
	t.Logf("%d attacks", n)
	if _, err := v.api.Status(t.Context(), api.Filter{}); err != nil {
		t.Errorf("the node does not answer: %v", err)
	}
	until(t, "the goroutines of the attacks have ended", func() bool { return runtime.NumGoroutine() < before+50 })
}

// Raft takes what members send on trust: an entry that is not there, and a configuration
// that none is, would end the daemon.
func TestCluster_UnsoundRaftCallsEndNothing(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	layer, err := v.fake.RaftLayer(v.fake.generation)
	if err != nil {
		t.Fatal(err)
	}
	const entries, term = "\xa7Entries", "\xa4Term\xcd\x7f\xff"
	for what, frame := range map[string]string{
		"a missing entry":               "\x00\x82" + term + entries + "\x91\xc0",
		"an unreadable configuration":   "\x00\x82" + term + entries + "\x91\x83\xa5Index\x01\xa4Type\x05\xa4Data\xc4\x02\xff\xff",
		"a snapshot of no cluster":      "\x02\x84" + term + "\xafSnapshotVersion\x01\xa4Size\x01\xadConfiguration\xc4\x02\xff\xff" + "x",
		"a snapshot of a negative size": "\x02\x82" + term + "\xa4Size\xff",
	} {
		c, err := layer.Dial(raft.ServerAddress(v.id), 5*time.Second)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := io.WriteString(c, frame); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		answer := make([]byte, 200)
		n, err := c.Read(answer)
		if !bytes.Contains(answer[:n], []byte("unsound call")) {
			t.Errorf("%s: got %q, %v, want a refusal", what, answer[:n], err)
		}
		_ = c.Close()
	}
	if _, err := v.api.Token(t.Context(), api.TokenRequest{}); err != nil {
		t.Errorf("the node does not work any more: %v", err)
	}
}

// FuzzCalls: whatever a member's request holds, it is answered, and nothing falls over it.
func FuzzCalls(f *testing.F) {
	v := newVictim(f)
	for i, body := range v.bodies() {
		for n := range paths() {
			if i < 3 || n >= 6 {
				f.Add(uint8(n), []byte(body))
			}
		}
	}
	f.Fuzz(func(t *testing.T, path uint8, body []byte) {
		if !json.Valid(body) || bytes.Contains(body, []byte("remove_member")) {
			return // the encoder refuses the one; the other takes the right to ask away
		}
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		err := v.fake.Call(ctx, v.id, paths()[int(path)%len(paths())], json.RawMessage(body), nil)
		if errors.Is(err, peer.ErrUnknownOutcome) && ctx.Err() == nil {
			t.Errorf("no answer: %v", err)
		}
		v.unhurt(t)
	})
}
