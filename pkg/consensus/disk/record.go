package disk

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"time"

	"github.com/hashicorp/raft"
)

// A segment file is a header (magic, first index) and records. A record is its
// length and a CRC-32C, 4 bytes each, big endian, then the entry: index, term,
// type, the offset at which its batch began, time, data, extensions. The checksum
// covers the length too.
//
// The offset of the batch tells torn writes from damage: a record of a batch that
// began at X proves that all before X was synced, so that what cannot be read
// before X was acknowledged once.
const (
	magic      = "tandem-raft-log1"
	headerSize = int64(len(magic) + 8)
	frameSize  = 8
	// maxRecord bounds what a broken length can make us read into memory.
	maxRecord = 64 << 20
)

func checksum(length, body []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	return crc32.Update(crc32.Checksum(length, table), table, body)
}

func header(first uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte(magic), first)
}

// appendRecord encodes l, of a batch that begins at offset batch of its file.
func appendRecord(b []byte, l *raft.Log, batch int64) []byte {
	start := len(b)
	b = append(b, make([]byte, frameSize)...)
	b = binary.AppendUvarint(b, l.Index)
	b = binary.AppendUvarint(b, l.Term)
	b = append(b, byte(l.Type))
	b = binary.AppendUvarint(b, uint64(batch))
	var at int64
	if !l.AppendedAt.IsZero() {
		at = l.AppendedAt.UnixNano()
	}
	b = binary.AppendVarint(b, at)
	b = binary.AppendUvarint(b, uint64(len(l.Data)))
	b = append(b, l.Data...)
	b = append(b, l.Extensions...)
	frame, body := b[start:start+frameSize], b[start+frameSize:]
	binary.BigEndian.PutUint32(frame, uint32(len(body)))
	binary.BigEndian.PutUint32(frame[4:], checksum(frame[:4], body))
	return b
}

var errRecord = errors.New("the checksum does not match")

// decodeRecord reads the body of a record whose checksum matched into l, which
// shares no memory with it.
func decodeRecord(body []byte, l *raft.Log) (batch int64, err error) {
	short := errors.New("the record ends too early")
	number := func() uint64 {
		v, n := binary.Uvarint(body)
		if n <= 0 {
			err = short
			return 0
		}
		body = body[n:]
		return v
	}
	*l = raft.Log{Index: number(), Term: number()}
	if err != nil || len(body) == 0 {
		return 0, short
	}
	l.Type, body = raft.LogType(body[0]), body[1:]
	batch = int64(number())
	if err != nil {
		return 0, err
	}
	at, n := binary.Varint(body)
	if n <= 0 {
		return 0, short
	}
	body = body[n:]
	if at != 0 {
		l.AppendedAt = time.Unix(0, at)
	}
	size := number()
	if err != nil || size > uint64(len(body)) {
		return 0, short
	}
	if size > 0 {
		l.Data = append([]byte(nil), body[:size]...)
	}
	if rest := body[size:]; len(rest) > 0 {
		l.Extensions = append([]byte(nil), rest...)
	}
	return batch, nil
}

// readRecord reads the record at an offset into l.
func readRecord(r io.ReaderAt, at, end int64, l *raft.Log) error {
	b := make([]byte, end-at)
	if _, err := r.ReadAt(b, at); err != nil {
		return err
	}
	if !whole(b) {
		return errRecord
	}
	_, err := decodeRecord(b[frameSize:], l)
	return err
}

// whole says whether b is exactly one record.
func whole(b []byte) bool {
	return len(b) > frameSize && int(binary.BigEndian.Uint32(b)) == len(b)-frameSize &&
		binary.BigEndian.Uint32(b[4:]) == checksum(b[:4], b[frameSize:])
}

// scan is what reading through a segment found.
type scan struct {
	headed  bool    // the header is whole, and of this segment
	offsets []int64 // where each record begins
	end     int64   // where the last whole record ends
	size    int64   // of the file
	reason  string  // why reading ended before size; "" where it did not
}

// scanSegment reads the records of a segment file that begins with index first,
// up to the one before limit.
func scanSegment(f *os.File, first, limit uint64) (scan, error) {
	info, err := f.Stat()
	if err != nil {
		return scan{}, err
	}
	s := scan{size: info.Size(), end: headerSize}
	r := bufio.NewReaderSize(io.NewSectionReader(f, 0, s.size), 1<<16)
	head := make([]byte, headerSize)
	if _, err := io.ReadFull(r, head); err != nil || string(head) != string(header(first)) {
		s.reason = "its header is not that of a log of this name"
		return s, ignoreEOF(err)
	}
	s.headed = true
	var body []byte
	for index := first; index < limit && s.end < s.size; index++ {
		frame := make([]byte, frameSize)
		if _, err := io.ReadFull(r, frame); err != nil {
			s.reason = "it ends within a record"
			return s, ignoreEOF(err)
		}
		n := int64(binary.BigEndian.Uint32(frame))
		if n == 0 || n > maxRecord || n > s.size-s.end-frameSize {
			s.reason = "a length cannot be"
			return s, nil
		}
		body = append(body[:0], make([]byte, n)...)
		if _, err := io.ReadFull(r, body); err != nil {
			return s, err
		}
		if checksum(frame[:4], body) != binary.BigEndian.Uint32(frame[4:]) {
			s.reason = errRecord.Error()
			return s, nil
		}
		var l raft.Log
		_, malformed := decodeRecord(body, &l)
		switch {
		case malformed != nil:
			s.reason = malformed.Error()
		case l.Index != index:
			s.reason = fmt.Sprintf("entry %d stands where %d is expected", l.Index, index)
		}
		if s.reason != "" {
			return s, nil
		}
		s.offsets = append(s.offsets, s.end)
		s.end += frameSize + n
	}
	return s, nil
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}

// syncedBeyond says whether a whole record after s.end proves that what stands at
// s.end was synced once, so that it is damage and no torn write.
func (s scan) syncedBeyond(f *os.File) (bool, error) {
	rest := make([]byte, s.size-s.end)
	if _, err := f.ReadAt(rest, s.end); err != nil {
		return false, err
	}
	for i := 1; i+frameSize < len(rest); i++ {
		n := int(binary.BigEndian.Uint32(rest[i:]))
		if n == 0 || n > len(rest)-i-frameSize || !whole(rest[i:i+frameSize+n]) {
			continue
		}
		var l raft.Log
		if batch, err := decodeRecord(rest[i+frameSize:i+frameSize+n], &l); err == nil && batch > s.end && batch <= s.end+int64(i) {
			return true, nil
		}
	}
	return false, nil
}
