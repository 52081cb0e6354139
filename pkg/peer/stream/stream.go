// Package stream is the protocol of data streams between two daemons: frames on a
// connection, with heartbeats that tell slow from dead.
//
// The one who opens a stream sends data; the other receives it and answers with a
// result. Each end tells the other why it failed. A connection carries one stream at
// a time, and the next one when both ends have sent their last frame. It does not
// dial, and does not know who may talk: package peer does, and is its only caller.
//
//	→  hello                 ←  accepted | error       once
//	→  header (data | heartbeat)* (end | error)        for each stream
//	←  heartbeat* (result | error)
package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
)

// Conn is one end of a connection to a node.
type Conn struct {
	net.Conn
	Node guest.NodeID
	// Cut closes the connection at once, also under a write that is stuck. It may be
	// called often, from any goroutine.
	Cut func()
}

// Timing holds the waiting times of streams.
type Timing struct {
	// Heartbeat is how often each end says that it lives.
	Heartbeat time.Duration
	// Stall is how long a stream may be silent before it is cut.
	Stall time.Duration
	// Farewell bounds the clean end of a stream that failed.
	Farewell time.Duration
}

// Transport holds what all streams of a daemon share.
type Transport struct {
	timing  Timing
	buffers sync.Pool // of *[]byte, frameSize long; a stream holds at most one
}

// NewTransport makes the transport.
func NewTransport(timing Timing) *Transport {
	t := &Transport{timing: timing}
	t.buffers.New = func() any {
		b := make([]byte, frameSize)
		return &b
	}
	return t
}

func (t *Transport) buffer() *[]byte {
	b, _ := t.buffers.Get().(*[]byte)
	return b
}

// Hello is the first thing that is said on a connection. Subject is agreed upon by
// the two who talk.
type Hello struct {
	Version int    `json:"version"`
	Subject string `json:"subject,omitempty"`
}

// Version is that of the frames.
const Version = 1

// Greet says hello and waits for the answer until deadline; a refusal is a
// *RemoteError.
func Greet(ctx context.Context, c Conn, deadline time.Time, subject string) error {
	stop := context.AfterFunc(ctx, c.Cut)
	defer stop()
	if err := c.SetDeadline(deadline); err != nil {
		return err
	}
	if err := writeJSONFrame(c, frameHello, Hello{Version, subject}); err != nil {
		return err
	}
	kind, payload, err := readSmallFrame(c)
	switch {
	case err != nil:
		return err
	case kind == frameError:
		return readRemote(c.Node, payload)
	case kind != frameAccepted:
		return unexpected(kind)
	}
	return c.SetDeadline(time.Time{})
}

// Hear waits for the hello of the other end until deadline and answers it; check
// decides on the subject.
func Hear(c Conn, deadline time.Time, check func(subject string) error) error {
	if err := c.SetDeadline(deadline); err != nil {
		return err
	}
	kind, payload, err := readSmallFrame(c)
	if err != nil {
		return fmt.Errorf("no hello: %w", err)
	}
	if kind != frameHello {
		return unexpected(kind)
	}
	var h Hello
	if err := json.Unmarshal(payload, &h); err != nil {
		return fmt.Errorf("a hello that cannot be read: %w", err)
	}
	if h.Version != Version {
		err = Coded(CodeVersion, "protocol version %d is not spoken here, only %d; run the same version of tandemd on all nodes", h.Version, Version)
	} else {
		err = check(h.Subject)
	}
	if err != nil {
		return errors.Join(err, writeJSONFrame(c, frameError, ToWire(err)))
	}
	if err := writeFrame(c, frameAccepted, nil); err != nil {
		return err
	}
	return c.SetDeadline(time.Time{})
}
