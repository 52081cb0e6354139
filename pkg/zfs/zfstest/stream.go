package zfstest

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"sync"

	"github.com/tandemd/tandem/pkg/zfs"
	"github.com/tandemd/tandem/pkg/zfs/zerr"
	"github.com/tandemd/tandem/pkg/zfs/zfstest/content"
	"github.com/tandemd/tandem/pkg/zfs/zfstest/disk"
	"github.com/tandemd/tandem/pkg/zfs/zfstest/wire"
	"github.com/tandemd/tandem/pkg/zfs/zname"
)

// piece is one snapshot to send.
type piece struct {
	wire.Header
	snap  *disk.Snapshot
	after uint64 // blocks born later
}

// resolve turns a spec into what to send, or zfs's error. Locked.
func (p *Pool) resolve(spec zfs.SendSpec) ([]piece, error) {
	if spec.Token != "" {
		return p.resume(spec.Token)
	}
	to, err := p.openSnap("send", spec.Snapshot)
	if err != nil {
		return nil, err
	}
	if encryption, _ := p.effective(to.Of, "encryption"); encryption != "off" && !spec.Raw && p.keyless(to.Of) {
		return nil, zerr.New("send", spec.Snapshot, 1, fmt.Sprintf("warning: cannot send '%s': dataset key must be loaded", spec.Snapshot))
	}
	pc := p.piece(to, spec)
	if spec.From == "" {
		return []piece{pc}, nil
	}
	from, err := p.openSnap("send", spec.From)
	if err != nil {
		return nil, zerr.New("send", spec.Snapshot, 1, fmt.Sprintf("cannot send '%s': incremental source (%s) does not exist", spec.Snapshot, spec.From))
	}
	if !earlier(from, to) {
		return nil, zerr.New("send", spec.Snapshot, 1, fmt.Sprintf("cannot send '%s': not an earlier snapshot from the same fs", spec.Snapshot))
	}
	var all []piece
	last := from
	if spec.Intermediates {
		for _, s := range to.Of.Snaps {
			if s.CreateTXG > from.CreateTXG && s.CreateTXG < to.CreateTXG {
				mid := p.piece(s, spec)
				mid.FromGUID, mid.FromIVSet, mid.after, mid.More, mid.Package = last.GUID, last.IVSet, last.CreateTXG, true, true
				all, last = append(all, mid), s
			}
		}
	}
	pc.FromGUID, pc.FromIVSet, pc.after, pc.Package = last.GUID, last.IVSet, last.CreateTXG, spec.Intermediates
	return append(all, pc), nil
}

func earlier(from, to *disk.Snapshot) bool {
	if from.CreateTXG >= to.CreateTXG {
		return false
	}
	for d := to.Of; d != nil; d = d.Origin.Of {
		if d == from.Of {
			return true
		}
		if d.Origin == nil {
			return false
		}
	}
	return false
}

func (p *Pool) piece(s *disk.Snapshot, spec zfs.SendSpec) piece {
	pc := piece{snap: s, Header: wire.Header{To: s.Full(), ToGUID: s.GUID, Type: s.Of.Type, VolSize: s.Content.VolSize, Raw: spec.Raw, ToIVSet: s.IVSet}}
	if spec.Raw {
		pc.Encryption, _ = p.effective(s.Of, "encryption")
	}
	return pc
}

func (p *Pool) resume(token string) ([]piece, error) {
	t, err := wire.ParseToken(token)
	if err != nil {
		return nil, err
	}
	fail := func(format string, args ...any) error {
		return zerr.New("send", t.To, 255, "cannot resume send: "+fmt.Sprintf(format, args...))
	}
	var to *disk.Snapshot // by its GUID: it may have been renamed
	if d := p.datasets[zname.DatasetOf(t.To)]; d != nil {
		to = d.SnapByGUID(t.ToGUID)
	}
	if to == nil {
		return nil, fail("'%s' used in the initial send no longer exists", t.To)
	}
	pc := p.piece(to, zfs.SendSpec{Raw: t.Raw})
	pc.Skip, pc.FromGUID, pc.Resumed = t.Records, t.FromGUID, true
	if t.FromGUID == 0 {
		return []piece{pc}, nil
	}
	from := to.Of.SnapByGUID(t.FromGUID)
	for _, b := range to.Of.Marks {
		if from == nil && b.GUID == t.FromGUID {
			from = b
		}
	}
	if from == nil && to.Of.Origin != nil && to.Of.Origin.GUID == t.FromGUID {
		from = to.Of.Origin
	}
	if from == nil {
		return nil, fail("Invalid cross-device link")
	}
	pc.after, pc.FromIVSet = from.CreateTXG, from.IVSet
	return []piece{pc}, nil
}

