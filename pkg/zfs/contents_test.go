package zfs_test

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tandemd/tandem/pkg/zfs"
)

// acl is a POSIX access list as the kernel tells it, with read access for a user.
func acl(uid uint32) []byte {
	const user, named, group, mask, other, nobody = 1, 2, 4, 0x10, 0x20, 1<<32 - 1
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range [][3]uint32{{user, 6, nobody}, {named, 4, uid}, {group, 4, nobody}, {mask, 4, nobody}, {other, 4, nobody}} {
		b = binary.LittleEndian.AppendUint16(b, uint16(e[0]))
		b = binary.LittleEndian.AppendUint16(b, uint16(e[1]))
		b = binary.LittleEndian.AppendUint32(b, e[2])
	}
	return b
}

// Two nodes may call one user differently: what is compared has its number, and no names.
func TestZFS_AnArchiveHasAccessListsWithoutNames(t *testing.T) {
	const daemon = 1 // has a name everywhere
	files := t.TempDir()
	file, folder := filepath.Join(files, "file"), filepath.Join(files, "folder")
	if err := errors.Join(os.WriteFile(file, []byte("data"), 0o600), os.Mkdir(folder, 0o700)); err != nil {
		t.Fatal(err)
	}
	err := errors.Join(unix.Setxattr(file, "system.posix_acl_access", acl(daemon), 0), unix.Setxattr(folder, "system.posix_acl_default", acl(daemon), 0))
	if errors.Is(err, unix.EOPNOTSUPP) {
		t.Skipf("no access lists in %s", files)
	}
	if err != nil {
		t.Fatal(err)
	}
	z, _ := tools(t, `case $1 in get) echo "cannot open 'tank/reading': dataset does not exist" >&2; exit 1 ;; esac`)
	mounts := t.TempDir()
	for name, script := range map[string]string{"mount": `for dir; do :; done; cp -a ` + files + `/. "$dir"`, "umount": `rm -r "$1"; mkdir "$1"`} {
		if err := os.WriteFile(filepath.Join(mounts, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", mounts+":"+os.Getenv("PATH"))
	s, err := z.Contents(t.Context(), zfs.ContentsSpec{
		Snapshot: "tank/ct@a", Type: zfs.TypeFilesystem, Clone: "tank/reading", Guest: "100", Cluster: "c", Folder: t.TempDir(),
	})
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(s)
	if err := errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(data, []byte("daemon")) {
		t.Error("the archive has the name of a user of this machine")
	}
	lists := map[string]string{}
	for archive := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		for name, value := range h.PAXRecords {
			if slices.Contains([]string{"access", "default"}, name[strings.LastIndexAny(name, "_.")+1:]) {
				lists[h.Name+" "+name] = value
			}
		}
	}
	diff(t, lists, map[string]string{
		"./file SCHILY.xattr.system.posix_acl_access":     string(acl(daemon)),
		"./folder/ SCHILY.xattr.system.posix_acl_default": string(acl(daemon)),
	})
}
