package zfs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/tandemd/tandem/pkg/zfs/child"
	"github.com/tandemd/tandem/pkg/zfs/zname"
)

// SendSpec says which stream to make. Data goes as it is on disk: -L -c -e, or -w if Raw.
type SendSpec struct {
	// Snapshot is the full name of the snapshot to send; empty with a Token.
	Snapshot string
	// From is the full name of the snapshot or bookmark that the target has; empty: a full stream.
	From string
	// Intermediates sends the snapshots between as well (-I); From must be a snapshot.
	Intermediates bool
	// Raw sends encrypted blocks as they are; only for encrypted datasets.
	Raw bool
	// Token resumes an interrupted receive. Dataset is what it is sent from, without which nobody would see that its pool is away
	// or suspended; nothing else is set then, the token knows.
	Token, Dataset string
}

// Check tells what is wrong with the spec; nil if nothing is.
func (s SendSpec) Check() error {
	if s.Token != "" {
		if s.Snapshot != "" || s.From != "" || s.Intermediates || s.Raw {
			return refuse("send", s.Snapshot, errors.New("a token knows what to send: nothing else may be given"))
		}
		if err := cmp.Or(zname.Token(s.Token), zname.Dataset(s.Dataset)); err != nil {
			return refuse("send", s.Dataset, err)
		}
		return nil
	}
	if err := zname.Snapshot(s.Snapshot); err != nil {
		return refuse("send", s.Snapshot, err)
	}
	if s.Dataset != "" {
		return refuse("send", s.Snapshot, errors.New("a snapshot's name tells its dataset: it is given only with a token"))
	}
	if s.From == "" {
		if s.Intermediates {
			return refuse("send", s.Snapshot, errors.New("a full stream has no snapshots between"))
		}
		return nil
	}
	check := zname.Snapshot
	if strings.Contains(s.From, "#") {
		check = zname.Bookmark
		if s.Intermediates {
			return refuse("send", s.Snapshot, errors.New("multiple snapshots cannot be sent from a bookmark"))
		}
	}
	if err := check(s.From); err != nil {
		return refuse("send", s.From, err)
	}
	return nil
}

func (s SendSpec) args() []string {
	if s.Token != "" {
		return []string{"-t", s.Token}
	}
	args := []string{"-L", "-c", "-e"}
	if s.Raw {
		args = []string{"-w"}
	}
	if s.From != "" {
		flag := "-i"
		if s.Intermediates {
			flag = "-I"
		}
		args = append(args, flag, s.From)
	}
	return append(args, s.Snapshot)
}

// Names are the full names that the spec is about.
func (s SendSpec) Names() []string { return []string{cmp.Or(s.Dataset, s.Snapshot)} }

// Stream is a running send. Read ends with io.EOF only if zfs ended well, else with an [*Error]: a copy of it cannot take
// a broken stream for a whole one. Close ends a send that nobody wants any more and waits for it; after io.EOF it does nothing.
type Stream interface {
	io.ReadCloser
	// Wait waits for the end of the send, which must have been read to its end or closed.
	Wait() error
}