// EstimateSend is [zfs.ZFS.EstimateSend].
func (p *Pool) EstimateSend(ctx context.Context, spec zfs.SendSpec) (uint64, error) {
	var size uint64
	if err := spec.Check(); err != nil {
		return 0, err
	}
	err := p.do(ctx, "EstimateSend", spec.Names(), func() error {
		pieces, err := p.resolve(spec)
		for _, pc := range pieces {
			size += uint64(len(pc.snap.Content.Changed(pc.after))-pc.Skip) * content.BlockSize
		}
		return err
	})
	return size, err
}

// TokenInfo is [zfs.ZFS.TokenInfo].
func (p *Pool) TokenInfo(ctx context.Context, dataset, token string) (zfs.Token, error) {
	if err := check("send -t", cmp.Or(zname.Token(token), zname.Dataset(dataset))); err != nil {
		return zfs.Token{}, err
	}
	var info zfs.Token
	err := p.do(ctx, "TokenInfo", []string{dataset}, func() error {
		t, err := wire.ParseToken(token)
		if err != nil {
			return err
		}
		info = zfs.Token{ToName: t.To, ToGUID: t.ToGUID, FromGUID: t.FromGUID, Bytes: t.Bytes, Raw: t.Raw}
		pieces, err := p.resume(token)
		for _, pc := range pieces {
			info.Size = uint64(len(pc.snap.Content.Changed(pc.after))-pc.Skip) * content.BlockSize
		}
		return err
	})
	return info, err
}

// Send is [zfs.ZFS.Send]. The snapshots sent cannot be destroyed until the stream was read to its end or closed.
func (p *Pool) Send(ctx context.Context, spec zfs.SendSpec) (zfs.Stream, error) {
	if err := spec.Check(); err != nil {
		return nil, err
	}
	var s *stream
	err := p.do(ctx, "Send", spec.Names(), func() error {
		pieces, err := p.resolve(spec)
		if err != nil {
			return err
		}
		s = &stream{p: p, ctx: ctx, pieces: pieces, name: pieces[len(pieces)-1].To}
		for _, pc := range pieces {
			pc.snap.Sending++
			encode(&s.buf, pc)
		}
		return nil
	})
	if err != nil {
		return nil, cmp.Or(s.end(), err)
	}
	s.left = p.Cut("Send", s.name)
	s.cut = s.left > 0
	return s, nil
}

func encode(w *bytes.Buffer, pc piece) {
	wire.WriteHeader(w, pc.Header)
	list := pc.snap.Content.Changed(pc.after)
	for _, i := range list[min(pc.Skip, len(list)):] {
		data := pc.snap.Content.Block(i)
		wire.WriteRecord(w, wire.Record{Index: i, Len: uint32(len(data)), Data: data})
	}
	wire.WriteRecord(w, wire.Record{Index: wire.End, Len: uint32(len(list))})
}

// stream is a running send.
type stream struct {
	p      *Pool
	ctx    context.Context // the send's: it ends with it, as the process does
	name   string
	pieces []piece
	buf    bytes.Buffer
	cut    bool
	left   int64
	once   sync.Once
	err    error
}

func (s *stream) Read(b []byte) (int, error) {
	if s.ctx.Err() != nil && s.err == nil {
		s.err = &zfs.Error{Op: "send", Dataset: s.name, Class: zfs.ClassCanceled, Exit: -1, Err: context.Cause(s.ctx)}
	}
	if s.err == nil && s.cut {
		b = b[:min(int64(len(b)), s.left)]
		if s.left -= int64(len(b)); len(b) == 0 {
			s.err = zerr.New("send", s.name, 1, fmt.Sprintf("warning: cannot send '%s': signal received", s.name))
		}
	}
	if s.err != nil {
		_ = s.end()
		return 0, s.err
	}
	n, err := s.buf.Read(b)
	if err != nil {
		_ = s.end()
		if late := s.p.At(s.ctx, Event{Op: "Send", Name: s.name, After: true}); late != nil && s.err == nil {
			s.err = late
			return 0, late
		}
	}
	return n, err
}

func (s *stream) Wait() error { return s.err }

func (s *stream) Close() error { return s.end() }

func (s *stream) end() error {
	if s == nil {
		return nil
	}
	s.once.Do(func() {
		s.p.mu.Lock()
		defer s.p.mu.Unlock()
		for _, pc := range s.pieces {
			pc.snap.Sending--
		}
	})
	return nil
}
