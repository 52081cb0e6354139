package zfstest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/tandemd/tandem/pkg/zfs"
	"github.com/tandemd/tandem/pkg/zfs/zerr"
	"github.com/tandemd/tandem/pkg/zfs/zfstest/disk"
	"github.com/tandemd/tandem/pkg/zfs/zfstest/wire"
	"github.com/tandemd/tandem/pkg/zfs/zname"
)

// Receive is [zfs.ZFS.Receive].
func (p *Pool) Receive(ctx context.Context, spec zfs.ReceiveSpec, r io.Reader) (zfs.Received, error) {
	props, err := spec.Options()
	if err != nil {
		return zfs.Received{}, err
	}
	in := &input{ctx: ctx, r: r, left: -1, life: p.life()}
	if cut := p.Cut("Receive", spec.Dataset); cut > 0 {
		in.left = cut
	}
	err = p.At(ctx, Event{Op: "Receive", Name: spec.Dataset})
	defer p.unmark(spec.Dataset, in)
	for more, first := true, true; err == nil && more; first = false {
		more, err = p.receiveOne(spec, props, in, first)
	}
	if err == nil {
		err = p.At(ctx, Event{Op: "Receive", Name: spec.Dataset, After: true})
	}
	got := zfs.Received{Bytes: in.n}
	switch {
	case ctx.Err() != nil:
		return got, &zfs.Error{Op: "receive", Dataset: spec.Dataset, Class: zfs.ClassCanceled, Exit: -1, Err: context.Cause(ctx)}
	case in.failed != nil:
		e := &zfs.Error{Op: "receive", Dataset: spec.Dataset, Class: zfs.ClassPeer, Exit: -1, Err: in.failed}
		if said, ok := errors.AsType[*zfs.Error](err); ok {
			e.Exit, e.Stderr = said.Exit, said.Stderr
		}
		return got, e
	}
	return got, err
}

// input counts what is read, and ends where the context or a fault says.
type input struct {
	ctx    context.Context // the receive's
	r      io.Reader
	n      int64
	left   int64 // -1: no limit
	life   int   // in which the receive began
	failed error
	// marked are the properties that the receive gave a dataset that is not complete yet.
	marked []string
}

func (in *input) Read(b []byte) (int, error) {
	if in.ctx.Err() != nil || in.left == 0 {
		return 0, io.EOF
	}
	if in.left > 0 {
		b = b[:min(int64(len(b)), in.left)]
	}
	n, err := in.r.Read(b)
	in.n += int64(n)
	if in.left > 0 {
		in.left -= int64(n)
	}
	if err != nil && !errors.Is(err, io.EOF) && in.failed == nil {
		in.failed = err
	}
	return n, err
}

// receiveOne takes one snapshot's part of the stream.
func (p *Pool) receiveOne(spec zfs.ReceiveSpec, props map[string]string, in *input, first bool) (more bool, err error) {
	fail := func(format string, args ...any) error {
		return zerr.New("receive", spec.Dataset, 1, fmt.Sprintf(format, args...))
	}
	h, err := wire.ReadHeader(in)
	switch {
	case err == nil:
	case errors.Is(err, io.EOF) && first:
		return false, fail("cannot receive: failed to read from stream")
	case errors.Is(err, wire.ErrMagic):
		return false, fail("cannot receive: invalid stream (bad magic number)")
	default:
		return false, fail("cannot receive: checksum mismatch or incomplete stream")
	}
	p.mu.Lock()
	if err = p.alive(in.life, "receive", spec.Dataset); err == nil {
		err = p.ready("receive", []string{spec.Dataset})
	}
	var d *disk.Dataset
	skip := false
	if err == nil {
		p.txg++
		d, skip, err = p.accept(spec, h)
		if err == nil && !skip {
			d.Receiving = true
			in.mark(d, props)
		}
		p.synced()
	}
	p.mu.Unlock()
	if err != nil {
		return false, err
	}
	if skip {
		return h.More, drain(spec.Dataset, in)
	}
	if err := p.fill(d, spec.Dataset, in); err != nil {
		return false, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.alive(in.life, "receive", spec.Dataset); err != nil {
		return false, err
	}
	p.commit(d, props)
	in.marked = nil
	p.synced()
	return h.More, nil
}

// mark gives a dataset that a stream is making its properties. They stand from the beginning.
func (in *input) mark(d *disk.Dataset, props map[string]string) {
	if !d.Partial.Created {
		return
	}
	for name := range props {
		if _, has := d.Props[name]; !has {
			in.marked = append(in.marked, name)
		}
	}
	keep(d.Props, props)
}

// unmark takes them off again where the receive failed. One that is killed does not come to it (seen on 2.3.9).
func (p *Pool) unmark(name string, in *input) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := p.datasets[name]
	if len(in.marked) == 0 || in.ctx.Err() != nil || in.life != p.power.life || d == nil || d.Partial == nil {
		return
	}
	for _, prop := range in.marked {
		delete(d.Props, prop)
	}
	p.synced()
}

