package local

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"sync"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/replicate/fault"
	"github.com/tandemd/tandem/pkg/zfs"
)

// Identities remember by their GUIDs which datasets of this node were the volumes of its guests: marks go with a dataset that somebody
// destroys, and what has its name afterwards need not be the guest's data. They are a file for each guest, which can be lost: an
// unmarked dataset is taken for the volume then, as one is that was never seen.
type Identities struct {
	store Store

	mu     sync.Mutex
	guests map[guest.ID]*identities
}

// identities is the file of one guest.
type identities struct {
	Datasets map[guest.Volume]uint64 `json:"datasets"`
	// broken: the file cannot be read. It is left as it is, and what is seen stays in memory.
	broken bool
}

// NewIdentities keeps them in the store.
func NewIdentities(store Store) *Identities {
	return &Identities{store: store, guests: map[guest.ID]*identities{}}
}

// of loads what is known of a guest. The caller holds the lock.
func (k *Identities) of(id guest.ID) *identities {
	x := k.guests[id]
	if x == nil {
		x = &identities{}
		if err := k.store.Read(identitiesFile(id), x); err != nil {
			x = &identities{broken: !errors.Is(err, fs.ErrNotExist)}
		}
		k.guests[id] = x
	}
	return x
}

func identitiesFile(id guest.ID) string { return "volumes-" + id.String() }

// Check refuses a dataset without marks that has the name of the guest's volume and is another than was seen there, or than
// the ledger says the guest's owner began with.
func (k *Identities) Check(g guest.Guest, v guest.Volume, d zfs.Dataset) error {
	k.mu.Lock()
	known := k.of(g.ID).Datasets[v]
	k.mu.Unlock()
	text := ""
	switch {
	case known == d.GUID:
	case known != 0:
		text = fmt.Sprintf("the dataset %s has no marks of Tandem's, and is not the one that was the guest's volume here: its GUID is %d, that one's was %d",
			d.Name, d.GUID, known)
	case g.Beginning != nil:
		if _, listed := g.Beginning.GUIDs[v]; listed {
			text = fmt.Sprintf("the dataset %s (GUID %d) has no marks of Tandem's, and the guest had this volume before: its owner began from %s",
				d.Name, d.GUID, g.Beginning.Point)
		}
	}
	if text == "" {
		return nil
	}
	hint := fmt.Sprintf("put the former dataset back in its place; if this one is the guest's data from now on (made anew, or restored), run `tandem guest set %s --take-volume %s`",
		g.ID, v)
	return fault.Person(v, hint, "%s", text)
}

// Saw notes the GUIDs of the guest's volumes, known by their marks; others that it has stay as they were.
func (k *Identities) Saw(g guest.Guest, seen map[guest.Volume]uint64) error {
	return k.change(g.ID, func(known map[guest.Volume]uint64) {
		maps.DeleteFunc(known, func(v guest.Volume, _ uint64) bool { return !g.Has(v) })
		maps.Copy(known, seen)
	})
}

// Forget has an operator's word count: what has the volumes' names from now on is what he says.
func (k *Identities) Forget(id guest.ID, volumes []guest.Volume) error {
	return k.change(id, func(known map[guest.Volume]uint64) {
		for _, v := range volumes {
			delete(known, v)
		}
	})
}

func (k *Identities) change(id guest.ID, do func(map[guest.Volume]uint64)) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	old := k.of(id)
	next := identities{Datasets: map[guest.Volume]uint64{}, broken: old.broken}
	maps.Copy(next.Datasets, old.Datasets)
	do(next.Datasets)
	if maps.Equal(next.Datasets, old.Datasets) {
		return nil
	}
	if !next.broken {
		if err := k.store.Write(identitiesFile(id), next); err != nil {
			return fault.Wrap(err, "remember which datasets are the volumes of guest %s", id)
		}
	}
	k.guests[id] = &next
	return nil
}
