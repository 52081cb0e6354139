package guard

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
)

// stream is a connection of which memberlist reads nothing before the one message
// that it carries has come in completely and was looked at. The deadline is
// memberlist's.
type stream struct {
	net.Conn
	t *Transport
	// answer: we dialled, and read what the other end answers.
	answer bool

	once    sync.Once
	message io.Reader
	err     error
}

// Read returns the message, label and all, and then the end.
func (s *stream) Read(b []byte) (int, error) {
	s.once.Do(func() {
		var whole []byte
		if whole, s.err = s.readMessage(); s.err != nil {
			if !errors.Is(s.err, io.EOF) && !errors.Is(s.err, net.ErrClosed) {
				s.t.opts.Refused(s.RemoteAddr(), s.err)
			}
			return
		}
		s.message = bytes.NewReader(whole)
		s.t.streams.trust(s)
	})
	if s.err != nil {
		return 0, s.err
	}
	return s.message.Read(b)
}

// Close makes room for the next.
func (s *stream) Close() error {
	s.t.streams.remove(s)
	return s.Conn.Close()
}

// sealedHead is the type and the size before an encrypted message.
const sealedHead = 1 + 4

// readMessage reads label (which answers do not have), head and message.
func (s *stream) readMessage() ([]byte, error) {
	var whole []byte
	if !s.answer {
		if err := s.readLabel(); err != nil {
			return nil, err
		}
		whole = slices.Clone(s.t.label)
	}
	var head [sealedHead]byte
	if _, err := io.ReadFull(s.Conn, head[:]); err != nil {
		return nil, err
	}
	if head[0] != encryptMsg {
		return nil, fmt.Errorf("%w: it is not encrypted", ErrMessage)
	}
	size := binary.BigEndian.Uint32(head[1:])
	if size > maxStream {
		return nil, fmt.Errorf("%w: a stream of %d bytes, more than %d", ErrMessage, size, maxStream)
	}
	sealed := make([]byte, size)
	if _, err := io.ReadFull(s.Conn, sealed); err != nil {
		return nil, err
	}
	plain, err := s.t.open(sealed, slices.Concat(head[:], s.t.label[labelHead:]))
	if err != nil {
		return nil, err
	}
	if err := s.check(plain); err != nil {
		return nil, err
	}
	return slices.Concat(whole, head[:], sealed), nil
}

// readLabel reads the label that a stream begins with and compares it with ours.
func (s *stream) readLabel() error {
	var head [labelHead]byte
	if _, err := io.ReadFull(s.Conn, head[:]); err != nil {
		return err
	}
	if head[0] != hasLabel {
		return fmt.Errorf("%w: it has no label", ErrMessage)
	}
	name := make([]byte, head[1])
	if _, err := io.ReadFull(s.Conn, name); err != nil {
		return err
	}
	if !bytes.Equal(name, s.t.label[labelHead:]) {
		return &ForeignError{Label: string(name)}
	}
	return nil
}

// streams are the connections that others opened.
type streams struct {
	mu sync.Mutex
	// fresh have not yet brought a message that is a member's, oldest first; good
	// have.
	fresh []*stream
	good  map[*stream]bool
}

// add takes a connection in. When there are too many the oldest that has not
// brought its message goes: a member's takes a moment only.
func (s *streams) add(c *stream) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.fresh)+len(s.good) >= maxStreams {
		if len(s.fresh) == 0 {
			return false
		}
		_ = s.fresh[0].Conn.Close() // its reader gets the error
		s.fresh = slices.Delete(s.fresh, 0, 1)
	}
	s.fresh = append(s.fresh, c)
	return true
}

func (s *streams) trust(c *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.Index(s.fresh, c)
	if i < 0 {
		return // an answer, or it was closed to make room
	}
	s.fresh = slices.Delete(s.fresh, i, i+1)
	if s.good == nil {
		s.good = map[*stream]bool{}
	}
	s.good[c] = true
}

func (s *streams) remove(c *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.good, c)
	if i := slices.Index(s.fresh, c); i >= 0 {
		s.fresh = slices.Delete(s.fresh, i, i+1)
	}
}

func (s *streams) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.fresh {
		_ = c.Conn.Close() // the end of all of them
	}
	for c := range s.good {
		_ = c.Conn.Close() // the end of all of them
	}
}
