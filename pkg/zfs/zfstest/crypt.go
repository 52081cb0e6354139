package zfstest

import (
	"fmt"

	"github.com/tandemd/tandem/pkg/zfs"
	"github.com/tandemd/tandem/pkg/zfs/zerr"
	"github.com/tandemd/tandem/pkg/zfs/zfstest/disk"
	"github.com/tandemd/tandem/pkg/zfs/zfstest/wire"
)

// keyRoot is the dataset whose key encrypts d, which may be d itself; nil where d is not encrypted. Locked.
func (p *Pool) keyRoot(d *disk.Dataset) *disk.Dataset {
	for at := d.Name; at != ""; at = parentOf(at) {
		if up := p.datasets[at]; up != nil && up.Props["encryption"] != "" {
			if up.Props["encryption"] == "off" {
				return nil
			}
			return up
		}
	}
	return nil
}

// keyless says that d is encrypted and its key is not loaded. Locked.
func (p *Pool) keyless(d *disk.Dataset) bool {
	root := p.keyRoot(d)
	return root != nil && root.Keyless
}

// encryption fills in what List tells of it. Locked.
func (p *Pool) encryption(d *disk.Dataset, out *zfs.Dataset) {
	out.Encryption, _ = p.effective(d, "encryption")
	if root := p.keyRoot(d); root != nil {
		out.EncryptionRoot, out.KeyStatus = root.Name, "available"
		if root.Keyless {
			out.KeyStatus = "unavailable"
		}
	}
}

// fitsCrypt tells why an increment does not fit what a dataset was received from so far. Locked.
func (p *Pool) fitsCrypt(d *disk.Dataset, base *disk.Snapshot, h wire.Header) error {
	encrypted := p.keyRoot(d) != nil
	switch {
	case h.Raw && h.Encryption != "off" && !encrypted:
		return zerr.New("receive", d.Name, 1,
			"cannot receive incremental stream: cannot perform raw receive on top of existing unencrypted dataset")
	case h.Raw && encrypted && base.IVSet != h.FromIVSet:
		return zerr.New("receive", d.Name, 1, "cannot receive incremental stream: IV set guid mismatch. "+
			"See the 'zfs receive' man page section discussing the limitations of raw encrypted send streams.")
	}
	return nil
}

// fitsParent tells why a new dataset cannot be received below its parent. Locked.
func (p *Pool) fitsParent(parent *disk.Dataset, name string, h wire.Header) error {
	if !h.Raw && p.keyless(parent) {
		return zerr.New("receive", name, 1, fmt.Sprintf("cannot receive new filesystem stream: inherited key must be loaded for %s", name))
	}
	return nil
}

// received gives the new snapshot its IV set: a raw stream's, or one of its own. Locked.
func (p *Pool) received(s *disk.Snapshot, h wire.Header) {
	switch {
	case h.Raw:
		s.IVSet = h.ToIVSet
	case p.keyRoot(s.Of) != nil:
		s.IVSet = p.newGUID()
	}
}
