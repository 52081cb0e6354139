package zfs_test

import (
	"strings"
	"testing"

	"github.com/tandemd/tandem/pkg/zfs"
)

// listing is a zfs whose lists of tank/vm break off after the first snapshot, with that on stderr and that exit code.
func listing(stderr, exit string) string {
	return `for name; do case $name in
		tank/vm) printf 'tank/vm\ttype\tvolume\t-\ntank/vm\tguid\t21\t-\ntank/vm@a\tguid\t1\t-\ntank/vm@a\tcreatetxg\t10\t-\n'
			echo "` + stderr + `" >&2; code=` + exit + ` ;;
		tank/ct) printf 'tank/ct\ttype\tfilesystem\t-\ntank/ct\tguid\t31\t-\ntank/ct@a\tguid\t2\t-\n' ;;
		tank/none) echo "cannot open 'tank/none': dataset does not exist" >&2; code=1 ;;
		esac; done; exit ${code:-0}`
}

// zfs get prints what it has when the list of a dataset's snapshots ends with an error, and may even end with 0. Whoever took that
// for all of them would destroy what the target has besides.
func TestZFS_AListThatBrokeOffIsNone(t *testing.T) {
	for name, c := range map[string]struct{ stderr, exit string }{
		"and ended well":             {"cannot iterate filesystems: I/O error", "0"},
		"and said that it failed":    {"cannot iterate filesystems: I/O error", "1"},
		"after another's statement":  {"cannot open 'tank/none': dataset does not exist\ncannot iterate filesystems: I/O error", "1"},
		"over a name nobody gave":    {"cannot open 'tank/vm/child': dataset does not exist", "0"},
		"over a name that is longer": {"cannot open 'tank/vm@b': dataset does not exist", "1"},
		"by an abort":                {"internal error: cannot iterate filesystems: Invalid exchange", "0; kill -ABRT $$"},
		"with words of nobody":       {"tank/vm: something is odd", "0"},
	} {
		t.Run(name, func(t *testing.T) {
			z, _ := tools(t, listing(c.stderr, c.exit))
			list, err := z.List(t.Context(), "tank/vm", "tank/none", "tank/ct", "tank/vm")
			if err != nil {
				t.Fatalf("the others fail with it: %v", err)
			}
			for _, d := range []zfs.Dataset{list[0], list[3]} {
				wantClass(t, d.Err, zfs.ClassUnknown)
				if want := strings.TrimPrefix(c.stderr, "cannot open 'tank/none': dataset does not exist\n"); d.Err == nil || !strings.Contains(d.Err.Error(), want) {
					t.Errorf("got %v, want what zfs said: %s", d.Err, want)
				}
				if d.Name != "tank/vm" || d.Snapshots != nil {
					t.Errorf("a part of it is shown: %+v", d)
				}
			}
			wantClass(t, list[1].Err, zfs.ClassGone)
			if list[2].Err != nil || len(list[2].Snapshots) != 1 {
				t.Errorf("another one: %+v", list[2])
			}
		})
	}
	t.Run("without a word", func(t *testing.T) {
		z, _ := tools(t, listing("", "1"))
		list, err := z.List(t.Context(), "tank/vm", "tank/ct")
		if err != nil {
			t.Fatal(err)
		}
		wantClass(t, list[0].Err, zfs.ClassUnknown)
		diff(t, list[1].Err, nil)
	})
	t.Run("of children", func(t *testing.T) {
		z, _ := tools(t, `printf 'tank\tguid\t1\t-\ntank/a\tguid\t2\t-\n'; echo 'cannot iterate filesystems: I/O error' >&2`)
		list, err := z.Children(t.Context(), "tank")
		wantClass(t, err, zfs.ClassUnknown)
		if list != nil {
			t.Errorf("a part is shown: %+v", list)
		}
	})
}

// What the dynamic linker says of a machine's other software is no word of zfs.
func TestZFS_AListWithTheLinkersWarnings(t *testing.T) {
	z, calls := tools(t, listing(strings.Join([]string{
		"ERROR: ld.so: object 'libagent.so' from /etc/ld.so.preload cannot be preloaded (cannot open shared object file): ignored.",
		"/sbin/zfs: /lib/libcrypto.so.3: no version information available (required by /lib/libzfs.so.4)",
	}, "\n"), "0"))
	list, err := z.List(t.Context(), "tank/vm", "tank/ct", "tank/none")
	if err != nil {
		t.Fatal(err)
	}
	if !list[0].Exists() || !list[1].Exists() {
		t.Errorf("got %v and %v", list[0].Err, list[1].Err)
	}
	wantClass(t, list[2].Err, zfs.ClassGone)
	if len(calls()) != 1 {
		t.Errorf("calls: %q", calls())
	}
	_, err = z.Children(t.Context(), "tank")
	if err != nil {
		t.Error(err)
	}
}

// A program that does not run is asked once, and not for each of the datasets.
func TestZFS_AListThatNobodyMade(t *testing.T) {
	z, calls := tools(t, "kill -9 $$")
	if _, err := z.List(t.Context(), "tank/vm", "tank/ct"); err == nil || len(calls()) != 1 {
		t.Errorf("got %v after %q", err, calls())
	}
}
