package guest_test

import (
	"strings"
	"testing"

	"github.com/tandemd/tandem/pkg/guest"
)

func TestPattern_Match(t *testing.T) {
	for _, tc := range []struct {
		pattern, name string
		id            guest.ID
		ok            bool
	}{
		{"vm-{id}-disk-*", "vm-100-disk-0", 100, true},
		{"vm-{id}-disk-*", "vm-100-disk-", 100, true},
		{"vm-{id}-disk-*", "vm-99-disk-0", 0, false},
		{"vm-{id}-disk-*", "vm-0100-disk-0", 0, false},
		{"vm-{id}-disk-*", "vm-1000000000000-disk-0", 0, false},
		{"vm-{id}-disk-*", "xvm-100-disk-0", 0, false},
		{"{id}", "200", 200, true},
		{"disk?", "disk7", 0, true},
		{"disk?", "disk77", 0, false},
		{"a.b", "axb", 0, false},
		{"*", "web", 0, true},
		{"*", "%recv", 0, false},
	} {
		p, err := guest.ParsePattern(tc.pattern)
		if err != nil {
			t.Fatal(err)
		}
		if id, ok := p.Match(tc.name); id != tc.id || ok != tc.ok {
			t.Errorf("%s matches %s: got %v, %v, want %v, %v", tc.pattern, tc.name, id, ok, tc.id, tc.ok)
		}
	}
}

func TestProxmoxPatterns(t *testing.T) {
	matches := func(name string) guest.ID {
		for _, p := range guest.ProxmoxPatterns() {
			if id, ok := p.Match(name); ok {
				return id
			}
		}
		return 0
	}
	for name, want := range map[string]guest.ID{
		"vm-100-disk-0": 100, "vm-100-cloudinit": 100, "subvol-200-disk-1": 200,
		"base-100-disk-0": 0, "vm-100-state-before": 0, "basevol-200-disk-0": 0, "iso": 0,
	} {
		if got := matches(name); got != want {
			t.Errorf("%s: got guest %s, want %s", name, got, want)
		}
	}
}

func TestParsePattern_Refuses(t *testing.T) {
	for _, s := range []string{"", "a/b", "vm-{id}-{id}", "vm-{ID}", "a b", "[a]", "x@y", strings.Repeat("x", 81)} {
		if _, err := guest.ParsePattern(s); err == nil || !strings.Contains(err.Error(), "pattern") {
			t.Errorf("%q: got %v, want a refusal", s, err)
		}
	}
}

func FuzzParsePattern(f *testing.F) {
	f.Add("vm-{id}-disk-*", "vm-100-disk-0")
	f.Add("*?*", "")
	f.Fuzz(func(t *testing.T, pattern, name string) {
		p, err := guest.ParsePattern(pattern)
		if err != nil {
			return
		}
		if id, ok := p.Match(name); ok {
			if err := (guest.Volume{Storage: "s", Name: name}).Validate(); err != nil && len(name) <= 80 {
				t.Errorf("%q matches %q, which is no name of a volume: %v", pattern, name, err)
			}
			if p.HasID() != (id != 0) {
				t.Errorf("%q matches %q with ID %v", pattern, name, id)
			}
		}
	})
}
