package zname_test

import (
	"strings"
	"testing"

	"github.com/tandemd/tandem/pkg/zfs/zname"
)

func TestNames(t *testing.T) {
	long := "tank/" + strings.Repeat("x", 251)
	for _, test := range []struct {
		what string
		kind func(string) error
		name string
		bad  string // part of the message; empty: the name is good
	}{
		{"dataset", zname.Dataset, "tank/guests/vm-100-disk-0", ""},
		{"pool", zname.Dataset, "tank", ""},
		{"longest", zname.Dataset, long[:255], ""},
		{"too long", zname.Dataset, long, "256 bytes, zfs allows 255"},
		{"empty", zname.Dataset, "", "empty"},
		{"option", zname.Dataset, "-r", "begins with '-'"},
		{"option inside", zname.Dataset, "tank/-r", "begins with '-'"},
		{"snapshot for dataset", zname.Dataset, "tank@a", "'@' is not allowed"},
		{"absolute", zname.Dataset, "/tank", "part of the name is empty"},
		{"trailing slash", zname.Dataset, "tank/", "part of the name is empty"},
		{"parent", zname.Dataset, "tank/../x", "'..'"},
		{"space", zname.Dataset, "tank/a b", "' ' is not allowed"},
		{"newline", zname.Dataset, "tank/a\nb", `'\n' is not allowed`},
		{"shell", zname.Dataset, "tank/$(x)", "'$' is not allowed"},
		{"hidden", zname.Dataset, "tank/x/%recv", "'%' is not allowed"},
		{"digit", zname.Dataset, "1tank", "begins with a letter"},
		{"snapshot", zname.Snapshot, "tank/x@2024-01-01_00:00", ""},
		{"snapshot with a space", zname.Snapshot, "tank/x@before upgrade", ""},
		{"no snapshot", zname.Snapshot, "tank/x", `no "@"`},
		{"nameless snapshot", zname.Snapshot, "tank/x@", "empty"},
		{"two snapshots", zname.Snapshot, "tank/x@a,b", "',' is not allowed"},
		{"range", zname.Snapshot, "tank/x@a%b", "'%' is not allowed"},
		{"two ats", zname.Snapshot, "tank/x@a@b", "'@' is not allowed"},
		{"option snapshot", zname.Snapshot, "tank/x@-r", "begins with '-'"},
		{"bookmark", zname.Bookmark, "tank/x#base", ""},
		{"snapshot for bookmark", zname.Bookmark, "tank/x@base", `no "#"`},
		{"any", zname.Any, "tank/x#base", ""},
		{"own name", zname.Own, " a", "begins or ends with a space"},
		{"property", zname.Prop, "tandem:guest", ""},
		{"assignment", zname.Prop, "a=b", "'=' is not allowed"},
		{"property option", zname.Prop, "-o", "begins with '-'"},
		{"tag", zname.Tag, "tandem", ""},
		{"tag option", zname.Tag, "-r", "begins with '-'"},
		{"token", zname.Token, "1-f83-e8-789c636064", ""},
		{"token option", zname.Token, "-t", "form of a resume token"},
		{"token text", zname.Token, "1-f83;x", "';' is not allowed"},
	} {
		err := test.kind(test.name)
		if (err == nil) != (test.bad == "") || err != nil && !strings.Contains(err.Error(), test.bad) {
			t.Errorf("%s %q: got %v, want %q", test.what, test.name, err, test.bad)
		}
	}
	if err := zname.Props(map[string]string{"tandem:point": "a\tb"}); err == nil || !strings.Contains(err.Error(), "control character") {
		t.Errorf("tab in a value: %v", err)
	}
	if err := zname.Props(map[string]string{"tandem:point": strings.Repeat("x", 8192)}); err == nil {
		t.Error("a value of 8192 bytes passed")
	}
	for _, name := range []string{"tank", "tank/x", "tank@a", "tank/x#b"} {
		if zname.PoolOf(name) != "tank" {
			t.Errorf("pool of %s: %s", name, zname.PoolOf(name))
		}
	}
	if got := zname.DatasetOf("tank/x@a"); got != "tank/x" {
		t.Errorf("dataset of tank/x@a: %s", got)
	}
}
