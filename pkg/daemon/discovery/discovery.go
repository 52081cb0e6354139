// Package discovery finds datasets that look like volumes of guests that are not
// known: Look reads the storages of one node, a Finder puts together what all
// nodes found.
//
// It adds nothing and asks no other node; pkg/daemon/backend does.
package discovery

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/zfs"
)

// Request asks a node for datasets that look like volumes of guests.
type Request struct {
	// Pattern of guest.ParsePattern; empty: guest.ProxmoxPatterns.
	Pattern string `json:"pattern,omitempty"`
}

// Patterns are those that the request means.
func (r Request) Patterns() ([]guest.Pattern, error) {
	if r.Pattern == "" {
		return guest.ProxmoxPatterns(), nil
	}
	p, err := guest.ParsePattern(r.Pattern)
	return []guest.Pattern{p}, err
}

// Reply is what a node found. A storage that cannot be read is in Broken, with the
// reason, and does not hide the others.
type Reply struct {
	Found  []Found  `json:"found"`
	Broken []string `json:"broken"`
}

// Found is one dataset that looks like a guest's volume.
type Found struct {
	Volume guest.Volume `json:"volume"`
	// Guest is by its name; 0: the pattern does not tell.
	Guest guest.ID `json:"guest,omitempty"`
	// Zvol: it is one; else a filesystem.
	Zvol bool `json:"zvol,omitempty"`
	// Replica is the guest of which Tandem's own marks say that it is a replica, or empty.
	Replica string `json:"replica,omitempty"`
}

// Place is where a node looks.
type Place struct {
	Name guest.NodeName
	// Storages are datasets by the storages' names.
	Storages map[string]string
	ZFS      interface {
		Children(ctx context.Context, root string) ([]zfs.Dataset, error)
	}
}

// Look reads the storages of one node.
func (p Place) Look(ctx context.Context, r Request) (out Reply, err error) {
	like, err := r.Patterns()
	if err != nil {
		return out, err
	}
	for _, storage := range slices.Sorted(maps.Keys(p.Storages)) {
		root := p.Storages[storage]
		children, err := p.ZFS.Children(ctx, root)
		if err != nil {
			out.Broken = append(out.Broken, fmt.Sprintf("storage %s of node %s: %v", storage, p.Name, err))
			continue
		}
		for _, d := range children {
			v := guest.Volume{Storage: storage, Name: d.Name[min(len(d.Name), len(root)+1):]}
			if f, ok := match(like, v, d); ok {
				out.Found = append(out.Found, f)
			}
		}
	}
	return out, nil
}

func match(like []guest.Pattern, v guest.Volume, d zfs.Dataset) (Found, bool) {
	for _, p := range like {
		id, ok := p.Match(v.Name)
		if !ok || v.Validate() != nil {
			continue
		}
		f := Found{Volume: v, Guest: id, Zvol: d.Type == zfs.TypeVolume}
		if d.Props[zfs.PropRole] == zfs.RoleReplica {
			f.Replica = cmp.Or(d.Props[zfs.PropGuest], "?")
		}
		return f, true
	}
	return Found{}, false
}

// Finder puts together what the nodes found.
type Finder struct {
	// Ledger says which volumes are known.
	Ledger   *ledger.State
	guests   []api.Discovered
	warnings []string
}

func (f *Finder) warn(format string, args ...any) {
	f.warnings = append(f.warnings, fmt.Sprintf(format, args...))
}

// Node adds what one node found: volumes of one guest belong together, and those
// that a guest has, or that are replicas, are none of them.
func (f *Finder) Node(m ledger.Member, r Reply) {
	f.warnings = append(f.warnings, r.Broken...)
	byGuest := map[guest.ID]*api.Discovered{}
	for _, x := range r.Found {
		known, exists := f.Ledger.Guests[x.Guest]
		_, taken := f.Ledger.GuestOf(x.Volume)
		switch {
		case taken:
		case x.Replica != "":
			f.warn("%s on %s is marked as a replica of guest %s, which does not have that volume", x.Volume, m.Name, x.Replica)
		case x.Guest == 0: // A guest of its own; Result gives it an ID.
			f.guests = append(f.guests, api.Discovered{
				Node: m.Name, Type: x.kind(), Name: x.Volume.Name, Volumes: []guest.Volume{x.Volume},
			})
		case exists && known.Owner != m.ID:
			f.warn("%s on %s looks like a volume of guest %s, which %s owns", x.Volume, m.Name, x.Guest, f.Ledger.NameOf(known.Owner))
		default:
			if byGuest[x.Guest] == nil {
				byGuest[x.Guest] = &api.Discovered{Node: m.Name, ID: x.Guest, Type: x.kind(), Name: "guest-" + x.Guest.String(), Known: exists}
			}
			g := byGuest[x.Guest]
			if exists {
				g.Type, g.Name = known.Type, known.Name
			} else if x.Zvol {
				g.Type = guest.VM
			}
			g.Volumes = append(g.Volumes, x.Volume)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(byGuest)) {
		if i := slices.IndexFunc(f.guests, func(o api.Discovered) bool { return o.ID == id }); i >= 0 {
			f.warn("guest %s was found on %s and on %s: add it where its data is the newest", id, f.guests[i].Node, m.Name)
		}
		f.guests = append(f.guests, *byGuest[id])
	}
}

func (x Found) kind() guest.Type {
	if x.Zvol {
		return guest.VM
	}
	return guest.CT
}

// Result is what was found, with free IDs for guests whose names tell none.
func (f *Finder) Result() (guests []api.Discovered, warnings []string) {
	taken := map[guest.ID]bool{}
	for id := range f.Ledger.Guests {
		taken[id] = true
	}
	for _, g := range f.guests {
		taken[g.ID] = true
	}
	next := guest.MinID
	for i := range f.guests {
		if f.guests[i].ID != 0 {
			continue
		}
		for taken[next] {
			next++
		}
		f.guests[i].ID = next
		taken[next] = true
	}
	return f.guests, f.warnings
}
