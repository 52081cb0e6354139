package gossip

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/tandemd/tandem/pkg/guest"
)

// Limits in bytes, so that an entry fits into one UDP packet.
const (
	MaxKey   = 128
	MaxValue = 800
)

const (
	formatVersion = 1
	nodeSize      = 16
	flagDeleted   = 1
)

// encode writes entries as
//
//	version(1) { node(16) boot(8) seq(8) flags(1) key length(1) key value length(2) value }*
//
// up to limit bytes, and tells how many have found room.
func encode(entries []entry, limit int) (out []byte, n int) {
	out = []byte{formatVersion}
	for _, e := range entries {
		b := appendEntry(nil, e)
		if len(out)+len(b) > limit {
			break
		}
		out = append(out, b...)
		n++
	}
	return out, n
}

func appendNode(b []byte, node guest.NodeID) []byte {
	id, _ := hex.DecodeString(string(node)) // node IDs are validated when they come in
	return append(b, id...)
}

func appendEntry(b []byte, e entry) []byte {
	b = appendNode(b, e.node)
	b = binary.BigEndian.AppendUint64(b, e.boot)
	b = binary.BigEndian.AppendUint64(b, e.seq)
	var flags byte
	if e.deleted {
		flags |= flagDeleted
	}
	b = append(b, flags, byte(len(e.key)))
	b = append(b, e.key...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(e.value))) //nolint:gosec // at most MaxValue
	return append(b, e.value...)
}

// decode reads what encode wrote. It takes all or nothing, and never more memory
// than a few times the input.
func decode(b []byte) ([]entry, error) {
	switch {
	case len(b) == 0:
		return nil, errors.New("empty message")
	case len(b) > maxReply:
		return nil, fmt.Errorf("message of %d bytes, more than %d", len(b), maxReply)
	case b[0] != formatVersion:
		return nil, fmt.Errorf("message of format %d, not %d", b[0], formatVersion)
	}
	b = b[1:]
	var out []entry
	for len(b) > 0 {
		e, rest, err := decodeEntry(b)
		if err != nil {
			return nil, err
		}
		out, b = append(out, e), rest
	}
	return out, nil
}

var errCut = errors.New("message is cut")

func decodeEntry(b []byte) (entry, []byte, error) {
	const fixed = nodeSize + 8 + 8 + 1 + 1
	if len(b) < fixed {
		return entry{}, nil, errCut
	}
	e := entry{
		node:    guest.NodeID(hex.EncodeToString(b[:nodeSize])),
		boot:    binary.BigEndian.Uint64(b[nodeSize:]),
		seq:     binary.BigEndian.Uint64(b[nodeSize+8:]),
		deleted: b[fixed-2]&flagDeleted != 0,
	}
	keySize := int(b[fixed-1])
	b = b[fixed:]
	if keySize > MaxKey {
		return entry{}, nil, fmt.Errorf("key of %d bytes, more than %d", keySize, MaxKey)
	}
	if len(b) < keySize+2 {
		return entry{}, nil, errCut
	}
	e.key, b = string(b[:keySize]), b[keySize:]
	valueSize := int(binary.BigEndian.Uint16(b))
	b = b[2:]
	if valueSize > MaxValue {
		return entry{}, nil, fmt.Errorf("value of %d bytes, more than %d", valueSize, MaxValue)
	}
	if len(b) < valueSize {
		return entry{}, nil, errCut
	}
	// A copy: memberlist uses the buffer again.
	e.value = append([]byte(nil), b[:valueSize]...)
	return e, b[valueSize:], nil
}
