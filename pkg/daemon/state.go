package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/statefile"
)

// folder is the daemon's state on disk. Raft's stores are in raft/<generation>,
// the rest are small checksummed files.
type folder string

func openFolder(dir string) (folder, error) {
	f := folder(dir)
	for _, sub := range []string{"", "raft", "facts", "locks"} {
		if err := os.MkdirAll(f.path(sub), 0o700); err != nil {
			return "", fmt.Errorf("the state folder: %w", err)
		}
	}
	return f, nil
}

func (f folder) path(elem ...string) string {
	return filepath.Join(append([]string{string(f)}, elem...)...)
}

// cluster is the ledger as it was last known here; nil: not in a cluster.
func (f folder) cluster() (*ledger.State, error) {
	var s ledger.State
	err := statefile.Read(f.path("cluster.json"), &s)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil //nolint:nilnil // absent is no error: the node is in no cluster yet
	case err != nil:
		return nil, err
	case !s.Founded() || len(s.Gossip) == 0:
		return nil, fmt.Errorf("%s holds no cluster", f.path("cluster.json"))
	}
	return &s, nil
}

func (f folder) saveCluster(s *ledger.State) error {
	return statefile.Write(f.path("cluster.json"), s)
}

type bootCount struct {
	Boot uint64 `json:"boot"`
}

// nextBoot counts the starts of the daemon, so that what this one gossips is
// newer than what the last one did.
func (f folder) nextBoot() (uint64, error) {
	var b bootCount
	if err := statefile.Read(f.path("boot.json"), &b); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	b.Boot++
	return b.Boot, statefile.Write(f.path("boot.json"), b)
}

// facts keeps what pkg/replicate remembers between runs: a cache of disk truth.
type facts struct{ dir string }

var factName = regexp.MustCompile(`^[a-z0-9-]{1,64}$`)

func (f facts) file(name string) (string, error) {
	if !factName.MatchString(name) {
		return "", fmt.Errorf("state file %q: not a name", name)
	}
	return filepath.Join(f.dir, name+".json"), nil
}

// Read reads one file; errors.Is(err, fs.ErrNotExist) where there is none.
func (f facts) Read(name string, v any) error {
	p, err := f.file(name)
	if err != nil {
		return err
	}
	return statefile.Read(p, v)
}

// Write replaces one file.
func (f facts) Write(name string, v any) error {
	p, err := f.file(name)
	if err != nil {
		return err
	}
	return statefile.Write(p, v)
}
