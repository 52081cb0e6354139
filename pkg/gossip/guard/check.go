package guard

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/hashicorp/go-msgpack/v2/codec"
)

// The types of memberlist's messages, which are part of its protocol (net.go).
const (
	pingMsg = iota
	indirectPingMsg
	ackMsg
	suspectMsg
	aliveMsg
	deadMsg
	pushPullMsg
	compoundMsg
	userMsg
	_ // compressed: nobody in a cluster of ours sends that
	encryptMsg
	nackMsg
	hasCrcMsg
	errMsg
	hasLabel = 244
)

const (
	labelHead = 2 // type and length
	crcHead   = 5 // type and checksum
	// memberlist's second way of encrypting (security.go), the only one in use.
	encryption = 1
	nonceSize  = 12
	tagSize    = 16
)

// ErrMessage means that it is nothing that a member sends.
var ErrMessage = errors.New("not a message of a member")

// ErrKey means that it has the cluster's label, and no key in use decrypts it.
var ErrKey = errors.New("encrypted with a key that is not in use")

// ForeignError means that it carries the label of another cluster.
type ForeignError struct{ Label string }

// Error names the label, which may be anything.
func (e *ForeignError) Error() string { return fmt.Sprintf("it is for another cluster, %q", e.Label) }

func newAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("gossip key: %w", err)
	}
	return cipher.NewGCM(block)
}

// open decrypts; there is at least one byte in what it returns. (memberlist takes
// an empty message for one with a type, and its older way of encrypting for one
// with a sound padding.)
func (t *Transport) open(sealed, label []byte) ([]byte, error) {
	if len(sealed) <= 1+nonceSize+tagSize || sealed[0] != encryption {
		return nil, fmt.Errorf("%w: it is not encrypted as members do", ErrMessage)
	}
	for _, key := range *t.keys.Load() {
		plain, err := key.Open(nil, sealed[1:1+nonceSize], sealed[1+nonceSize:], label)
		if err == nil {
			return plain, nil
		}
	}
	return nil, ErrKey
}

// checkPacket looks at one UDP packet.
func (t *Transport) checkPacket(b []byte) error {
	if len(b) > maxPacket {
		return fmt.Errorf("%w: a packet of %d bytes, more than %d", ErrMessage, len(b), maxPacket)
	}
	if len(b) < labelHead || b[0] != hasLabel || len(b) < labelHead+int(b[1]) {
		return fmt.Errorf("%w: it has no label", ErrMessage)
	}
	name, sealed := b[labelHead:labelHead+int(b[1])], b[labelHead+int(b[1]):]
	if !bytes.Equal(name, t.label[labelHead:]) {
		return &ForeignError{Label: string(name)}
	}
	plain, err := t.open(sealed, name)
	if err != nil {
		return err
	}
	if plain[0] == hasCrcMsg && len(plain) > crcHead {
		plain = plain[crcHead:]
	}
	if plain[0] == compoundMsg {
		return t.checkCompound(plain[1:])
	}
	return t.checkKind(plain)
}

// checkCompound looks at each part: number(1) { size(2) }* { part }*.
func (t *Transport) checkCompound(b []byte) error {
	if len(b) < 1 || len(b) < 1+2*int(b[0]) {
		return fmt.Errorf("%w: a compound is cut", ErrMessage)
	}
	sizes, parts := b[1:1+2*int(b[0])], b[1+2*int(b[0]):]
	for ; len(sizes) > 0; sizes = sizes[2:] {
		size := int(binary.BigEndian.Uint16(sizes))
		if size > len(parts) {
			return fmt.Errorf("%w: a compound is cut", ErrMessage)
		}
		if err := t.checkKind(parts[:size]); err != nil {
			return err
		}
		parts = parts[size:]
	}
	return nil
}

// checkKind looks at one message. What is in it memberlist bounds by the packet.
func (t *Transport) checkKind(b []byte) error {
	if len(b) == 0 {
		return fmt.Errorf("%w: it is empty", ErrMessage)
	}
	switch b[0] {
	case pingMsg, ackMsg, nackMsg, suspectMsg, aliveMsg, deadMsg, userMsg:
		return nil
	case indirectPingMsg:
		if !t.indirect.Allow() {
			return fmt.Errorf("%w: too many pings on behalf of others", ErrMessage)
		}
		return nil
	default:
		return fmt.Errorf("%w: type %d in a packet", ErrMessage, b[0])
	}
}

// header is what memberlist's pushPullHeader says of sizes.
type header struct {
	Nodes        int
	UserStateLen int
}

// check looks at what came on a connection. A member asks for an exchange
// or pings; it answers with the same, or with an error.
func (s *stream) check(plain []byte) error {
	switch kind := plain[0]; {
	case kind == pingMsg && !s.answer, kind == ackMsg && s.answer, kind == errMsg && s.answer:
		return nil
	case kind != pushPullMsg:
		return fmt.Errorf("%w: type %d in a stream", ErrMessage, kind)
	}
	var h header
	if err := codec.NewDecoderBytes(plain[1:], &codec.MsgpackHandle{}).Decode(&h); err != nil {
		return fmt.Errorf("%w: an exchange without a header: %w", ErrMessage, err)
	}
	if h.Nodes < 0 || h.Nodes > s.t.opts.Nodes || h.UserStateLen < 0 || h.UserStateLen > s.t.opts.State {
		return fmt.Errorf("%w: an exchange of %d nodes and %d bytes, more than %d and %d",
			ErrMessage, h.Nodes, h.UserStateLen, s.t.opts.Nodes, s.t.opts.State)
	}
	return nil
}
