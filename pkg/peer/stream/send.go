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

	"golang.org/x/time/rate"
)

// Sender is the sender's end of a data stream. Write, ReadFrom, CloseWrite,
// Result and Close are called by one goroutine; Sent by any.
type Sender struct {
	wire  *wire
	limit *rate.Limiter // nil: no limit
	sent  atomic.Int64
	done  func(reusable bool)

	transport *Transport
	frame     *[]byte // room for one data frame

	// work ends when the stream has failed; its cause is the first failure.
	work     context.Context
	fail     context.CancelCauseFunc
	beating  context.CancelFunc
	stopWait func() bool

	answered chan struct{}   // closed when nothing more comes from the receiver
	answer   json.RawMessage // its result; set before answered is closed, if there is one
	settled  bool            // its last frame came; set like answer
	closing  sync.Once
}

var errSenderLeft = errors.New("the sender ended the stream before its end")

// Open starts a stream on a connection that is at rest. header is JSON for the
// receiver; limit, if given, holds back the data (and nothing else) and may be
// changed while the stream runs. When ctx ends the stream fails with its cause. done
// is called once, by Close, and told whether the connection can carry another stream.
func (t *Transport) Open(ctx context.Context, c Conn, header []byte, limit *rate.Limiter, done func(reusable bool)) (*Sender, error) {
	w := newWire(c, t.timing)
	if err := w.send(func() error { return writeFrame(w.Conn, frameHeader, header) }); err != nil {
		return nil, fmt.Errorf("stream to node %s: %w", c.Node.Short(), err)
	}
	s := &Sender{wire: w, limit: limit, transport: t, frame: t.buffer(), done: done, answered: make(chan struct{})}
	s.work, s.fail = context.WithCancelCause(ctx)
	// A write may be stuck, and a farewell has to fit in.
	s.stopWait = context.AfterFunc(ctx, func() { _ = w.SetWriteDeadline(time.Now().Add(w.timing.Farewell)) })
	var beating context.Context
	beating, s.beating = context.WithCancel(context.WithoutCancel(ctx))
	// A write that fails is not told: the reader will know more about it.
	w.heartbeat(beating, func(error) {})
	w.beats.Go(s.readAnswer)
	return s, nil
}

// readAnswer waits for the receiver's last frame.
func (s *Sender) readAnswer() {
	defer close(s.answered)
	for {
		kind, payload, err := readSmallFrame(s.wire)
		switch {
		case err != nil:
		case kind == frameHeartbeat:
			continue
		case kind == frameResult:
			s.answer, s.settled = payload, true
			return
		case kind == frameError:
			s.settled = true
			s.fail(readRemote(s.wire.Node, payload))
			return
		default:
			err = unexpected(kind)
		}
		s.fail(s.wire.readError(err))
		s.wire.Cut()
		return
	}
}

// Sent is the number of bytes of data that were written to the connection.
func (s *Sender) Sent() int64 { return s.sent.Load() }

// Write sends b. It fails at once when the receiver has failed, with its
// *RemoteError.
func (s *Sender) Write(b []byte) (int, error) {
	written := 0
	for written < len(b) {
		room := s.room()
		n := copy(room, b[written:])
		if err := s.flush(n); err != nil {
			return written, err
		}
		written += n
	}
	return written, nil
}

// ReadFrom sends what r has until its end; io.Copy finds it. It reads straight into
// the frames.
func (s *Sender) ReadFrom(r io.Reader) (int64, error) {
	var total int64
	for {
		n, err := r.Read(s.room())
		if n > 0 {
			if err := s.flush(n); err != nil {
				return total, err
			}
			total += int64(n)
		}
		switch {
		case err == io.EOF:
			return total, nil
		case err != nil:
			return total, err
		}
		if s.work.Err() != nil {
			return total, context.Cause(s.work)
		}
	}
}

