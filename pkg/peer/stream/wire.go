package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// wire is one end of a stream: frames out, one at a time, and bytes in, with an eye
// on silence.
type wire struct {
	Conn
	timing Timing

	turn   chan struct{} // holds one element while a frame is being written
	ended  bool          // our last frame was sent; guarded by turn
	broken bool          // a write failed, so the other end may have half a frame; guarded by turn
	beats  sync.WaitGroup
}

func newWire(c Conn, timing Timing) *wire {
	return &wire{Conn: c, timing: timing, turn: make(chan struct{}, 1)}
}

// errEnded is not an error of the stream: a heartbeat came too late.
var errEnded = errors.New("the last frame was sent already")

// send writes one frame with write, unless the last one was sent. It waits as long
// as the other end does not read: that is a slow disk, and no fault.
func (w *wire) send(write func() error) error {
	w.turn <- struct{}{}
	defer func() { <-w.turn }()
	return w.sendLocked(write)
}

// sendLast sends the frame that ends our side.
func (w *wire) sendLast(write func() error) error {
	w.turn <- struct{}{}
	defer func() { <-w.turn }()
	err := w.sendLocked(write)
	w.ended = true
	return err
}

func (w *wire) sendLocked(write func() error) error {
	switch {
	case w.ended:
		return errEnded
	case w.broken:
		return io.ErrClosedPipe
	}
	err := write()
	w.broken = err != nil
	return err
}

// healthy tells whether both ends stand at a frame's border after our last frame.
func (w *wire) healthy() bool {
	w.turn <- struct{}{}
	defer func() { <-w.turn }()
	return w.ended && !w.broken
}

// heartbeat says that this end lives until ctx ends. It is skipped while another
// frame is being written, which says as much. A write that fails is told to failed.
func (w *wire) heartbeat(ctx context.Context, failed func(error)) {
	w.beats.Go(func() {
		tick := time.NewTicker(w.timing.Heartbeat)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			select {
			case w.turn <- struct{}{}:
			default:
				continue
			}
			err := w.sendLocked(func() error { return writeFrame(w.Conn, frameHeartbeat, nil) })
			<-w.turn
			if errors.Is(err, errEnded) {
				return
			}
			if err != nil {
				failed(err)
				return
			}
		}
	})
}

// Read reads what is there; silence for longer than the stall limit is an error.
// The limit starts anew with each read, so that nothing is held against the other
// end while nobody here reads.
func (w *wire) Read(b []byte) (int, error) {
	if err := w.SetReadDeadline(time.Now().Add(w.timing.Stall)); err != nil {
		return 0, err
	}
	return w.Conn.Read(b)
}

// readError names what a failed read means for a stream.
func (w *wire) readError(err error) error {
	if _, ok := errors.AsType[*protocolError](err); ok {
		return fmt.Errorf("stream with node %s: %w", w.Node.Short(), err)
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("%w: nothing came from node %s for %v", ErrStalled, w.Node.Short(), w.timing.Stall)
	case errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	case !errors.Is(err, io.ErrUnexpectedEOF):
		err = fmt.Errorf("%w: %w", io.ErrUnexpectedEOF, err)
	}
	return fmt.Errorf("the stream with node %s was cut: %w", w.Node.Short(), err)
}
