package zerr_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/tandemd/tandem/pkg/zfs/zerr"
)

// texts are what the commands of 2.1 to 2.4 print, wrapped as they wrap.
func texts() map[string]zerr.Class {
	return map[string]zerr.Class{
		"cannot receive incremental stream: destination tank/x has been modified\nsince most recent snapshot\n":                           zerr.Diverged,
		"cannot receive incremental stream: most recent snapshot of tank/x does not\nmatch incremental source\n":                          zerr.Diverged,
		"cannot receive incremental stream: IV set guid mismatch. See the 'zfs receive' man page section\n discussing":                    zerr.Diverged,
		"cannot receive incremental stream: destination tank/x contains partially-complete state from \"zfs receive -s\".\n":              zerr.Partial,
		"cannot resume send: 'tank/x@s' used in the initial send no longer exists\n":                                                      zerr.Token,
		"cannot resume send: 'tank/x@s' is no longer the same snapshot used in the initial send\n":                                        zerr.Token,
		"cannot resume send: incremental source 0x1d2c no longer exists\n":                                                                zerr.Token,
		"cannot resume send: Invalid cross-device link\n":                                                                                 zerr.Token,
		"cannot receive resume stream: incompatible embedded data stream feature with encrypted receive.\n":                               zerr.Token,
		"cannot resume send: resume token is corrupt (invalid format)\n":                                                                  zerr.Token,
		"cannot resume send: resume token is corrupt (incorrect checksum)\n":                                                              zerr.Token,
		"cannot receive resume stream: Resuming recv on existing destination 'tank/x'\nmust specify -F to overwrite it\n":                 zerr.Token,
		"cannot open 'tank/x': dataset does not exist\n":                                                                                  zerr.Gone,
		"cannot receive incremental stream: destination 'tank/x' does not exist\n":                                                        zerr.Gone,
		"warning: cannot send 'tank/x@b': incremental source (tank/x@a) does not exist\n":                                                 zerr.Gone,
		"bookmark 'tank/x#m' does not exist.\n":                                                                                           zerr.Gone,
		"could not find any snapshots to destroy; check snapshot names.\n":                                                                zerr.Gone,
		"cannot receive new filesystem stream: destination 'tank/x' exists\nmust specify -F to overwrite it\n":                            zerr.Exists,
		"cannot receive new filesystem stream: destination has snapshots (eg. tank/x@a)\nmust destroy them to overwrite it\n":             zerr.Exists,
		"cannot receive incremental stream: destination already exists\n":                                                                 zerr.Exists,
		"cannot create snapshot 'tank/x@a': dataset already exists\nno snapshots were created\n":                                          zerr.Exists,
		"cannot restore to tank/x@b: destination already exists\n":                                                                        zerr.Exists,
		"cannot create bookmark 'tank/x#m': bookmark exists\n":                                                                            zerr.Exists,
		"cannot receive incremental stream: checksum mismatch or incomplete stream.\nPartially received snapshot is saved.\nA resuming …": zerr.Stream,
		"cannot receive: failed to read from stream\n":                                                                                    zerr.Stream,
		"cannot receive: invalid stream (bad magic number)\n":                                                                             zerr.Stream,
		"cannot receive new filesystem stream: invalid backup stream\n":                                                                   zerr.Stream,
		"cannot receive new filesystem stream: out of space\n":                                                                            zerr.Space,
		"cannot receive incremental stream: destination tank/x space quota exceeded.\n":                                                   zerr.Space,
		"cannot create snapshots : out of space\nno snapshots were created\n":                                                             zerr.Space,
		"cannot destroy snapshot tank/x@a: dataset is busy\n":                                                                             zerr.Busy,
		"cannot unmount '/tank/x': pool or dataset is busy\n":                                                                             zerr.Busy,
		"cannot destroy snapshot tank/x@a: it's being held. Run 'zfs holds -r tank/x@a' to see holders.\n":                                zerr.Held,
		"cannot destroy 'tank/x@a': snapshot has dependent clones\nuse '-R' to destroy the following datasets:\ntank/y\n":                 zerr.Clones,
		"cannot destroy snapshot tank/x@a: snapshot is cloned\n":                                                                          zerr.Clones,
		"cannot promote 'tank/y': conflicting snapshot 's1' from parent 'tank/x'\n":                                                       zerr.Clones,
		"cannot receive new filesystem stream: pool must be upgraded to receive this stream.\n":                                           zerr.Feature,
		"cannot receive: stream has unsupported feature, feature flags = 4000000\n":                                                       zerr.Feature,
		"cannot receive incremental stream: incremental send stream requires -L\n(--large-block), to match previous receive.\n":           zerr.Feature,
		"cannot receive: incompatible embedded data stream feature with encrypted receive.\n":                                             zerr.Feature,
		"cannot receive incremental stream: stream uses crypto parameters not compatible with this pool\n":                                zerr.Feature,
		"warning: cannot send 'tank/x@a': dataset key must be loaded\n":                                                                   zerr.Key,
		"cannot receive incremental stream: encryption key does not match existing key\n":                                                 zerr.Key,
		"cannot open 'tank': pool I/O is currently suspended\n":                                                                           zerr.Pool,
		"cannot set property for 'tank/x': pool is read-only\n":                                                                           zerr.Pool,
		"cannot open 'tank': no such pool\n":                                                                                              zerr.PoolAbsent,
		"The ZFS modules are not loaded.\nTry running '/sbin/modprobe zfs' as root to load them.\n":                                       zerr.PoolAbsent,
		"cannot receive new filesystem stream: kernel modules must be upgraded to\nreceive this stream.\n":                                zerr.BadArg,
		"cannot receive: invalid name 'tank/long@…'\n":                                                                                    zerr.BadArg,
		"cannot create 'tank/vol/x': parent is not a filesystem\n":                                                                        zerr.BadArg,
		"cannot create snapshots : multiple snapshots of same fs not allowed\n":                                                           zerr.BadArg,
		"warning: cannot send 'tank/x@a': signal received\n":                                                                              zerr.Peer,
		"warning: cannot send 'tank/x@a': Broken pipe\n":                                                                                  zerr.Peer,
		"cannot receive incremental stream: something that nobody has seen\n":                                                             zerr.Unknown,
		"": zerr.Unknown,
	}
}

