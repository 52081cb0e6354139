package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
)

// Receiver is the receiver's end of a data stream. Its methods may be called by any
// goroutine; of two that read, each gets what the other does not.
type Receiver struct {
	wire      *wire
	transport *Transport
	header    json.RawMessage
	received  atomic.Int64

	// over is set when the handler has returned: what still comes is for nobody.
	over atomic.Bool
	// reading is held while a frame's head or a piece of its data is read, and guards
	// what follows.
	reading sync.Mutex
	left    int   // bytes of the current data frame that were not read yet
	err     error // why nothing more comes; io.EOF after a proper end

	// work ends when the handler's work is of no use any more.
	work context.Context
	fail context.CancelCauseFunc
}

// Header decodes what the sender said when it opened the stream.
func (s *Receiver) Header(v any) error {
	if err := json.Unmarshal(s.header, v); err != nil {
		return Coded(CodeBadRequest, "the header of the stream cannot be read: %w", err)
	}
	return nil
}

// Sender is the member that sends.
func (s *Receiver) Sender() guest.NodeID { return s.wire.Node }

// Received is the number of bytes of data that were read so far.
func (s *Receiver) Received() int64 { return s.received.Load() }

// Read reads data. It returns io.EOF only after the sender said that this was all;
// the sender's own failure as *RemoteError; an error that matches
// io.ErrUnexpectedEOF when the connection broke, and ErrStalled after silence. After
// the handler's end it fails, if it was called before, too.
func (s *Receiver) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	n, _, err := s.read(b)
	return n, err
}

// errOver is for who still reads for a handler that has returned.
var errOver = errors.New("the stream is not received any more")

// read also tells how much of the frame is left.
func (s *Receiver) read(b []byte) (n, left int, err error) {
	s.reading.Lock()
	defer s.reading.Unlock()
	// A sender that has nothing to send says so for ever: over is looked at between frames.
	for s.left == 0 && s.err == nil && !s.over.Load() {
		s.err = s.nextFrame()
	}
	switch {
	case s.err != nil:
		return 0, 0, s.err
	case s.over.Load():
		return 0, 0, errOver
	}
	n, err = s.wire.Read(b[:min(len(b), s.left)])
	s.left -= n
	s.received.Add(int64(n))
	if err != nil {
		s.err = s.broken(midFrame(err))
		if n == 0 {
			return 0, 0, s.err
		}
	}
	return n, s.left, nil
}

// nextFrame reads up to the payload of the next data frame, or to the end.
func (s *Receiver) nextFrame() error {
	kind, size, err := readHead(s.wire)
	if err != nil {
		return s.broken(err)
	}
	switch kind {
	case frameData:
		s.left = size
		return nil
	case frameHeartbeat:
		return nil
	case frameEnd:
		return io.EOF
	case frameError:
		payload, err := readPayload(s.wire, size)
		if err != nil {
			return s.broken(err)
		}
		return readRemote(s.wire.Node, payload)
	case frameHello, frameAccepted, frameHeader, frameResult:
	}
	return s.broken(unexpected(kind))
}

// broken ends the connection and says why. What happened first counts: the
// connection may be closed because the daemon stops.
func (s *Receiver) broken(err error) error {
	s.fail(s.wire.readError(err))
	s.wire.Cut()
	return context.Cause(s.work)
}

// WriteTo writes all data to w; io.Copy finds it. Like Read it returns an error
// unless the end was proper.
func (s *Receiver) WriteTo(w io.Writer) (int64, error) {
	buf := s.transport.buffer()
	defer s.transport.buffers.Put(buf)
	var total int64
	for {
		n, err := s.fill(*buf)
		if n > 0 {
			written, err := w.Write((*buf)[:n])
			total += int64(written)
			if err != nil {
				return total, err
			}
		}
		switch {
		case err == io.EOF: //nolint:errorlint // Read returns it bare
			return total, nil
		case err != nil:
			return total, err
		}
	}
}

