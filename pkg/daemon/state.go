package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/tandemd/tandem/pkg/identity"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/statefile"
)

// folder is the daemon's state on disk. Raft's stores are in raft/<generation>,
// the rest are small checksummed files.
type folder string

// The small files; facts/ holds more of them.
const (
	clusterFile = "cluster.json"
	bootFile    = "boot.json"
	tokensFile  = "tokens.json"
	historyFile = "history.db"
	// readingFolder is where snapshots are mounted while they are read.
	readingFolder = "reading"
	// divergedFolder is where diverged data is mounted for an operator.
	divergedFolder = "diverged"
	// drillFolder is where clones are mounted on which replicas are tried.
	drillFolder = "drills"
	// frozenFolder has the notes of the guests that stand still.
	frozenFolder = "frozen"
)

func openFolder(dir string) (folder, error) {
	f := folder(dir)
	for _, sub := range []string{"", "raft", "facts", "locks", readingFolder, divergedFolder, drillFolder, frozenFolder} {
		if err := os.MkdirAll(f.path(sub), 0o700); err != nil {
			return "", fmt.Errorf("the state folder: %w", err)
		}
	}
	return f, nil
}

func (f folder) path(elem ...string) string {
	return filepath.Join(append([]string{string(f)}, elem...)...)
}

// identity is who this node is; a new one is made in an empty folder only.
func (f folder) identity() (identity.Identity, error) {
	return identity.LoadOrCreate(string(f), clusterFile)
}

// cluster is the ledger as it was last known here; nil: not in a cluster.
func (f folder) cluster() (*ledger.State, error) {
	path := f.path(clusterFile)
	var s ledger.State
	err := statefile.Read(path, &s)
	if err == nil {
		if err = s.Validate(); err == nil {
			return &s, nil
		}
		err = &statefile.BrokenError{Path: path, Reason: err.Error()}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // absent is no error: the node is in no cluster yet
	}
	if broken, ok := errors.AsType[*statefile.BrokenError](err); ok {
		broken.Advice = "copy the file of the same name from another member, where it says the same, or from a backup of this node; " +
			"never move it away on a node that is to stay in its cluster"
	}
	return nil, err
}

func (f folder) saveCluster(s *ledger.State) error {
	return statefile.Write(f.path(clusterFile), s)
}

type bootCount struct {
	Boot uint64 `json:"boot"`
}

// nextBoot counts the starts of the daemon, so that what this one says is newer
// than what the last one did. A count that was lost goes on from the time: no honest
// count reaches the seconds since 1970. It always gives a number; the error is why
// the next start will not know of it, unless it is not settled and setBoot helps.
func (f folder) nextBoot(now time.Time) (boot uint64, settled bool, err error) {
	var b bootCount
	err = statefile.Read(f.path(bootFile), &b)
	lost := err != nil
	if errors.Is(err, fs.ErrNotExist) {
		_, missing := os.Lstat(f.path(clusterFile))
		lost, err = missing == nil, nil
	}
	if err != nil {
		err = f.setAside(bootFile, err)
	}
	if lost {
		b.Boot = uint64(max(now.Unix(), 0)) //nolint:gosec // not negative
	}
	b.Boot++
	if err != nil {
		return b.Boot, true, err // what is there is not overwritten
	}
	err = f.setBoot(b.Boot)
	return b.Boot, err == nil, err
}

// setBoot writes the count of starts: again, or raised where others remember more of
// them.
func (f folder) setBoot(boot uint64) error {
	return statefile.Write(f.path(bootFile), bootCount{Boot: boot})
}

// setAside moves a broken file that may be lost out of the way. It returns why the
// place is still taken, or nil.
func (f folder) setAside(name string, why error) error {
	if _, ok := errors.AsType[*statefile.BrokenError](why); !ok {
		return why // it could not be read at all, and may be good
	}
	if _, err := statefile.SetAside(f.path(name)); err != nil {
		return errors.Join(why, err)
	}
	return nil
}

// facts keeps what pkg/replicate remembers between runs: a cache of disk truth. A
// broken file is set aside and counts as absent.
type facts struct {
	state    folder
	troubles *troubles
}

var factName = regexp.MustCompile(`^[a-z0-9-]{1,64}$`)

func (f facts) file(name string) (string, error) {
	if !factName.MatchString(name) {
		return "", fmt.Errorf("state file %q: not a name", name)
	}
	return filepath.Join("facts", name+".json"), nil
}

// Read reads one file; errors.Is(err, fs.ErrNotExist) where there is none.
func (f facts) Read(name string, v any) error {
	p, err := f.file(name)
	if err != nil {
		return err
	}
	err = statefile.Read(f.state.path(p), v)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if left := f.state.setAside(p, err); left != nil {
		return left
	}
	f.troubles.lost(f.state.path(p), err)
	return fmt.Errorf("%s was set aside: %w", p, fs.ErrNotExist)
}

// Write replaces one file.
func (f facts) Write(name string, v any) error {
	p, err := f.file(name)
	if err != nil {
		return err
	}
	p = f.state.path(p)
	err = statefile.Write(p, v)
	f.troubles.note(p, err)
	return err
}