// Send starts a send. It ends with ctx.
func (z *ZFS) Send(ctx context.Context, spec SendSpec) (Stream, error) {
	if err := spec.Check(); err != nil {
		return nil, err
	}
	s, err := z.stream(ctx, call{op: "send", names: spec.Names(), args: append([]string{"send"}, spec.args()...)})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// stream starts a process that prints a stream. It ends with ctx.
func (z *ZFS) stream(ctx context.Context, c call) (*sendStream, error) {
	r, w, err := child.Pipe()
	if err != nil {
		return nil, c.fail(ClassUnknown, err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	ch, err := z.start(ctx, c, nil, w)
	_ = w.Close() // The child has its own.
	if err != nil {
		cancel(err)
		_ = r.Close()
		return nil, err
	}
	s := &sendStream{r: r, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		if s.err = z.await(ctx, ch, c); ctx.Err() != nil || ClassOf(s.err) == ClassPool {
			_ = r.Close() // A child that was given up may hold the other end open for ever.
		}
	}()
	return s, nil
}

type sendStream struct {
	r      *os.File
	cancel context.CancelCauseFunc
	done   chan struct{}
	err    error // after done
	once   sync.Once
}

func (s *sendStream) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if n > 0 || err == nil {
		return n, nil
	}
	if failed := s.Wait(); failed != nil {
		return 0, failed
	}
	return 0, err
}

func (s *sendStream) Wait() error {
	<-s.done
	return s.err
}

func (s *sendStream) Close() error {
	s.once.Do(func() {
		s.cancel(errors.New("the stream was closed"))
		<-s.done
		_ = s.r.Close()
	})
	return nil
}

// ReceiveSpec says where a stream goes. Always: -s (an interrupted one is kept), -u (nothing is mounted), readonly=on; for
// filesystems canmount=noauto and no mountpoint from the stream. Never -F. A resumed receive has no Origin.
type ReceiveSpec struct {
	Dataset string
	Type    Type
	// Props are set with it (-o); readonly and canmount cannot be set to anything else.
	Props map[string]string
	// Exclude are properties that the stream must not set (-x).
	Exclude []string
	// Origin is the full name of the snapshot of which the new dataset is to be a clone: for a single -i stream.
	Origin string
}

// Options returns the properties that are set with the receive, or what is wrong with the spec.
func (s ReceiveSpec) Options() (map[string]string, error) {
	if err := checkAll("receive", []string{s.Dataset}, zname.Dataset); err != nil {
		return nil, err
	}
	props := map[string]string{"readonly": "on"}
	switch s.Type {
	case TypeFilesystem:
		props["canmount"] = "noauto"
	case TypeVolume:
	default:
		return nil, refuse("receive", s.Dataset, fmt.Errorf("type %q: want filesystem or volume", s.Type))
	}
	for name, value := range s.Props {
		if fixed := props[name]; fixed != "" && fixed != value || name == "mountpoint" || name == "canmount" && fixed == "" {
			return nil, refuse("receive", s.Dataset, fmt.Errorf("property %s=%s: not on a replica", name, value))
		}
	}
	maps.Copy(props, s.Props)
	if err := zname.Props(props); err != nil {
		return nil, refuse("receive", s.Dataset, err)
	}
	if err := checkAll("receive", s.Exclude, zname.Prop); err != nil {
		return nil, err
	}
	if s.Origin != "" {
		if err := zname.Snapshot(s.Origin); err != nil {
			return nil, refuse("receive", s.Dataset, err)
		}
	}
	return props, nil
}

// Received says what a receive took.
type Received struct {
	// Bytes is how much of the stream was read, also where the receive failed.
	Bytes int64
}

// Receive feeds r to zfs receive. If r fails the error is of ClassPeer and carries r's: what zfs then says of the cut stream is
// a consequence. It returns at most Options.Grace after zfs has ended, even if a Read of r is still under way: close r then.
func (z *ZFS) Receive(ctx context.Context, spec ReceiveSpec, r io.Reader) (Received, error) {
	props, err := spec.Options()
	if err != nil {
		return Received{}, err
	}
	args := slices.Concat([]string{"receive", "-s", "-u"}, options(props))
	exclude := spec.Exclude
	if spec.Type == TypeFilesystem {
		exclude = append([]string{"mountpoint"}, exclude...)
	}
	for _, name := range exclude {
		args = append(args, "-x", name)
	}
	if spec.Origin != "" {
		args = append(args, "-o", "origin="+spec.Origin)
	}
	c := call{op: "receive", names: []string{spec.Dataset}, args: append(args, spec.Dataset)}

	pr, pw, err := child.Pipe()
	if err != nil {
		return Received{}, &Error{Op: "receive", Dataset: spec.Dataset, Class: ClassUnknown, Exit: -1, Err: err}
	}
	ch, err := z.start(ctx, c, pr, nil)
	_ = pr.Close() // The child has its own.
	if err != nil {
		_ = pw.Close()
		return Received{}, err
	}
	in := &source{r: r}
	pump := newPump()
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		pump.read(in) // A failed read is kept by in.
	}()
	go func() {
		pump.write(pw) // A failed write means that zfs has ended, which is seen below.
		_ = pw.Close()
	}()
	failed := z.await(ctx, ch, c)
	broken := in.failed.Load()
	_ = pw.Close() // Ends a write to a child that was given up.
	wait, cancel := context.WithTimeout(ctx, z.opt.Grace)
	defer cancel()
	select {
	case <-copied:
	case <-wait.Done():
	}
	got := Received{Bytes: in.n.Load()}
	if broken == nil || ClassOf(failed) == ClassCanceled || ClassOf(failed) == ClassHung || ClassOf(failed) == ClassPool {
		return got, failed
	}
	e := &Error{Op: "receive", Dataset: spec.Dataset, Class: ClassPeer, Exit: -1, Err: *broken}
	if said, ok := errors.AsType[*Error](failed); ok {
		e.Exit, e.Stderr = said.Exit, said.Stderr
	}
	return got, e
}

// source counts what is read and keeps the first error that is not the end.
type source struct {
	r      io.Reader
	n      atomic.Int64
	failed atomic.Pointer[error]
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.n.Add(int64(n))
	if err != nil && !errors.Is(err, io.EOF) {
		s.failed.CompareAndSwap(nil, &err)
	}
	return n, err
}

// EstimateSend returns about how many bytes the stream will have.
func (z *ZFS) EstimateSend(ctx context.Context, spec SendSpec) (uint64, error) {
	if err := spec.Check(); err != nil {
		return 0, err
	}
	args := append([]string{"send", "-n", "-v", "-P"}, spec.args()...)
	out, also, err := z.outputs(ctx, call{op: "send -n", names: spec.Names(), args: args, timeout: z.opt.QueryTimeout})
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(out + "\n" + also) {
		if size, ok := strings.CutPrefix(line, "size\t"); ok {
			return strconv.ParseUint(strings.TrimSpace(size), 10, 64)
		}
	}
	return 0, &Error{Op: "send -n", Dataset: spec.Snapshot, Class: ClassUnknown, Err: fmt.Errorf("no size in %q", out)}
}

// Token is what a resume token says.
type Token struct {
	// ToName is the full name of the snapshot that was sent, on the sender.
	ToName string
	// ToGUID and FromGUID identify it and its base; FromGUID is 0 for a full stream.
	ToGUID, FromGUID uint64
	// Bytes is how much the target has already, Size about how much is left (0 if the sender does not know).
	Bytes, Size uint64
	Raw         bool
}

// TokenInfo reads the resume token of what is to be sent from the dataset, or has arrived there. On the sender it also tells whether
// it can be resumed: with an error of ClassToken or ClassGone it cannot, and the Token is still filled with what it says.
func (z *ZFS) TokenInfo(ctx context.Context, dataset, token string) (Token, error) {
	if err := cmp.Or(zname.Token(token), zname.Dataset(dataset)); err != nil {
		return Token{}, refuse("send -t", dataset, err)
	}
	out, also, err := z.outputs(ctx, call{
		op: "send -n -t", names: []string{dataset}, timeout: z.opt.QueryTimeout,
		args: []string{"send", "-n", "-v", "-P", "-t", token},
	})
	return parseToken(out + "\n" + also), err
}

func parseToken(text string) Token {
	var t Token
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if size, ok := strings.CutPrefix(line, "size\t"); ok {
			t.Size, _ = strconv.ParseUint(size, 10, 64)
			continue
		}
		key, value, ok := strings.Cut(line, " = ")
		if !ok {
			continue
		}
		n, _ := strconv.ParseUint(value, 0, 64) // Not a number: 0, and a GUID of 0 matches nothing.
		switch key {
		case "toname":
			t.ToName = value
		case "toguid":
			t.ToGUID = n
		case "fromguid":
			t.FromGUID = n
		case "bytes":
			t.Bytes = n
		case "rawok":
			t.Raw = n == 1
		}
	}
	return t
}
