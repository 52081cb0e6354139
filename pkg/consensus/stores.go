package consensus

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/consensus/disk"
)

const (
	// rpcTimeout bounds one of raft's calls.
	rpcTimeout = 10 * time.Second
	maxPool    = 3
)

// Stores is where raft keeps its log, its votes and its snapshots.
type Stores struct {
	Log       raft.LogStore
	Stable    raft.StableStore
	Snapshots raft.SnapshotStore
	// Where names them to people: a folder.
	Where string
	// Close closes them; nil where there is nothing to close.
	Close func() error
}

// Empty says whether nothing was ever written: neither founded nor joined.
func (s Stores) Empty() (bool, error) {
	has, err := raft.HasExistingState(s.Log, s.Stable, s.Snapshots)
	if err != nil {
		return false, fmt.Errorf("look into the ledger's stores: %w", err)
	}
	return !has, nil
}

func (s Stores) close() error {
	if s.Close == nil {
		return nil
	}
	return s.Close()
}

// Rooms opens what raft of one generation works with. DiskRooms is that on disk,
// consensustest.Disk that in memory.
type Rooms interface {
	// Open opens the stores of a generation, or makes empty ones.
	Open(generation string) (Stores, error)
	// Transport makes raft's transport to the nodes of the same generation. It is
	// closed, if it can be, before the next one is asked for.
	Transport(generation string) (raft.Transport, error)
	// SetAside keeps the stores of a generation under another name.
	SetAside(generation string) error
	// Draft makes empty stores that are a generation's only once they are closed
	// and settled; what a crash left of an earlier draft is thrown away.
	Draft(generation string) (Stores, error)
	// Settle makes the draft the stores of the generation, durably. It is an error
	// if there are some already.
	Settle(generation string) error
}

// DiskRooms are folders beside each other: GENERATION, GENERATION.draft,
// GENERATION.aside-1 and so on.
type DiskRooms struct {
	dir   string
	layer func(generation string) (raft.StreamLayer, error)
	log   *zap.Logger

	mu   sync.Mutex
	open map[string]bool
}

// NewRooms keeps the stores in folders below dir; layer makes the connections of a
// generation, whose addresses are node IDs.
func NewRooms(dir string, layer func(generation string) (raft.StreamLayer, error), logger *zap.Logger) *DiskRooms {
	return &DiskRooms{dir: dir, layer: layer, log: logger, open: map[string]bool{}}
}

const draftSuffix = ".draft"

func (r *DiskRooms) path(name string) string { return filepath.Join(r.dir, name) }

func checkGeneration(generation string) error {
	if !regexp.MustCompile(`^[0-9a-zA-Z-]{1,64}$`).MatchString(generation) {
		return fmt.Errorf("generation %q: malformed", generation)
	}
	return nil
}

// Open implements Rooms.
func (r *DiskRooms) Open(generation string) (Stores, error) {
	if err := checkGeneration(generation); err != nil {
		return Stores{}, err
	}
	if err := r.removeDrafts(); err != nil {
		return Stores{}, err
	}
	return r.openFolder(generation)
}

// removeDrafts removes what a fork that failed, or a crash, left.
func (r *DiskRooms) removeDrafts() error {
	drafts, err := filepath.Glob(r.path("*" + draftSuffix))
	if err != nil {
		return err
	}
	for _, dir := range drafts {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove an unfinished folder: %w", err)
		}
	}
	return nil
}

func (r *DiskRooms) openFolder(name string) (Stores, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	dir := r.path(name)
	if r.open[name] {
		return Stores{}, fmt.Errorf("%s is still open: a write in it hangs", dir)
	}
	if old := filepath.Join(dir, "wal"); exists(old) {
		return Stores{}, newRoomError(dir, errors.New("it was made by a development version of tandemd, whose log this one does not read"))
	}
	s, err := disk.Open(dir)
	if err != nil {
		return Stores{}, newRoomError(dir, err)
	}
	r.open[name] = true
	return Stores{Log: s.Log, Stable: s.Votes, Snapshots: s.Snapshots, Where: dir, Close: func() error {
		err := s.Close()
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.open, name)
		return err
	}}, nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// Transport implements Rooms.
func (r *DiskRooms) Transport(generation string) (raft.Transport, error) {
	layer, err := r.layer(generation)
	if err != nil {
		return nil, err
	}
	return raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: layer, MaxPool: maxPool, Timeout: rpcTimeout, Logger: raftLogger(r.log),
	}), nil
}

// SetAside implements Rooms.
func (r *DiskRooms) SetAside(generation string) error {
	if err := checkGeneration(generation); err != nil {
		return err
	}
	for n := 1; ; n++ {
		aside := r.path(fmt.Sprintf("%s.aside-%d", generation, n))
		switch {
		case exists(aside):
			continue
		case !exists(r.path(generation)):
			return nil // there is nothing to keep
		}
		return r.rename(r.path(generation), aside)
	}
}

// Draft implements Rooms.
func (r *DiskRooms) Draft(generation string) (Stores, error) {
	if err := checkGeneration(generation); err != nil {
		return Stores{}, err
	}
	if err := r.removeDrafts(); err != nil {
		return Stores{}, err
	}
	return r.openFolder(generation + draftSuffix)
}

// Settle implements Rooms.
func (r *DiskRooms) Settle(generation string) error {
	if exists(r.path(generation)) {
		return fmt.Errorf("the folder %s exists already", r.path(generation))
	}
	return r.rename(r.path(generation+draftSuffix), r.path(generation))
}

func (r *DiskRooms) rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return fmt.Errorf("keep the ledger's folder under another name: %w", err)
	}
	return disk.SyncFolder(r.dir)
}

// Aside names the folders that were set aside, oldest generation first.
func (r *DiskRooms) Aside() ([]string, error) {
	entries, err := os.ReadDir(r.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		if strings.Contains(e.Name(), ".aside-") {
			out = append(out, r.path(e.Name()))
		}
	}
	slices.Sort(out)
	return out, nil
}
