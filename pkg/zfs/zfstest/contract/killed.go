package contract

import (
	"bytes"
	"context"
	"io"
	"maps"

	"github.com/tandemd/tandem/pkg/zfs"
)

// resumeKilled: the process of a first receive is killed. Its dataset may carry the properties that came with it, all of them or
// none; it goes on from where it was.
func (s *suite) resumeKilled() {
	src, dst := s.volume("src"), s.ds("dst")
	full := s.stream(zfs.SendSpec{Snapshot: src + "@a"})
	props := map[string]string{zfs.PropRole: zfs.RoleReplica, zfs.PropGuest: "100"}
	spec := zfs.ReceiveSpec{Dataset: dst, Type: zfs.TypeVolume, Props: props}
	ctx, kill := context.WithCancel(s.ctx)
	defer kill()
	_, err := s.env.ZFS.Receive(ctx, spec, io.MultiReader(bytes.NewReader(full[:len(full)*6/10]), killer{s, ctx, kill, dst}))
	s.wantClass(err, zfs.ClassCanceled)
	d := s.get(dst)
	equal(s, len(d.Snapshots), 0)
	if d.ResumeToken == "" || len(d.Props) > 0 && !maps.Equal(d.Props, props) {
		s.Fatalf("token %q, properties %v", d.ResumeToken, d.Props)
	}
	_, err = s.env.ZFS.Receive(s.ctx, spec, bytes.NewReader(s.stream(zfs.SendSpec{Token: d.ResumeToken, Dataset: src})))
	s.ok(err)
	s.sameContent(dst+"@a", src+"@a")
	equal(s, s.get(dst).Props, props)
}

// killer is the rest of a stream, in which the receiver is killed as soon as its dataset is there.
type killer struct {
	s    *suite
	ctx  context.Context
	kill context.CancelFunc
	dst  string
}

func (k killer) Read([]byte) (int, error) {
	for range 100 {
		list, err := k.s.env.ZFS.List(k.s.ctx, k.dst)
		if err == nil && list[0].ResumeToken != "" {
			break
		}
		k.s.settle()
	}
	k.kill()
	<-k.ctx.Done()
	return 0, context.Cause(k.ctx)
}
