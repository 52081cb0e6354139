package lab

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"regexp"

	"github.com/tandemd/tandem/deploy/lab/image"
	"github.com/tandemd/tandem/deploy/lab/network"
)

// Options say what lab is wanted. The zero value is three machines named n1 to n3 in a lab called "lab".
type Options struct {
	Name      string    // Name keeps labs apart that run at the same time; a lower-case word of at most 20 characters; "lab"
	Nodes     int       // Nodes is the number of machines, n1, n2, …; 3
	MemoryMiB int       // MemoryMiB is the memory of each machine; 1024
	CPUs      int       // CPUs of each machine; 2
	DiskGiB   int       // DiskGiB is the size of the disk with the pool, sparse; 8
	CacheDir  string    // CacheDir keeps the image, saved machines and the disks of running labs; /var/cache/tandem-lab
	Mirror    string    // Mirror is the Debian mirror for the image; taken from the host's own apt sources
	Log       io.Writer // Log takes a line for everything that takes time; nothing is told where it is nil
}

// filled returns the options with the defaults in place of what was left open.
func (o Options) filled() Options {
	o.Name = cmp.Or(o.Name, "lab")
	o.Nodes = cmp.Or(o.Nodes, 3)
	o.MemoryMiB = cmp.Or(o.MemoryMiB, 1024)
	o.CPUs = cmp.Or(o.CPUs, 2)
	o.DiskGiB = cmp.Or(o.DiskGiB, 8)
	o.CacheDir = cmp.Or(o.CacheDir, "/var/cache/tandem-lab")
	if o.Log == nil {
		o.Log = io.Discard
	}
	return o
}

var (
	labName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,19}$`)
	// cacheName leaves out what QEMU's and the shell's option parsers would take for their own.
	cacheName = regexp.MustCompile(`^[A-Za-z0-9/._+-]+$`)
)

// Validate says what is wrong with the options.
func (o Options) Validate() error {
	o = o.filled()
	var errs []error
	if !labName.MatchString(o.Name) {
		errs = append(errs, fmt.Errorf("lab name %q: want a letter and then letters, digits and dashes, lower case, at most 20", o.Name))
	}
	if o.Nodes < 1 || o.Nodes > network.MaxNodes {
		errs = append(errs, fmt.Errorf("%d machines: want 1 to %d", o.Nodes, network.MaxNodes))
	}
	if o.MemoryMiB < 512 {
		errs = append(errs, fmt.Errorf("%d MiB of memory: a machine needs at least 512", o.MemoryMiB))
	}
	if o.CPUs < 1 {
		errs = append(errs, fmt.Errorf("%d CPUs: a machine needs at least 1", o.CPUs))
	}
	if o.DiskGiB < 1 {
		errs = append(errs, fmt.Errorf("a disk of %d GiB: want at least 1", o.DiskGiB))
	}
	if !filepath.IsAbs(o.CacheDir) || filepath.Clean(o.CacheDir) != o.CacheDir || !cacheName.MatchString(o.CacheDir) {
		errs = append(errs, fmt.Errorf("cache folder %q: want a clean absolute path of letters, digits and /._+-", o.CacheDir))
	}
	return errors.Join(errs...)
}

// image are the options for the lab's image.
func (o Options) image() image.Options {
	return image.Options{CacheDir: o.CacheDir, Mirror: o.Mirror, InUse: imageInUse}
}