// accept decides whether the stream fits, and prepares the dataset. Locked.
func (p *Pool) accept(spec zfs.ReceiveSpec, h wire.Header) (d *disk.Dataset, skip bool, err error) {
	fail := func(format string, args ...any) error {
		return zerr.New("receive", spec.Dataset, 1, fmt.Sprintf(format, args...))
	}
	_, own, _ := strings.Cut(h.To, "@")
	if zname.Snapshot(spec.Dataset+"@"+own) != nil {
		return nil, false, fail("cannot receive: invalid name '%s@%s'", spec.Dataset, own)
	}
	d = p.datasets[spec.Dataset]
	switch {
	case d != nil && d.Partial != nil && d.Partial.Created && !h.Resumed:
		return nil, false, fail("cannot receive new filesystem stream: destination '%s' exists must specify -F to overwrite it", spec.Dataset)
	case d != nil && d.Receiving, d != nil && d.Partial != nil && !h.Resumed:
		return nil, false, fail("cannot receive stream: destination %s contains partially-complete state from \"zfs receive -s\".", spec.Dataset)
	case h.Resumed:
		return d, false, p.acceptResumed(spec, d, h)
	case d == nil:
		d, err = p.acceptNew(spec, h)
		return d, false, err
	case h.FromGUID == 0 && len(d.Snaps) > 0:
		return nil, false, fail("cannot receive new filesystem stream: destination has snapshots (eg. %s) must destroy them to overwrite it", d.Snaps[0].Full())
	case h.FromGUID == 0:
		return nil, false, fail("cannot receive new filesystem stream: destination '%s' exists must specify -F to overwrite it", spec.Dataset)
	case spec.Origin != "":
		return nil, false, fail("cannot receive: destination '%s' is a clone, must specify -F to overwrite it", spec.Dataset)
	}
	if d.SnapByGUID(h.ToGUID) != nil {
		return d, true, nil // "snap already exists; ignoring it".
	}
	if d.Snap(own) != nil {
		return nil, false, fail("cannot restore to %s@%s: destination already exists", spec.Dataset, own)
	}
	base := d.SnapByGUID(h.FromGUID)
	if base == nil && d.Origin != nil && len(d.Snaps) == 0 && d.Origin.GUID == h.FromGUID {
		base = d.Origin
	}
	if base == nil {
		return nil, false, fail("cannot receive incremental stream: most recent snapshot of %s does not match incremental source", spec.Dataset)
	}
	if err := p.fitsCrypt(d, base, h); err != nil {
		return nil, false, err
	}
	modified := d.Live.Born > 0
	for _, s := range d.Snaps {
		modified = modified || s.CreateTXG > base.CreateTXG && (s.Written > 0 || h.Raw)
	}
	if modified {
		return nil, false, fail("cannot receive incremental stream: destination %s has been modified since most recent snapshot", spec.Dataset)
	}
	return d, false, p.begin(d, &disk.Partial{Header: h})
}

func (p *Pool) acceptResumed(spec zfs.ReceiveSpec, d *disk.Dataset, h wire.Header) error {
	if d == nil || d.Partial == nil || d.Partial.ToGUID != h.ToGUID || d.Partial.FromGUID != h.FromGUID || d.Partial.Records != h.Skip {
		return zerr.New("receive", spec.Dataset, 1, "cannot receive resume stream: incompatible embedded data stream feature with encrypted receive.")
	}
	if spec.Origin != "" {
		return zerr.New("receive", spec.Dataset, 1, fmt.Sprintf(
			"cannot receive resume stream: Resuming recv on existing destination '%s' must specify -F", spec.Dataset))
	}
	return nil
}