// fill reads until b is full or a frame ends, because TLS hands out small pieces.
func (s *Receiver) fill(b []byte) (int, error) {
	n := 0
	for {
		m, left, err := s.read(b[n:])
		n += m
		if err != nil || n == len(b) || left == 0 {
			return n, err
		}
	}
}

// ended tells whether the sender said that this was all, and it was read.
func (s *Receiver) ended() bool {
	s.reading.Lock()
	defer s.reading.Unlock()
	return s.err == io.EOF //nolint:errorlint // Read returns it bare
}

// Handler receives one stream. Its result travels to the sender as JSON, its error
// as *RemoteError. Whoever still reads the stream when it returns is told that it is
// over. The context ends when the connection breaks.
type Handler func(ctx context.Context, s *Receiver) (result any, err error)

// Receive waits up to idle for a stream on a connection that is at rest, runs the
// handler for it and tells the sender how it ended. It returns whether the connection
// can carry another stream.
func (t *Transport) Receive(ctx context.Context, c Conn, idle time.Duration, handle Handler) (bool, error) {
	if err := c.SetReadDeadline(time.Now().Add(idle)); err != nil {
		return false, err
	}
	// Between two streams nobody is waiting for anything.
	stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Now()) })
	kind, header, err := readSmallFrame(c)
	if !stop() {
		return false, context.Cause(ctx)
	}
	if err != nil {
		return false, err
	}
	if kind != frameHeader {
		return false, unexpected(kind)
	}
	w := newWire(c, t.timing)
	s := &Receiver{wire: w, header: header, transport: t}
	s.work, s.fail = context.WithCancelCause(ctx)
	defer s.fail(nil)
	beating, stopBeating := context.WithCancel(context.WithoutCancel(ctx))
	defer w.beats.Wait()
	defer stopBeating()
	w.heartbeat(beating, func(err error) {
		s.fail(w.readError(err))
		w.Cut()
	})
	result, err := handle(s.work, s) //nolint:contextcheck // work is made from ctx above
	return s.finish(result, err), nil
}

// finish sends our last frame and waits for the sender's.
func (s *Receiver) finish(result any, err error) bool {
	s.over.Store(true)
	kind, last := frameResult, result
	if err == nil && !s.ended() {
		err = Coded(CodeFailed, "the receiver stopped before the end of the data")
	}
	if err != nil {
		kind, last = frameError, ToWire(err)
	}
	payload, err := json.Marshal(last)
	if err == nil && len(payload) > maxSmall {
		err = fmt.Errorf("it has %d bytes, more than %d", len(payload), maxSmall)
	}
	if err != nil {
		kind = frameError
		payload, _ = json.Marshal(ToWire(fmt.Errorf("the receiver is done, but its result cannot be sent: %w", err)))
	}
	// The sender always reads, so a write that takes long has no reader any more.
	if err := s.wire.SetWriteDeadline(time.Now().Add(s.wire.timing.Stall)); err != nil {
		return false
	}
	if err := s.wire.sendLast(func() error { return writeFrame(s.wire.Conn, kind, payload) }); err != nil {
		return false
	}
	return s.drain() && s.wire.SetDeadline(time.Time{}) == nil
}

// drain reads what a sender has under way that does not know yet that we failed.
// The same silence as ever ends it, and it takes no longer than a few farewells. It
// tells whether the sender's last frame was read.
func (s *Receiver) drain() bool {
	enough := time.AfterFunc(10*s.wire.timing.Farewell, s.wire.Cut)
	defer enough.Stop()
	s.reading.Lock()
	defer s.reading.Unlock()
	for s.err == nil {
		if s.left == 0 {
			s.err = s.nextFrame()
			continue
		}
		n, err := io.CopyN(io.Discard, s.wire, int64(s.left))
		s.left -= int(n)
		if err != nil {
			s.err = s.broken(midFrame(err))
		}
	}
	_, failed := errors.AsType[*RemoteError](s.err)
	return s.err == io.EOF || failed //nolint:errorlint // Read returns it bare
}