func TestClassify_KnowsEveryText(t *testing.T) {
	for text, want := range texts() {
		for _, form := range []string{text, strings.ReplaceAll(text, "\n", " "), strings.ReplaceAll(text, " ", "\n\t")} {
			if got := zerr.Classify(form); got != want {
				t.Errorf("%q: got %q, want %q", form, got, want)
			}
		}
	}
}

func TestError_TellsWhatClassAndWhatToDo(t *testing.T) {
	err := fmt.Errorf("sync: %w", zerr.New("receive", "tank/x", 1, "cannot receive:\n  out of space\n"))
	if got, want := err.Error(), "sync: receive tank/x: cannot receive: out of space"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if !errors.Is(err, zerr.Space) || errors.Is(err, zerr.Busy) || zerr.Of(err) != zerr.Space {
		t.Errorf("class of %v is %q", err, zerr.Of(err))
	}
	absent := zerr.New("list", "tank/x", 1, "cannot open 'tank': no such pool")
	if !errors.Is(absent, zerr.PoolAbsent) || !errors.Is(absent, zerr.Pool) || errors.Is(absent, zerr.Gone) {
		t.Errorf("an absent pool is a failure of the pool and no absent volume: %v", absent)
	}
	if zerr.Of(nil) != "" || zerr.Of(errors.New("x")) != zerr.Unknown {
		t.Error("classes of nil and of a stranger")
	}
	cause := errors.New("cause")
	if err := zerr.Refuse("send", "tank/x", cause); !errors.Is(err, cause) || !errors.Is(err, zerr.Refused) {
		t.Errorf("refusal: %v", err)
	}
	for _, class := range texts() {
		e := &zerr.Error{Class: class}
		if class != zerr.Unknown && e.Hint() == "" {
			t.Errorf("no hint for %q", class)
		}
		if class.Outlook() == "" {
			t.Errorf("no outlook for %q", class)
		}
	}
	if long := zerr.New("x", "", 1, strings.Repeat("ü", 1<<20)); len(long.Stderr) > 5<<10 {
		t.Errorf("stderr of %d bytes kept", len(long.Stderr))
	}
}

func FuzzClassify(f *testing.F) {
	for text := range texts() {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		e := zerr.New("op", "tank/x", 1, text)
		if e.Class == "" || e.Error() == "" || e.Class.Outlook() == "" {
			t.Errorf("%q: %+v", text, e)
		}
	})
}
