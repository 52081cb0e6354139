package zfstest

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/tandemd/tandem/pkg/zfs"
	"github.com/tandemd/tandem/pkg/zfs/zerr"
	"github.com/tandemd/tandem/pkg/zfs/zfstest/content"
)

// Contents is [zfs.ZFS.Contents]. A filesystem's blocks are its files, named block-00000000 and so on.
func (p *Pool) Contents(ctx context.Context, spec zfs.ContentsSpec) (zfs.Stream, error) {
	if err := spec.Check(); err != nil {
		return nil, err
	}
	if err := p.Clone(ctx, spec.Snapshot, spec.Clone, spec.Props()); err != nil {
		return nil, err
	}
	s := &contents{p: p, ctx: ctx, spec: spec}
	err := p.do(ctx, "Contents", []string{spec.Clone}, func() error {
		d, err := p.open("read contents", spec.Clone)
		if err != nil {
			return err
		}
		if p.keyless(d.Origin.Of) {
			return zerr.New("read contents", spec.Clone, 1, fmt.Sprintf("filesystem '%s' can not be mounted: encryption key not loaded", spec.Clone))
		}
		if d.Type == zfs.TypeVolume {
			s.data = d.Live.Bytes()
			return nil
		}
		s.data, err = archive(d.Live.Bytes())
		return err
	})
	if err != nil {
		return nil, errors.Join(err, p.DropContents(context.WithoutCancel(ctx), spec))
	}
	s.cut = p.Cut("Contents", spec.Snapshot)
	return s, nil
}

// DropContents is [zfs.ZFS.DropContents].
func (p *Pool) DropContents(ctx context.Context, spec zfs.ContentsSpec) error {
	list, err := p.List(ctx, spec.Clone)
	if err != nil || zfs.ClassOf(list[0].Err) == zfs.ClassGone {
		return err
	}
	return p.DestroyDataset(ctx, zfs.DestroySpec{Dataset: spec.Clone, GUID: list[0].GUID, Guest: spec.Guest, Role: zfs.RoleReading})
}

func archive(data []byte) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(data); i += content.BlockSize {
		h := &tar.Header{
			Typeflag: tar.TypeReg, Name: fmt.Sprintf("./block-%08d", i/content.BlockSize), Size: content.BlockSize, Mode: 0o644,
			ModTime: time.Unix(0, 0), Format: tar.FormatPAX,
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(data[i : i+content.BlockSize]); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), w.Close()
}

// contents is the stream of a reading.
type contents struct {
	p    *Pool
	ctx  context.Context // the reading's: it ends with it, as the process does
	spec zfs.ContentsSpec
	data []byte
	at   int
	// cut is after how many bytes the disk gives an error; 0: it does not.
	cut  int64
	left error
	done bool
}

func (s *contents) Read(b []byte) (int, error) {
	switch {
	case s.ctx.Err() != nil:
		return 0, &zfs.Error{Op: "read contents", Dataset: s.spec.Clone, Class: zfs.ClassCanceled, Exit: -1, Err: context.Cause(s.ctx)}
	case s.cut > 0 && int64(s.at) >= s.cut:
		return 0, zerr.New("read contents", s.spec.Clone, 1, "cat: "+s.spec.Clone+": Input/output error")
	case s.at == len(s.data):
		return 0, io.EOF
	}
	n := copy(b, s.data[s.at:])
	s.at += n
	return n, nil
}

func (s *contents) Wait() error { return nil }

func (s *contents) Close() error {
	if !s.done {
		s.done, s.left = true, s.p.DropContents(context.WithoutCancel(s.ctx), s.spec)
	}
	return s.left
}

// Damage changes blocks of a snapshot behind the back of ZFS: its GUID stays and its data does not. Offset and length are
// multiples of 4 KiB.
func (p *Pool) Damage(snap string, offset int64, data []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	s, err := p.openSnap("damage", snap)
	if err != nil {
		return err
	}
	for i := 0; i+content.BlockSize <= len(data); i += content.BlockSize {
		s.Content.Put((offset+int64(i))/content.BlockSize, bytes.Clone(data[i:i+content.BlockSize]), s.CreateTXG, s.CreateTXG)
	}
	return nil
}
