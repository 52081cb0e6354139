package gate_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tandemd/tandem/pkg/plan/gate"
)

// told is what is found of one node: the bugs' numbers and features' names, "!" before those that refuse.
func told(findings []gate.Finding) string {
	var out []string
	for _, f := range findings {
		_, what, ok := strings.Cut(f.Text, "(openzfs")
		what = strings.TrimSuffix(what, ")")
		if !ok {
			_, what, _ = strings.Cut(f.Text, "feature ")
			what, _, _ = strings.Cut(what, ",")
		}
		if f.Refuse {
			what = "!" + what
		}
		out = append(out, what)
	}
	return strings.Join(out, " ")
}

func TestVersion_Gates(t *testing.T) {
	plain := gate.Needs{RecordSize: 16 << 10}
	encrypted := gate.Needs{RecordSize: 16 << 10, Encrypted: true}
	large := gate.Needs{RecordSize: 1 << 20}
	files := gate.Needs{RecordSize: 128 << 10, Filesystem: true, First: true}
	for _, tc := range []struct {
		version string
		needs   gate.Needs
		want    string
	}{
		// Unencrypted: from 2.1.14 on without a word.
		{"0.8.6-1", plain, "#15526"},
		{"2.1.11-1", plain, "#15526"},
		{"2.1.13", plain, "#15526"},
		{"2.1.14", plain, ""},
		{"2.1.14-rc1", plain, "#15526"},
		{"2.2.0", plain, "#15526"},
		{"2.2.1-0ubuntu2", plain, "#15526"},
		{"2.2.2-0ubuntu9.1", plain, ""},
		{"2.3.0-rc1", plain, ""},
		{"2.3.2-2~bpo12+1", plain, ""},
		{"2.4.0", plain, ""},
		{"2.3.99-12_gabcdef", plain, ""},
		{"3.0.0", plain, ""},
		{"", plain, ""},
		{"nonsense", plain, ""},
		// Encrypted: only from 2.2.8 and 2.3.3 on.
		{"2.1.16", encrypted, "!#12014"},
		{"2.2.7-1", encrypted, "!#12014"},
		{"2.2.8-1", encrypted, ""},
		{"2.2.10", encrypted, ""},
		{"2.3.0", encrypted, "!#12014"},
		{"2.3.2-2", encrypted, "!#12014"},
		{"2.3.3", encrypted, ""},
		{"2.4.0-rc2", encrypted, "!#12014"},
		{"2.4.0", encrypted, ""},
		{"2.1.11-1", encrypted, "!#12014 #15526"},
		{"", encrypted, "!#12014"},
		{"nonsense", encrypted, "!#12014"},
		// Large records: the dead end until 2.4.1.
		{"2.3.9", large, "#18105"},
		{"2.4.0", large, "#18105"},
		{"2.4.1", large, ""},
		// The first sync of many files.
		{"2.1.15", files, "#15927"},
		{"2.2.3", files, "#15927"},
		{"2.2.4", files, ""},
		{"2.3.0", files, ""},
	} {
		got := gate.Version(gate.Side{Node: "n2", ZFS: tc.version}, tc.needs)
		if told(got) != tc.want {
			t.Errorf("%q, %+v: got %q, want %q", tc.version, tc.needs, told(got), tc.want)
		}
		for _, f := range got {
			if !strings.Contains(f.Text, "n2") || !strings.Contains(f.Text, tc.version) || !strings.Contains(f.Hint, "2.") {
				t.Errorf("%q: %+v: want the node, the version and the release that mends it", tc.version, f)
			}
		}
	}
}

func TestCheck_Features(t *testing.T) {
	source := map[string]string{
		"lz4_compress": "active", "embedded_data": "active", "large_blocks": "active", "zstd_compress": "active", "large_dnode": "active",
		"longname": "active", "encryption": "enabled", "bookmark_v2": "enabled",
	}
	all := map[string]string{}
	for _, f := range gate.Relevant() {
		all[f] = "enabled"
	}
	delete(all, "large_microzap")
	for _, tc := range []struct {
		name   string
		target map[string]string
		needs  gate.Needs
		want   string
	}{
		{name: "all there", target: all, needs: gate.Needs{Encrypted: true, RecordSize: 1 << 17}},
		{name: "not known", needs: gate.Needs{RecordSize: 1 << 20}, want: "#18105 #18105"},
		{name: "an old pool", target: map[string]string{}, needs: gate.Needs{RecordSize: 1 << 17, Compression: "lz4"}, want: "!embedded_data !lz4_compress"},
		{name: "zstd", target: map[string]string{"embedded_data": "enabled", "lz4_compress": "active"}, needs: gate.Needs{Compression: "zstd-3"}, want: "!zstd_compress"},
		{
			name: "large blocks", target: map[string]string{"embedded_data": "enabled", "lz4_compress": "active", "large_blocks": "disabled"},
			needs: gate.Needs{RecordSize: 1 << 20}, want: "!large_blocks #18105 #18105",
		},
		{
			name: "a filesystem", target: map[string]string{"embedded_data": "enabled", "lz4_compress": "active"},
			needs: gate.Needs{Filesystem: true, DNodeSize: "auto"}, want: "!large_dnode longname",
		},
		{
			name: "raw", target: map[string]string{"embedded_data": "disabled", "lz4_compress": "active"},
			needs: gate.Needs{Encrypted: true}, want: "!encryption !bookmark_v2",
		},
	} {
		got := gate.Check(
			gate.Side{Node: "n1", ZFS: "2.4.0", Pool: "tank", Features: source},
			gate.Side{Node: "n2", ZFS: "2.4.0", Pool: "data", Features: tc.target}, tc.needs,
		)
		if d := cmp.Diff(tc.want, told(got)); d != "" {
			t.Errorf("%s (-want +got)\n%s", tc.name, d)
		}
		for _, f := range got {
			if f.Feature && (!strings.Contains(f.Text, "pool data on n2") || !strings.Contains(f.Hint, "zpool set feature@")) {
				t.Errorf("%s: %+v: want pool, node and what to do", tc.name, f)
			}
		}
	}
}

// A large microzap stops the receiving machine: only where the pool that sends has one.
func TestCheck_LargeMicrozap(t *testing.T) {
	source := gate.Side{Node: "n1", ZFS: "2.3.4", Features: map[string]string{"large_microzap": "active"}}
	target := gate.Side{Node: "n2", ZFS: "2.3.4"}
	if got := told(gate.Check(source, target, gate.Needs{Filesystem: true})); got != "!#18143" {
		t.Errorf("got %q", got)
	}
	target.ZFS = "2.4.1"
	if got := told(gate.Check(source, target, gate.Needs{Filesystem: true})); got != "" {
		t.Errorf("mended: got %q", got)
	}
	if got := told(gate.Check(source, gate.Side{Node: "n2", ZFS: "2.3.4"}, gate.Needs{})); got != "" {
		t.Errorf("a zvol: got %q", got)
	}
}