// room is where the data of the next frame goes; with a limit it is at most what
// the limit lets through in one go.
func (s *Sender) room() []byte {
	size := frameSize - headSize
	if s.limit != nil && s.limit.Limit() != rate.Inf {
		size = max(1, min(size, s.limit.Burst()))
	}
	return (*s.frame)[headSize : headSize+size]
}

// flush sends the n bytes in the frame's room.
func (s *Sender) flush(n int) error {
	if s.work.Err() == nil && s.limit != nil {
		if err := s.limit.WaitN(s.work, n); err != nil && s.work.Err() == nil {
			return fmt.Errorf("stream to node %s: the rate limit lets nothing through: %w", s.wire.Node.Short(), err)
		}
	}
	if s.work.Err() != nil {
		return context.Cause(s.work)
	}
	frame := (*s.frame)[:headSize+n]
	putHead(frame, frameData, n)
	err := s.wire.send(func() error { _, err := s.wire.Write(frame); return err })
	if err == nil {
		s.sent.Add(int64(n))
		return nil
	}
	return s.writeError(err)
}

// writeError prefers what the receiver said before the connection broke; that comes
// soon, or the reader gives up soon.
func (s *Sender) writeError(err error) error {
	if s.work.Err() == nil {
		<-s.answered
		s.fail(fmt.Errorf("the stream to node %s was cut: %w: %w", s.wire.Node.Short(), io.ErrUnexpectedEOF, err))
	}
	return context.Cause(s.work)
}

// CloseWrite says that all data was sent.
func (s *Sender) CloseWrite() error {
	if s.work.Err() != nil {
		return context.Cause(s.work)
	}
	if err := s.wire.sendLast(func() error { return writeFrame(s.wire.Conn, frameEnd, nil) }); err != nil {
		return s.writeError(err)
	}
	return nil
}

// Abort ends the stream with an error of ours, which the receiver's Read returns as
// *RemoteError (or what made the stream fail before). It may be called from any goroutine, and does nothing after
// CloseWrite.
func (s *Sender) Abort(err error) {
	s.fail(err)
	// A writer may be stuck because the receiver is; then the connection is all that
	// can be ended.
	_ = s.wire.SetWriteDeadline(time.Now().Add(s.wire.timing.Farewell))
	_ = s.wire.sendLast(func() error { return writeJSONFrame(s.wire.Conn, frameError, ToWire(context.Cause(s.work))) })
}

// Result waits until the receiver is done with what CloseWrite ended, and decodes
// its result into v, which may be nil. A failure there is a *RemoteError.
func (s *Sender) Result(v any) error {
	if !s.wire.healthy() && s.work.Err() == nil {
		return errors.New("stream: Result was called before CloseWrite")
	}
	select {
	case <-s.answered:
	case <-s.work.Done():
		// It may have been answered at the same moment.
		select {
		case <-s.answered:
		default:
			return context.Cause(s.work)
		}
	}
	if s.answer == nil {
		return context.Cause(s.work)
	}
	if v == nil {
		return nil
	}
	if err := json.Unmarshal(s.answer, v); err != nil {
		return fmt.Errorf("stream with node %s: the result cannot be read: %w", s.wire.Node.Short(), err)
	}
	return nil
}

// Close ends the stream, aborting it if CloseWrite did not end it, and keeps the
// connection for the next one if nothing is wrong with it. It may be called twice.
func (s *Sender) Close() error {
	s.closing.Do(s.close)
	return nil
}

func (s *Sender) close() {
	if !s.wire.healthy() {
		s.Abort(errSenderLeft)
	}
	select {
	case <-s.answered:
	case <-time.After(s.wire.timing.Farewell):
		s.fail(errSenderLeft)
		s.wire.Cut()
	}
	undisturbed := s.stopWait()
	s.beating()
	s.wire.beats.Wait()
	s.fail(errSenderLeft) // frees the context; the first cause stays
	s.transport.buffers.Put(s.frame)
	s.done(undisturbed && s.settled && s.wire.healthy() && s.wire.SetDeadline(time.Time{}) == nil)
}