func (p *Pool) acceptNew(spec zfs.ReceiveSpec, h wire.Header) (*disk.Dataset, error) {
	fail := func(format string, args ...any) error {
		return zerr.New("receive", spec.Dataset, 1, fmt.Sprintf(format, args...))
	}
	if parent := p.datasets[parentOf(spec.Dataset)]; parent == nil {
		return nil, fail("cannot open '%s': dataset does not exist", parentOf(spec.Dataset))
	} else if parent.Type != zfs.TypeFilesystem {
		return nil, fail("parent '%s' is not a filesystem", parentOf(spec.Dataset))
	} else if err := p.fitsParent(parent, spec.Dataset, h); err != nil {
		return nil, err
	}
	var origin *disk.Snapshot
	if h.FromGUID != 0 {
		if spec.Origin == "" || h.Package {
			return nil, fail("cannot receive incremental stream: destination '%s' does not exist", spec.Dataset)
		}
		var err error
		if origin, err = p.openSnap("receive", spec.Origin); err != nil {
			return nil, err
		}
		if origin.GUID != h.FromGUID {
			return nil, fail("cannot receive incremental stream: most recent snapshot of %s does not match incremental source", spec.Dataset)
		}
	}
	d := p.add(spec.Dataset, h.Type)
	if origin != nil {
		d.Live, d.Origin = origin.Content.Share(), origin
	}
	if h.Encryption != "" && h.Encryption != "off" {
		d.Props["encryption"], d.Keyless = h.Encryption, true
	}
	if err := p.begin(d, &disk.Partial{Header: h, Created: true}); err != nil {
		delete(p.datasets, spec.Dataset)
		return nil, err
	}
	return d, nil
}

// begin opens the hidden dataset that takes the stream.
func (p *Pool) begin(d *disk.Dataset, part *disk.Partial) error {
	if encryption, _ := p.effective(d, "encryption"); !part.Created && encryption != "off" && !part.Raw && p.keyless(d) {
		return zerr.New("receive", d.Name, 1, "cannot receive incremental stream: inherited key must be loaded")
	}
	if why := p.room(d.Name, 1); why != "" {
		return zerr.New("receive", d.Name, 1, "cannot receive: "+why)
	}
	part.Work, part.TXG = d.Live.Share(), p.txg
	part.Work.VolSize = part.VolSize
	d.Partial = part
	return nil
}

// drain reads past the records of a snapshot that is there already.
func drain(name string, in *input) error {
	for {
		rec, err := wire.ReadRecord(in)
		if err != nil {
			return zerr.New("receive", name, 1, "cannot receive stream: checksum mismatch or incomplete stream.")
		}
		if rec.Index == wire.End {
			return nil
		}
	}
}

// fill applies the records.
func (p *Pool) fill(d *disk.Dataset, name string, in *input) error {
	for {
		rec, err := wire.ReadRecord(in)
		p.mu.Lock()
		if dead := p.alive(in.life, "receive", name); dead != nil {
			p.mu.Unlock()
			return dead
		}
		gone := p.ready("receive", []string{name})
		switch {
		case err != nil:
		case gone != nil:
			err = gone
		case p.datasets[name] != d:
			err = zerr.New("receive", name, 1, fmt.Sprintf("cannot receive: destination '%s' does not exist", name))
		case rec.Index != wire.End:
			err = p.apply(d, rec)
		case d.Partial.Records != int(rec.Len):
			err = errors.New("records are missing")
		}
		d.Receiving = err == nil
		token := d.Partial.Token()
		p.mu.Unlock()
		if _, ok := errors.AsType[*zfs.Error](err); ok {
			return err
		}
		if err != nil {
			return zerr.New("receive", name, 1, "cannot receive stream: checksum mismatch or incomplete stream. "+
				"Partially received snapshot is saved. A resuming stream can be generated on the sending system by running: zfs send -t "+token)
		}
		if rec.Index == wire.End {
			return nil
		}
	}
}

func (p *Pool) apply(d *disk.Dataset, rec wire.Record) error {
	if rec.Len == 0 {
		rec.Data = nil
	} else if why := p.room(d.Name, uint64(rec.Len)); why != "" {
		return zerr.New("receive", d.Name, 1, "cannot receive: "+why)
	}
	d.Partial.Work.Put(rec.Index, rec.Data, d.Partial.TXG, d.Since())
	d.Partial.Records++
	d.Partial.Bytes += uint64(rec.Len)
	if d.Partial.Records%p.opt.SyncEvery == 0 {
		p.synced()
	}
	return nil
}

// commit turns the hidden dataset into the snapshot. Locked.
func (p *Pool) commit(d *disk.Dataset, props map[string]string) {
	_, own, _ := strings.Cut(d.Partial.To, "@")
	p.txg++
	d.Live, d.Receiving = d.Partial.Work, false
	s := d.Take(own, d.Partial.ToGUID, p.txg, p.opt.Now())
	// Blocks carry the txg in which they were written here, which for a resumed receive is before others' snapshots of today.
	s.CreateTXG = p.txg
	p.received(s, d.Partial.Header)
	d.Partial = nil
	keep(d.Props, props)
}
