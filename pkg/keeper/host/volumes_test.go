package host_test

import (
	"context"
	"testing"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/keeper/host"
	"github.com/tandemd/tandem/pkg/zfs"
)

// What was begun with a volume here is gone on with, whoever began it.
func TestVolumes_Unfinished(t *testing.T) {
	disk := guest.Volume{Storage: "s", Name: "vm-100-disk-0"}
	g := guest.Guest{ID: 100, Volumes: []guest.Volume{disk}}
	for _, tc := range []struct {
		role, sealed string
		want         bool
	}{
		{zfs.RoleOwner, "", false},
		{zfs.RoleOwner, "5", false},
		{zfs.RoleReplica, "", false},
		{zfs.RoleReplica, "5", true},
		{zfs.RoleDiverged, "5", true},
		{zfs.RoleDiverged, "", true},
	} {
		d := zfs.Dataset{Name: "tank/vm-100-disk-0", Type: zfs.TypeVolume, Props: map[string]string{
			zfs.PropCluster: "c", zfs.PropGuest: "100", zfs.PropVolume: disk.String(), zfs.PropRole: tc.role, zfs.PropTerm: "5-0123456789abcdef",
			zfs.PropSealed: tc.sealed,
		}}
		v := host.Volumes{Storages: map[string]string{"s": "tank"}, List: func(context.Context, ...string) ([]zfs.Dataset, error) {
			return []zfs.Dataset{d}, nil
		}}
		got, err := v.Look(t.Context(), "c", g)
		if err != nil || len(got) != 1 || got[0].Unfinished != tc.want || got[0].Foreign || !got[0].Marked {
			t.Errorf("role %s, sealed %q: %+v, %v, want unfinished: %v", tc.role, tc.sealed, got, err, tc.want)
		}
	}
}
