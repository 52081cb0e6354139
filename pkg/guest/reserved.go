package guest

import "strings"

// What Tandem itself keeps in the root of a storage, beside the volumes.
const (
	// DivergedFolder holds what was set aside of volumes.
	DivergedFolder = "diverged"
	// ReadingPrefix begins the names of clones that are being read.
	ReadingPrefix = "tandem-reading-"
	// DrillPrefix begins the names of clones on which replicas are tried.
	DrillPrefix = "tandem-drill-"
)

// Reserved tells what Tandem itself keeps under the volume's name in a storage; empty where nothing.
func (v Volume) Reserved() string {
	switch {
	case v.Name == DivergedFolder:
		return "the folder for diverged data that is set aside"
	case strings.HasPrefix(v.Name, ReadingPrefix):
		return "what `tandem verify` reads"
	case strings.HasPrefix(v.Name, DrillPrefix):
		return "what `tandem guest drill` tries"
	}
	return ""
}
