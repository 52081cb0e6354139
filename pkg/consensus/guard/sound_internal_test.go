package guard

import (
	"strings"
	"testing"

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
		"snapshot":  &raft.InstallSnapshotRequest{SnapshotVersion: 1, LastLogIndex: 1, Size: 5, Configuration: conf},
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
		"snapshot's size":       &raft.InstallSnapshotRequest{SnapshotVersion: 1, LastLogIndex: 1, Size: -1, Configuration: conf},
		"snapshot's membership": &raft.InstallSnapshotRequest{SnapshotVersion: 1, LastLogIndex: 1, Configuration: []byte{0xff, 0xff}},
	} {
		if err := sound(call); err == nil || !strings.Contains(err.Error(), "unsound call") {
			t.Errorf("%s: got %v, want a refusal", name, err)
		}
	}
}

// FuzzSound: what passes has nothing in it over which raft would fall.
func FuzzSound(f *testing.F) {
	f.Add(uint64(7), uint64(8), uint8(raft.LogConfiguration), []byte{0x81}, int64(1))
	f.Add(uint64(0), uint64(1), uint8(raft.LogCommand), []byte(nil), int64(-1))
	f.Fuzz(func(_ *testing.T, before, index uint64, kind uint8, data []byte, size int64) {
		e := &raft.Log{Index: index, Type: raft.LogType(kind), Data: data}
		if sound(&raft.AppendEntriesRequest{PrevLogEntry: before, Entries: []*raft.Log{e}}) == nil && e.Type == raft.LogConfiguration {
			raft.DecodeConfiguration(e.Data)
		}
		if sound(&raft.InstallSnapshotRequest{SnapshotVersion: 1, LastLogIndex: 1, Size: size, Configuration: data}) == nil {
			raft.DecodeConfiguration(data)
		}
	})
}
