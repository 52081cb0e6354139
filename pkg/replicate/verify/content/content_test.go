package content_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tandemd/tandem/pkg/replicate/verify/content"
)

func next(entries []content.Entry) content.Next {
	return func() (content.Entry, bool, error) {
		if len(entries) == 0 {
			return content.Entry{}, false, nil
		}
		e := entries[0]
		entries = entries[1:]
		return e, true, nil
	}
}

func scan(t *testing.T, read func(io.Reader, func(content.Entry) error) error, data []byte) []content.Entry {
	t.Helper()
	var out []content.Entry
	err := read(bytes.NewReader(data), func(e content.Entry) error {
		out = append(out, e)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func differences(t *testing.T, source, target []content.Entry) []content.Difference {
	t.Helper()
	var f content.Findings
	if err := content.Compare(next(source), next(target), f.Add); err != nil {
		t.Fatal(err)
	}
	return f.Differences
}

func equal(t *testing.T, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

func TestChunks_TellWhichRangesDiffer(t *testing.T) {
	const chunk = content.ChunkSize
	a := make([]byte, 5*chunk+4096)
	b := bytes.Clone(a)
	b[chunk+7]++
	b[2*chunk]++
	b[len(b)-1]++
	equal(t, differences(t, scan(t, content.Chunks, a), scan(t, content.Chunks, a)), []content.Difference(nil))
	equal(t, differences(t, scan(t, content.Chunks, a), scan(t, content.Chunks, b)), []content.Difference{
		{Offset: chunk, Length: 2 * chunk, What: []string{content.Content}},
		{Offset: 5 * chunk, Length: 4096, What: []string{content.Content}},
	})
	equal(t, differences(t, scan(t, content.Chunks, a), scan(t, content.Chunks, a[:4*chunk])), []content.Difference{
		{Offset: 4 * chunk, Length: chunk + 4096, What: []string{content.Missing}},
	})
	equal(t, differences(t, nil, scan(t, content.Chunks, a[:10])), []content.Difference{{Length: 10, What: []string{content.Extra}}})
}

func TestChunks_ABrokenStreamIsNoEnd(t *testing.T) {
	broken := errors.New("input/output error")
	for _, read := range []func(io.Reader, func(content.Entry) error) error{content.Chunks, content.Files} {
		err := read(io.MultiReader(bytes.NewReader(make([]byte, 100)), iotest.ErrReader(broken)), func(content.Entry) error { return nil })
		if !errors.Is(err, broken) {
			t.Errorf("got %v, want %v", err, broken)
		}
	}
}

// file is a file of an archive that the tests make.
type file struct {
	h    tar.Header
	data string
}

func archive(t *testing.T, files ...file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := f.h
		h.Size, h.Format = int64(len(f.data)), tar.FormatPAX
		if h.ModTime.IsZero() {
			h.ModTime = time.Unix(1_800_000_000, 5)
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(f.data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	b.Write(make([]byte, 9216)) // tar fills up its last record
	return b.Bytes()
}

func reg(name, data string) file {
	return file{tar.Header{Typeflag: tar.TypeReg, Name: "./" + name, Mode: 0o644}, data}
}

func dir(name string) file {
	return file{tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}, ""}
}

func TestFiles_TellEveryKindOfDifference(t *testing.T) {
	xattr := func(value string) file {
		f := reg("x", "")
		f.h.PAXRecords = map[string]string{"SCHILY.xattr.user.k": value}
		return f
	}
	change := func(f file, do func(*tar.Header)) file {
		do(&f.h)
		return f
	}
	link := file{tar.Header{Typeflag: tar.TypeSymlink, Name: "./l", Linkname: "here"}, ""}
	dev := file{tar.Header{Typeflag: tar.TypeChar, Name: "./d", Devmajor: 1, Devminor: 3}, ""}
	for name, c := range map[string]struct {
		source, target []file
		want           []content.Difference
	}{
		"content": {[]file{reg("f", "a")}, []file{reg("f", "b")}, []content.Difference{{Path: "f", Length: 1, What: []string{content.Content}}}},
		"mode": {
			[]file{reg("f", "")},
			[]file{change(reg("f", ""), func(h *tar.Header) { h.Mode = 0o600 })},
			[]content.Difference{{Path: "f", What: []string{content.Mode}}},
		},
		"owner and time": {
			[]file{reg("f", "")},
			[]file{change(reg("f", ""), func(h *tar.Header) { h.Uid, h.ModTime = 7, time.Unix(1_800_000_000, 6) })},
			[]content.Difference{{Path: "f", What: []string{content.Owner, content.Modified}}},
		},
		"attributes":       {[]file{xattr("a\x00b")}, []file{xattr("a\x00c")}, []content.Difference{{Path: "x", What: []string{content.Attributes}}}},
		"attributes alone": {[]file{xattr("")}, []file{reg("x", "")}, []content.Difference{{Path: "x", What: []string{content.Attributes}}}},
		"type":             {[]file{reg("f", "a")}, []file{dir("./f/")}, []content.Difference{{Path: "f", Length: 1, What: []string{content.Type}}}},
		"link": {
			[]file{link},
			[]file{change(link, func(h *tar.Header) { h.Linkname = "there" })},
			[]content.Difference{{Path: "l", What: []string{content.Link}}},
		},
		"device": {[]file{dev}, []file{change(dev, func(h *tar.Header) { h.Devminor = 5 })}, []content.Difference{{Path: "d", What: []string{content.Device}}}},
		"missing and extra": {
			[]file{dir("./"), dir("./a/"), reg("a/1", ""), reg("a.b", ""), reg("z", "")},
			[]file{dir("./"), dir("./a/"), reg("a/2", ""), reg("a.b", ""), reg("b\xff\x1b", "")},
			[]content.Difference{
				{Path: "a/1", What: []string{content.Missing}},
				{Path: "a/2", What: []string{content.Extra}},
				{Path: `"b\xff\x1b"`, What: []string{content.Extra}},
				{Path: "z", What: []string{content.Missing}},
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			source, target := scan(t, content.Files, archive(t, c.source...)), scan(t, content.Files, archive(t, c.target...))
			equal(t, differences(t, source, target), c.want)
			equal(t, differences(t, source, source), []content.Difference(nil))
		})
	}
}

// tar writes an access list a second time as text, some versions with the names that this very node has for users.
func TestFiles_AccessListsDifferByNumbersOnly(t *testing.T) {
	list := func(raw, text string) []content.Entry {
		f := reg("f", "")
		f.h.PAXRecords = map[string]string{"SCHILY.xattr.system.posix_acl_access": raw}
		if text != "" {
			f.h.PAXRecords["SCHILY.acl.access"] = text
		}
		return scan(t, content.Files, archive(t, f))
	}
	for _, text := range []string{"user:1000:r--", ""} {
		equal(t, differences(t, list("\x02uid 1000", "user:alice:r--"), list("\x02uid 1000", text)), []content.Difference(nil))
	}
	equal(t, differences(t, list("\x02uid 1000", ""), list("\x02uid 1001", "")), []content.Difference{{Path: "f", What: []string{content.Attributes}}})
}

// A peer may tell anything: what is out of order is no finding about files.
func TestCompare_RefusesDisorder(t *testing.T) {
	a, b := content.Entry{Path: []byte("a")}, content.Entry{Path: []byte("b")}
	for _, bad := range [][]content.Entry{{b, a}, {a, a}, {a, {Offset: 4}}} {
		if err := content.Compare(next([]content.Entry{a, b}), next(bad), func(content.Difference) {}); err == nil {
			t.Errorf("%v was taken", bad)
		}
	}
	lost := errors.New("lost")
	gone := func() (content.Entry, bool, error) { return content.Entry{}, false, lost }
	if err := content.Compare(next(nil), gone, func(content.Difference) {}); !errors.Is(err, lost) {
		t.Errorf("got %v, want %v", err, lost)
	}
}

// A dumb second implementation, by sets: whatever differs is told, and nothing else.
func TestCompare_AgreesWithSets(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		sides := [2]map[string]int{{}, {}}
		for _, s := range sides {
			for range r.IntN(20) {
				s[fmt.Sprintf("%s%c", strings.Repeat("d/", r.IntN(2)), "a+"[r.IntN(2)]+byte(r.IntN(2)))] = r.IntN(2)
			}
		}
		var want []string
		var lists [2][]content.Entry
		for i, s := range sides {
			for name, v := range s {
				lists[i] = append(lists[i], content.Entry{Path: []byte(name), File: &content.File{Mode: int64(v)}})
				if other, ok := sides[1-i][name]; !ok || other != v && i == 0 {
					want = append(want, name)
				}
			}
			slices.SortFunc(lists[i], func(a, b content.Entry) int {
				return slices.Compare(strings.Split(string(a.Path), "/"), strings.Split(string(b.Path), "/"))
			})
		}
		var got []string
		for _, d := range differences(t, lists[0], lists[1]) {
			got = append(got, d.Path)
		}
		slices.Sort(want)
		slices.Sort(got)
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("seed %d (-want +got)\n%s", seed, d)
		}
	}
}

func TestFindings_AreBounded(t *testing.T) {
	var f content.Findings
	for i := range int64(250) {
		f.Add(content.Difference{Offset: 2 * i * content.ChunkSize, Length: content.ChunkSize, What: []string{content.Content}})
	}
	if len(f.Differences) != 100 || f.More != 150 {
		t.Errorf("%d told, %d counted", len(f.Differences), f.More)
	}
}
