package image_test

import (
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tandemd/tandem/deploy/lab/image"
)

func TestInputsKey_ChangesWithEveryInput(t *testing.T) {
	base := fstest.MapFS{"image/a.sh": {Data: []byte("one")}, "image/b.sh": {Data: []byte("two")}}
	key := func(inputs fstest.MapFS, words ...string) string {
		t.Helper()
		got, err := image.InputsKey(inputs, words...)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	seen := map[string]string{}
	for name, got := range map[string]string{
		"base":    key(base, "1", "trixie"),
		"format":  key(base, "2", "trixie"),
		"suite":   key(base, "1", "bookworm"),
		"content": key(fstest.MapFS{"image/a.sh": {Data: []byte("ONE")}, "image/b.sh": base["image/b.sh"]}, "1", "trixie"),
		"name":    key(fstest.MapFS{"image/c.sh": base["image/a.sh"], "image/b.sh": base["image/b.sh"]}, "1", "trixie"),
		"missing": key(fstest.MapFS{"image/a.sh": base["image/a.sh"]}, "1", "trixie"),
	} {
		if other, double := seen[got]; double {
			t.Errorf("%s and %s have the same key", name, other)
		}
		seen[got] = name
	}
	again := fstest.MapFS{"image/b.sh": {Data: []byte("two")}, "image/a.sh": {Data: []byte("one")}}
	if seen[key(again, "1", "trixie")] != "base" {
		t.Error("the same inputs give two keys")
	}
}

func TestPackageList_SkipsComments(t *testing.T) {
	got := image.PackageList("# all\nudev\n\nzfs-dkms # the module\n")
	if diff := cmp.Diff([]string{"udev", "zfs-dkms"}, got); diff != "" {
		t.Errorf("packages (-want +got):\n%s", diff)
	}
}

func TestPrune_KeepsTodaysImageTheLastOtherAndThoseInUse(t *testing.T) {
	cache := t.TempDir()
	day := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i, key := range []string{"a1", "a2", "a3", "a4"} { // a4 was used last, a1 is today's, a lab runs on a3
		for _, dir := range []string{"images", "templates"} {
			if err := os.MkdirAll(filepath.Join(cache, dir, key, "n1"), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		path := filepath.Join(cache, "images", key)
		if err := os.Chtimes(path, day, day.AddDate(0, 0, i)); err != nil {
			t.Fatal(err)
		}
	}
	images := filepath.Join(cache, "images")
	inUse := func(dir string) bool { return filepath.Base(dir) == "a3" }
	if err := image.Prune(images, filepath.Join(images, "a1"), inUse); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"images", "templates"} {
		entries, err := os.ReadDir(filepath.Join(cache, dir))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, entry := range entries {
			got = append(got, entry.Name())
		}
		if diff := cmp.Diff([]string{"a1", "a3", "a4"}, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", dir, diff)
		}
	}
}
