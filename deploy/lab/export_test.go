package lab

import (
	"io"

	"github.com/tandemd/tandem/deploy/lab/image"
)

// What the tests of the pure parts reach into.
var (
	TemplateKey = templateKey
	ShellQuote  = shellQuote
	SSHConfig   = func() string { return sshConfigText(image.At("/cache/images/k"), []*Machine{{name: "n1", number: 1}}) }
)

// Marker is what a machine adds for exit code 255.
const Marker = endedWith255

// Filter passes chunks through the filter for Marker.
func Filter(out io.Writer, chunks ...string) (bool, error) {
	f := &markerFilter{out: out, marker: []byte(endedWith255)}
	for _, chunk := range chunks {
		if _, err := f.Write([]byte(chunk)); err != nil {
			return false, err
		}
	}
	return f.finish()
}
