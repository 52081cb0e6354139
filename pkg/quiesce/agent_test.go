package quiesce_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/quiesce"
)

// qga is a guest agent as QEMU's is: one stream, whose far end is used by one after
// the other, and says what it was asked before.
type qga struct {
	t      *testing.T
	socket string
	// answers replaces the agent's answer to a command.
	answers map[string]string
	// before is what is left in the stream of an earlier conversation.
	before string

	mu     sync.Mutex
	frozen bool
	asked  []string
}

func newAgent(t *testing.T) *qga {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent") //nolint:usetesting // a socket's path has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	a := &qga{t: t, socket: filepath.Join(dir, "agent"), answers: map[string]string{}}
	l, err := new(net.ListenConfig).Listen(t.Context(), "unix", a.socket)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	t.Cleanup(func() {
		_ = l.Close()
		<-ended
		_ = os.RemoveAll(dir)
	})
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			a.serve(c)
		}
	}()
	return a
}

func (a *qga) serve(c net.Conn) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	a.mu.Lock()
	before := a.before
	a.mu.Unlock()
	_, _ = io.WriteString(c, before)
	in := bufio.NewReader(c)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return
		}
		var q struct {
			Execute   string
			Arguments struct{ ID int64 }
		}
		text := string(bytes.TrimLeftFunc(line, func(r rune) bool { return r == utf8.RuneError }))
		if err := json.Unmarshal([]byte(text), &q); err != nil {
			_, _ = io.WriteString(c, `{"error":{"class":"GenericError","desc":"JSON parse error"}}`+"\n")
			continue
		}
		if !a.answer(c, q.Execute, q.Arguments.ID) {
			return
		}
	}
}

func (a *qga) answer(c net.Conn, command string, id int64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked = append(a.asked, command)
	text, own := a.answers[command]
	switch {
	case own && text == "hang up":
		return false
	case own:
	case command == "guest-sync-delimited":
		text = fmt.Sprintf("\xff{\"return\": %d}\n", id)
	case command == "guest-fsfreeze-freeze" && a.frozen:
		text = `{"error":{"class":"CommandNotFound","desc":"frozen"}}` + "\n"
	case command == "guest-fsfreeze-freeze":
		a.frozen = true
		text = `{"return": 2}` + "\n"
	case command == "guest-fsfreeze-thaw" && a.frozen:
		a.frozen = false
		text = `{"return": 2}` + "\n"
	default:
		text = `{"return": 0}` + "\n"
	}
	_, err := io.WriteString(c, text)
	return err == nil
}

// is changes how it answers from now on.
func (a *qga) is(change func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change()
}

// last is what it was asked last.
func (a *qga) last() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.asked[len(a.asked)-1]
}

func (a *qga) stands() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.frozen
}

func (a *qga) quiescer() *quiesce.Quiescer {
	return newQuiescer(a.t, quiesce.Options{Units: noUnits{}, Agent: func(guest.ID) string { return a.socket }})
}

func vm() guest.Guest { return guest.Guest{ID: 100, Quiesce: guest.QuiesceAgent} }

func TestAgent_FreezesAndThaws(t *testing.T) {
	for name, before := range map[string]string{
		"fresh": "", "answer to somebody else": "{\"return\": {}}\n", "half an answer": `{"return": {"ver`,
		"delimited answer to somebody else": "\xff{\"return\": 4711}\n", "rubbish": "\x00\xff\xff]\n\xff{\n",
	} {
		t.Run(name, func(t *testing.T) {
			a := newAgent(t)
			a.is(func() { a.before = before })
			how, thaw, warning := a.quiescer().Quiesce(t.Context(), vm())
			if how != guest.Frozen || warning != "" || !a.stands() {
				t.Errorf("%s, %q, frozen %t", how, warning, a.stands())
			}
			if err := thaw(); err != nil || a.stands() {
				t.Errorf("thaw: %v, frozen %t", err, a.stands())
			}
		})
	}
}

func TestAgent_ThatDoesNotFreeze(t *testing.T) {
	for name, c := range map[string]struct{ answer, warns string }{
		"refuses":         {`{"error":{"class":"GenericError","desc":"failed to freeze /: busy"}}` + "\n", "failed to freeze /: busy"},
		"froze nothing":   {`{"return": 0}` + "\n", "froze no filesystem"},
		"hangs up":        {"hang up", "hung up"},
		"answers rubbish": {"what?\n", "no answer"},
		"other type":      {`{"return": "yes"}` + "\n", "no answer"},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAgent(t)
			a.is(func() { a.answers["guest-fsfreeze-freeze"] = c.answer })
			how, thaw, warning := a.quiescer().Quiesce(t.Context(), vm())
			if how != guest.Crash || !strings.Contains(warning, c.warns) || thaw() != nil {
				t.Errorf("%s, %q", how, warning)
			}
			if last := a.last(); last != "guest-fsfreeze-thaw" {
				t.Errorf("it may be frozen in part, and was last asked %s", last)
			}
		})
	}
}

// It froze, and stopped in the middle of saying so.
func TestAgent_HalfAnAnswer(t *testing.T) {
	a := newAgent(t)
	a.is(func() { a.answers["guest-fsfreeze-freeze"] = `{"retu` })
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	how, _, warning := a.quiescer().Quiesce(ctx, vm())
	if how != guest.Crash || !strings.Contains(warning, "in time") {
		t.Errorf("%s, %q", how, warning)
	}
	if last := a.last(); last != "guest-fsfreeze-thaw" {
		t.Errorf("it was last asked %s", last)
	}
}

// QEMU answers the connection although no agent runs in the guest: nothing was frozen,
// and nobody is to be told that a guest stands still.
func TestAgent_ThatIsNotThere(t *testing.T) {
	a := newAgent(t)
	a.is(func() { a.answers["guest-sync-delimited"] = "" })
	var told reports
	q := newQuiescer(t, quiesce.Options{Units: noUnits{}, Agent: func(guest.ID) string { return a.socket }, Report: told.report})
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	how, thaw, warning := q.Quiesce(ctx, vm())
	if how != guest.Crash || !strings.Contains(warning, "does it run in the guest?") || thaw() != nil || len(told.all()) != 0 {
		t.Errorf("%s, %q, told %q", how, warning, told.all())
	}
}

// The guest's own limit (Windows has one of 10 s) thawed it before.
func TestAgent_TellsThatItRanOn(t *testing.T) {
	a := newAgent(t)
	_, thaw, _ := a.quiescer().Quiesce(t.Context(), vm())
	a.mu.Lock()
	a.frozen = false
	a.mu.Unlock()
	if err := thaw(); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("the point counts as frozen: %v", err)
	}
}
