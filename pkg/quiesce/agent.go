package quiesce

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// The protocol of QEMU's guest agent: JSON over a stream that the guest end may have
// used before, so that it is brought in step first (guest-sync-delimited).
const (
	// sentinel is a byte that no JSON has: it resets the agent's parser, and stands
	// before the answer to guest-sync-delimited.
	sentinel = 0xFF
	// maxAnswer bounds what is read of an agent, which is not trusted.
	maxAnswer = 1 << 20
	// syncTimeout is for the agent's first word: it is there and idle, or not there.
	syncTimeout = 5 * time.Second
)

// agent is a connection to the agent of one guest.
type agent struct {
	conn net.Conn
	in   *bufio.Reader
}

// askAgent has the agent freeze or thaw, and gives the number of filesystems.
func askAgent(ctx context.Context, socket, command string) (n int, err error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return 0, fmt.Errorf("%w: its guest agent cannot be reached: %w", errUntouched, err)
	}
	defer conn.Close() //nolint:errcheck // what was to be said was said
	// A deadline in the past ends what waits.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	a := agent{conn: conn, in: bufio.NewReader(io.LimitReader(conn, maxAnswer))}
	_ = conn.SetDeadline(time.Now().Add(syncTimeout))
	if err = a.sync(); err != nil {
		return 0, fmt.Errorf("%w: its guest agent (%s): %w", errUntouched, socket, explain(err))
	}
	if err = ctx.Err(); err == nil {
		if until, ok := ctx.Deadline(); ok {
			_ = conn.SetDeadline(until)
		}
		err = a.call(command, nil, &n)
	}
	if err != nil {
		return 0, fmt.Errorf("its guest agent (%s): %w", socket, explain(err))
	}
	return n, nil
}

// explain says what happened on the stream.
func explain(err error) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errors.New("no answer in time; does it run in the guest?")
	case errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("it stopped in the middle of an answer")
	case errors.Is(err, io.EOF):
		return errors.New("it hung up, or said too much")
	default:
		return err
	}
}

// sync skips what is left of earlier conversations.
func (a agent) sync() error {
	var b [4]byte
	if _, err := rand.Read(b[:]); err != nil {
		return err
	}
	id := int64(binary.BigEndian.Uint32(b[:]) >> 1)
	if _, err := a.conn.Write([]byte{sentinel}); err != nil {
		return err
	}
	if err := a.send("guest-sync-delimited", map[string]any{"id": id}); err != nil {
		return err
	}
	for {
		if _, err := a.in.ReadBytes(sentinel); err != nil {
			return err
		}
		var got int64
		// An answer that is not ours, or none at all, is an earlier one's.
		if err := a.answer(&got); err == nil && got == id {
			return nil
		} else if err != nil && !isAnswer(err) {
			return err
		}
	}
}

func (a agent) call(command string, args, out any) error {
	if err := a.send(command, args); err != nil {
		return err
	}
	return a.answer(out)
}

func (a agent) send(command string, args any) error {
	request := map[string]any{"execute": command}
	if args != nil {
		request["arguments"] = args
	}
	b, err := json.Marshal(request)
	if err != nil {
		return err
	}
	_, err = a.conn.Write(append(b, '\n'))
	return err
}

// refusal is the agent's own error.
type refusal struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

func (r *refusal) Error() string { return fmt.Sprintf("it says: %.200q (%.50s)", r.Desc, r.Class) }

// errGarbled: what came is no answer.
var errGarbled = errors.New("what it says is no answer")

func isAnswer(err error) bool {
	var r *refusal
	return errors.As(err, &r) || errors.Is(err, errGarbled)
}

// answer reads one line.
func (a agent) answer(out any) error {
	line, err := a.in.ReadBytes('\n')
	if err != nil {
		if len(line) > 0 && errors.Is(err, io.EOF) {
			return io.ErrUnexpectedEOF
		}
		return err
	}
	var reply struct {
		Return json.RawMessage `json:"return"`
		Error  *refusal        `json:"error"`
	}
	if err := json.Unmarshal(line, &reply); err != nil {
		return fmt.Errorf("%w: %.100q", errGarbled, line)
	}
	if reply.Error != nil {
		return reply.Error
	}
	if err := json.Unmarshal(reply.Return, out); err != nil {
		return fmt.Errorf("%w: %.100q", errGarbled, line)
	}
	return nil
}
