package discovery_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/daemon/discovery"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/zfs"
)

const (
	n1 guest.NodeID = "00000000000000000000000000000001"
	n2 guest.NodeID = "00000000000000000000000000000002"
)

func state() *ledger.State {
	return &ledger.State{
		Members: map[guest.NodeID]ledger.Member{n1: {ID: n1, Name: "n1"}, n2: {ID: n2, Name: "n2"}},
		Guests:  map[guest.ID]guest.Guest{100: {ID: 100, Type: guest.CT, Name: "web", Owner: n1, Volumes: volumes("vm-100-disk-0")}},
	}
}

func volumes(names ...string) (out []guest.Volume) {
	for _, n := range names {
		out = append(out, guest.Volume{Storage: "local-zfs", Name: n})
	}
	return out
}

func found(id guest.ID, name string) discovery.Found {
	return discovery.Found{Volume: volumes(name)[0], Guest: id, Zvol: strings.HasPrefix(name, "vm-")}
}

func TestFinder(t *testing.T) {
	replica := found(105, "vm-105-disk-0")
	replica.Replica = "105"
	s := state()
	f := discovery.Finder{Ledger: s}
	f.Node(s.Members[n1], discovery.Reply{Found: []discovery.Found{
		found(100, "vm-100-disk-0"), found(100, "vm-100-disk-1"), found(102, "subvol-102-disk-0"), found(102, "vm-102-disk-1"),
		replica, found(0, "mail"),
	}})
	f.Node(s.Members[n2], discovery.Reply{
		Found:  []discovery.Found{found(100, "vm-100-disk-7"), found(102, "vm-102-disk-9"), found(0, "dns")},
		Broken: []string{"storage fast of node n2: gone"},
	})
	guests, warnings := f.Result()
	want := []api.Discovered{
		{Node: "n1", ID: 101, Type: guest.CT, Name: "mail", Volumes: volumes("mail")},
		{Node: "n1", ID: 100, Type: guest.CT, Name: "web", Volumes: volumes("vm-100-disk-1"), Known: true},
		{Node: "n1", ID: 102, Type: guest.VM, Name: "guest-102", Volumes: volumes("subvol-102-disk-0", "vm-102-disk-1")},
		{Node: "n2", ID: 103, Type: guest.CT, Name: "dns", Volumes: volumes("dns")},
		{Node: "n2", ID: 102, Type: guest.VM, Name: "guest-102", Volumes: volumes("vm-102-disk-9")},
	}
	if d := cmp.Diff(want, guests); d != "" {
		t.Errorf("guests (-want +got):\n%s", d)
	}
	for i, text := range []string{
		"vm-105-disk-0 on n1 is marked as a replica of guest 105", "storage fast of node n2: gone",
		"vm-100-disk-7 on n2 looks like a volume of guest 100, which n1 owns", "guest 102 was found on n1 and on n2",
	} {
		if i >= len(warnings) || !strings.Contains(warnings[i], text) {
			t.Errorf("warnings %q: number %d does not say %q", warnings, i, text)
		}
	}
}

type disks map[string][]zfs.Dataset

func (d disks) Children(_ context.Context, root string) ([]zfs.Dataset, error) {
	if d[root] == nil {
		return nil, errors.New("no such dataset")
	}
	return d[root], nil
}

func TestPlace_Look(t *testing.T) {
	p := discovery.Place{Name: "n1", Storages: map[string]string{"local-zfs": "tank/g", "lost": "tank/nowhere"}, ZFS: disks{"tank/g": {
		{Name: "tank/g/vm-100-disk-0", Type: zfs.TypeVolume},
		{Name: "tank/g/base-100-disk-0", Type: zfs.TypeVolume},
		{Name: "tank/g/subvol-200-disk-0", Type: zfs.TypeFilesystem, Props: map[string]string{zfs.PropRole: zfs.RoleReplica, zfs.PropGuest: "200"}},
	}}}
	got, err := p.Look(t.Context(), discovery.Request{})
	if err != nil {
		t.Fatal(err)
	}
	second := found(200, "subvol-200-disk-0")
	second.Replica = "200"
	if d := cmp.Diff([]discovery.Found{found(100, "vm-100-disk-0"), second}, got.Found); d != "" {
		t.Error(d)
	}
	if len(got.Broken) != 1 || !strings.Contains(got.Broken[0], "storage lost of node n1: no such dataset") {
		t.Errorf("broken: %q", got.Broken)
	}
	if _, err := p.Look(t.Context(), discovery.Request{Pattern: "a/b"}); err == nil {
		t.Error("a bad pattern was taken")
	}
}
