package image_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tandemd/tandem/deploy/lab/image"
)

const oneLine = `# a comment
deb [arch=amd64 signed-by=/usr/share/keyrings/x.gpg] http://mirror.example/debian/ bookworm main contrib # trailing
deb-src http://mirror.example/debian bookworm main
deb http://security.example/debian-security bookworm-security main
deb cdrom:[Debian GNU/Linux 12]/ bookworm main
broken line
`

const stanzas = `# a comment
Types: deb deb-src
URIs: http://first.example/debian
  http://second.example/debian
Suites: trixie trixie-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://off.example/debian
Suites: trixie
Components: main
Enabled: no
`

func TestParseSourcesList_TakesBinaryEntries(t *testing.T) {
	want := []image.AptEntry{
		{URI: "http://mirror.example/debian/", Suite: "bookworm", Components: []string{"main", "contrib"}},
		{URI: "http://security.example/debian-security", Suite: "bookworm-security", Components: []string{"main"}},
	}
	got := image.ParseSourcesList(oneLine)
	if diff := cmp.Diff(want, got[:2]); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
}

func TestParseDeb822_MultipliesAndSkipsDisabled(t *testing.T) {
	main := []string{"main"}
	want := []image.AptEntry{
		{URI: "http://first.example/debian", Suite: "trixie", Components: main},
		{URI: "http://first.example/debian", Suite: "trixie-updates", Components: main},
		{URI: "http://second.example/debian", Suite: "trixie", Components: main},
		{URI: "http://second.example/debian", Suite: "trixie-updates", Components: main},
	}
	if diff := cmp.Diff(want, image.ParseDeb822(stanzas)); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
}

func TestChooseMirror(t *testing.T) {
	for name, tt := range map[string]struct {
		list, stanzas, release, want string
	}{
		"the host's release":        {oneLine, stanzas, "bookworm", "http://mirror.example/debian"},
		"the other format":          {oneLine, stanzas, "trixie", "http://first.example/debian"},
		"any Debian release":        {oneLine, "", "", "http://mirror.example/debian"},
		"not security":              {"deb http://s.example/debian-security bookworm-security main", "", "bookworm", ""},
		"not somebody's repository": {"deb http://tools.example/apt tools-bookworm main", "", "bookworm", ""},
		"not without main":          {"deb http://m.example/debian bookworm contrib", "", "bookworm", ""},
		"nothing":                   {"", "", "bookworm", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, found := image.ChooseMirror(tt.list, tt.stanzas, tt.release)
			if got != tt.want || found != (tt.want != "") {
				t.Errorf("got %q, %v, want %q", got, found, tt.want)
			}
		})
	}
}
