package stream

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
)

// frameKind says what a frame carries. The numbers are on the wire and never change.
type frameKind byte

const (
	frameHello     frameKind = 1 // JSON, opens a connection
	frameAccepted  frameKind = 2 // empty, answers it
	frameHeader    frameKind = 3 // JSON, opens a stream
	frameData      frameKind = 4
	frameHeartbeat frameKind = 5 // empty
	frameEnd       frameKind = 6 // empty: all data was sent
	frameError     frameKind = 7 // JSON of WireError: the stream failed at its sender
	frameResult    frameKind = 8 // JSON: the receiver is done
)

const (
	// headSize: kind, then the length of what follows, big endian.
	headSize = 1 + 4
	// maxData is the most that a data frame carries.
	maxData = 256 << 10
	// frameSize is the largest data frame that is sent: whole TLS records. A few bytes more would be a record of their own,
	// with a system call at each end.
	frameSize = 256 << 10
	// maxSmall is the most that any other frame carries.
	maxSmall = 1 << 20
)

// limit is the largest payload of a kind, or -1 for a kind that does not exist.
func (k frameKind) limit() int {
	switch k {
	case frameHello, frameHeader, frameError, frameResult:
		return maxSmall
	case frameData:
		return maxData
	case frameAccepted, frameHeartbeat, frameEnd:
		return 0
	}
	return -1
}

func (k frameKind) String() string {
	switch k {
	case frameHello:
		return "hello"
	case frameAccepted:
		return "accepted"
	case frameHeader:
		return "header"
	case frameData:
		return "data"
	case frameHeartbeat:
		return "heartbeat"
	case frameEnd:
		return "end"
	case frameError:
		return "error"
	case frameResult:
		return "result"
	}
	return fmt.Sprintf("kind %d", byte(k))
}

// protocolError says that the other end sent what cannot come at this place.
type protocolError struct{ what string }

func (e *protocolError) Error() string {
	return "protocol error: " + e.what + "; the other end may run another version of tandemd"
}

func unexpected(k frameKind) error {
	return &protocolError{"a frame of type " + k.String() + " was not expected here"}
}

func putHead(b []byte, kind frameKind, size int) {
	b[0] = byte(kind)
	binary.BigEndian.PutUint32(b[1:headSize], uint32(size)) //nolint:gosec // sizes are within the limits above
}

// readHead reads and checks the head of a frame.
func readHead(r io.Reader) (frameKind, int, error) {
	var head [headSize]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, 0, err
	}
	kind, size := frameKind(head[0]), binary.BigEndian.Uint32(head[1:])
	limit := kind.limit()
	if limit < 0 {
		return 0, 0, unexpected(kind)
	}
	if int64(size) > int64(limit) {
		return 0, 0, &protocolError{fmt.Sprintf("a frame of type %s with %d bytes, more than %d", kind, size, limit)}
	}
	return kind, int(size), nil
}

// readSmallFrame reads a whole frame that is not data.
func readSmallFrame(r io.Reader) (frameKind, []byte, error) {
	kind, size, err := readHead(r)
	if err != nil {
		return 0, nil, err
	}
	if kind == frameData {
		return 0, nil, unexpected(kind)
	}
	payload, err := readPayload(r, size)
	return kind, payload, err
}

// readPayload reads what a head announced. It takes memory for what has come, not for
// what was announced.
func readPayload(r io.Reader, size int) ([]byte, error) {
	payload, err := io.ReadAll(io.LimitReader(r, int64(size)))
	if err == nil && len(payload) < size {
		err = io.ErrUnexpectedEOF
	}
	return payload, err
}

// midFrame: the end of a connection is never proper within a frame.
func midFrame(err error) error {
	if err == io.EOF { //nolint:errorlint // io.ReadFull returns it bare
		return io.ErrUnexpectedEOF
	}
	return err
}

// writeFrame writes a frame that is not data in one piece.
func writeFrame(w io.Writer, kind frameKind, payload []byte) error {
	if len(payload) > kind.limit() {
		return fmt.Errorf("a frame of type %s cannot carry %d bytes, only %d", kind, len(payload), kind.limit())
	}
	frame := make([]byte, headSize+len(payload))
	putHead(frame, kind, len(payload))
	copy(frame[headSize:], payload)
	_, err := w.Write(frame)
	return err
}

func writeJSONFrame(w io.Writer, kind frameKind, v any) error {
	payload, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode a frame of type %s: %w", kind, err)
	}
	return writeFrame(w, kind, payload)
}
