package consensus

import (
	"bytes"
	"strings"
	"testing"

	"github.com/hashicorp/go-msgpack/v2/codec"
	"github.com/hashicorp/raft"
)

func TestSound(t *testing.T) {
	conf := raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{{ID: "a", Address: "a"}}})
	entries := func(e ...*raft.Log) *raft.AppendEntriesRequest {
		return &raft.AppendEntriesRequest{PrevLogEntry: 7, Entries: e}
	}
	for name, call := range map[string]any{
		"heartbeat": entries(),
		"entries":   entries(&raft.Log{Index: 8}, &raft.Log{Index: 9, Type: raft.LogConfiguration, Data: conf}, &raft.Log{Index: 10, Type: raft.LogNoop}),
		"snapshot":  &raft.InstallSnapshotRequest{SnapshotVersion: 1, Size: 5, Configuration: conf},
		"vote":      &raft.RequestVoteRequest{},
	} {
		if err := sound(call); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, call := range map[string]any{
		"missing entry":         entries(nil),
		"gap":                   entries(&raft.Log{Index: 9}),
		"the same twice":        entries(&raft.Log{Index: 8}, &raft.Log{Index: 8}),
		"configuration":         entries(&raft.Log{Index: 8, Type: raft.LogConfiguration, Data: []byte("garbage")}),
		"old type":              entries(&raft.Log{Index: 8, Type: raft.LogAddPeerDeprecated}),
		"no such type":          entries(&raft.Log{Index: 8, Type: 99}),
		"snapshot's version":    &raft.InstallSnapshotRequest{Configuration: conf},
		"snapshot's size":       &raft.InstallSnapshotRequest{SnapshotVersion: 1, Size: -1, Configuration: conf},
		"snapshot's membership": &raft.InstallSnapshotRequest{SnapshotVersion: 1, Configuration: []byte{0xff, 0xff}},
	} {
		if err := sound(call); err == nil || !strings.Contains(err.Error(), "unsound call") {
			t.Errorf("%s: got %v, want a refusal", name, err)
		}
	}
}

// FuzzSound: what passes has nothing in it over which raft would fall.
func FuzzSound(f *testing.F) {
	handle := &codec.MsgpackHandle{}
	for _, req := range []raft.AppendEntriesRequest{{Entries: []*raft.Log{nil}}, {Entries: []*raft.Log{{Index: 1, Type: raft.LogConfiguration, Data: []byte{0x81}}}}} {
		var b bytes.Buffer
		if err := codec.NewEncoder(&b, handle).Encode(req); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Fuzz(func(_ *testing.T, data []byte) {
		var req raft.AppendEntriesRequest
		if codec.NewDecoderBytes(data, handle).Decode(&req) != nil || sound(&req) != nil {
			return
		}
		for _, e := range req.Entries {
			if e.Type == raft.LogConfiguration {
				raft.DecodeConfiguration(e.Data)
			}
		}
	})
}
