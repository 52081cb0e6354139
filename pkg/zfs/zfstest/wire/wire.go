// Package wire is the form of the in-memory pool's send streams and resume tokens: self-describing and checksummed, and not
// ZFS's. Tests alone import it.
package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"

	"github.com/tandemd/tandem/pkg/zfs"
	"github.com/tandemd/tandem/pkg/zfs/zerr"
)

const magic = "ZFSTEST1"

// Header begins each snapshot in a stream. Then come records, and one of index End with their number as its length.
type Header struct {
	To               string // full name on the sender
	ToGUID, FromGUID uint64
	Type             zfs.Type
	VolSize          uint64
	Encryption       string
	Raw              bool
	// ToIVSet and FromIVSet identify how the blocks of the snapshots were encrypted.
	ToIVSet, FromIVSet uint64
	Skip               int  // records that a resumed stream leaves out
	More               bool // another snapshot follows
	Package            bool // made with -I
	Resumed            bool
}

// Record is one block; without data a hole.
type Record struct {
	Index int64
	Len   uint32
	Data  []byte
}

// End is the Index of the last record.
const End = -1

// ErrMagic says that this is no stream.
var ErrMagic = errors.New("bad magic number")

// WriteHeader writes the header.
func WriteHeader(w *bytes.Buffer, h Header) {
	text, err := json.Marshal(h)
	if err != nil {
		return // No field of it can fail.
	}
	w.WriteString(magic)
	WriteRecord(w, Record{Len: uint32(len(text)), Data: text})
}

// WriteRecord writes index, length, data, checksum.
func WriteRecord(w *bytes.Buffer, r Record) {
	start := w.Len()
	w.Write(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(nil, uint64(r.Index)), r.Len))
	w.Write(r.Data)
	w.Write(binary.BigEndian.AppendUint32(nil, crc32.ChecksumIEEE(w.Bytes()[start:])))
}

// ReadHeader reads a header; io.EOF only if there is nothing at all.
func ReadHeader(r io.Reader) (Header, error) {
	var h Header
	start := make([]byte, len(magic))
	if _, err := io.ReadFull(r, start); err != nil {
		return h, err
	}
	if string(start) != magic {
		return h, ErrMagic
	}
	rec, err := ReadRecord(r)
	if err != nil {
		return h, errors.Join(io.ErrUnexpectedEOF, err)
	}
	return h, json.Unmarshal(rec.Data, &h)
}

// ReadRecord reads one record and checks it.
func ReadRecord(r io.Reader) (Record, error) {
	head := make([]byte, 12)
	if _, err := io.ReadFull(r, head); err != nil {
		return Record{}, err
	}
	rec := Record{Index: int64(binary.BigEndian.Uint64(head)), Len: binary.BigEndian.Uint32(head[8:])}
	if rec.Index != End {
		if rec.Len > 1<<20 {
			return Record{}, fmt.Errorf("record of %d bytes", rec.Len)
		}
		rec.Data = make([]byte, rec.Len)
	}
	sum := make([]byte, 4)
	if _, err := io.ReadFull(r, rec.Data); err != nil {
		return Record{}, err
	}
	if _, err := io.ReadFull(r, sum); err != nil {
		return Record{}, err
	}
	if binary.BigEndian.Uint32(sum) != crc32.Update(crc32.ChecksumIEEE(head), crc32.IEEETable, rec.Data) {
		return Record{}, errors.New("checksum mismatch")
	}
	return rec, nil
}

// Ticket is what a resume token says.
type Ticket struct {
	To               string
	ToGUID, FromGUID uint64
	Records          int
	Bytes            uint64
	Raw              bool
}

// Token is the ticket in the form of a resume token.
func (t Ticket) Token() string {
	text, err := json.Marshal(t)
	if err != nil {
		return "" // No field of it can fail.
	}
	return fmt.Sprintf("1-%08x-%x-%s", crc32.ChecksumIEEE(text), len(text), hex.EncodeToString(text))
}

// ParseToken reads a token; the errors are zfs's.
func ParseToken(token string) (Ticket, error) {
	var t Ticket
	bad := func(why string) error {
		return zerr.New("send", "", 255, "cannot resume send: resume token is corrupt ("+why+")")
	}
	parts := strings.Split(token, "-")
	if len(parts) != 4 || parts[0] != "1" {
		return t, bad("invalid format")
	}
	text, err := hex.DecodeString(parts[3])
	if err != nil {
		return t, bad("invalid format")
	}
	if fmt.Sprintf("%08x", crc32.ChecksumIEEE(text)) != parts[1] {
		return t, bad("incorrect checksum")
	}
	if json.Unmarshal(text, &t) != nil {
		return t, bad("nvlist_unpack failed")
	}
	return t, nil
}
