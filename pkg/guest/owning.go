package guest

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// Boot says whether and when a guest's owner starts it by itself, after the node
// came up and knows by a confirmed read that the guest is its own.
type Boot struct {
	// On starts it ("onboot" of Proxmox VE).
	On bool `json:"on,omitempty"`
	// Order is the place in the row: smaller ones start first, those that share one
	// start together; 0 is after all others.
	Order int `json:"order,omitempty"`
	// Delay is how many seconds pass after its start before the next place starts.
	Delay int `json:"delay,omitempty"`
}

// The limits of a Boot.
const (
	MaxOrder = 1_000_000
	MaxDelay = 3600
)

// Validate refuses numbers out of range.
func (b Boot) Validate() error {
	switch {
	case b.Order < 0 || b.Order > MaxOrder:
		return fmt.Errorf("boot order %d: must be from 0 to %d", b.Order, MaxOrder)
	case b.Delay < 0 || b.Delay > MaxDelay:
		return fmt.Errorf("boot delay %d: must be from 0 to %d seconds", b.Delay, MaxDelay)
	default:
		return nil
	}
}

// Quiesce says how a running guest is brought to a consistent state for the moment
// in which a point is taken. Empty: not at all, the point is as after a power cut.
type Quiesce string

// The ways to quiesce. The fourth is HookPrefix and the path of an executable.
const (
	// QuiesceAgent asks the guest agent in a virtual machine to freeze its filesystems.
	QuiesceAgent Quiesce = "agent"
	// QuiesceFreeze stops all processes of the guest's unit for that moment.
	QuiesceFreeze Quiesce = "freeze"
	// HookPrefix stands before the absolute path of an executable on the owner. It is
	// called with "freeze" or "thaw" and the guest's ID.
	HookPrefix = "hook:"
)

// Hook is the executable, if the way is a hook.
func (q Quiesce) Hook() (path string, ok bool) { return strings.CutPrefix(string(q), HookPrefix) }

// Validate refuses an unknown way.
func (q Quiesce) Validate() error {
	path, hook := q.Hook()
	switch {
	case q == "" || q == QuiesceAgent || q == QuiesceFreeze:
		return nil
	case !hook:
		return fmt.Errorf("quiesce %q: must be off, agent, freeze or hook:PATH", string(q))
	case !strings.HasPrefix(path, "/") || len(path) > 255 || !utf8.ValidString(path) || strings.ContainsFunc(path, unprintable):
		return fmt.Errorf("quiesce %q: a hook is the absolute path of an executable, of at most 255 characters", string(q))
	default:
		return nil
	}
}

func unprintable(r rune) bool { return r < ' ' || r == 0x7f }

// The ways in which a term begins.
const (
	// ByMigration: the owner before handed the guest over, nothing was lost.
	ByMigration = "migration"
	// ByRecovery: the owner before was lost; what it wrote after the point is not in the guest any more.
	ByRecovery = "recovery"
)

// Beginning is what the data of a guest's term began from. By it the new owner can
// finish at any time, and every node knows what has diverged: whatever is newer
// than that point and was not received from the new owner.
type Beginning struct {
	// How is ByMigration or ByRecovery.
	How string `json:"how"`
	// From and Term are the owner before, and its term. The ledger fills them in.
	From NodeID `json:"from"`
	Term Term   `json:"term"`
	// Point is the name of the snapshot.
	Point string `json:"point"`
	// GUIDs are those of the snapshot on each volume. A volume of the guest that is not
	// in it was not in the point either: the new owner does not have its data.
	GUIDs map[Volume]uint64 `json:"guids"`
	// Stopped leaves the guest stopped on its new owner; else it is started there.
	Stopped bool `json:"stopped,omitempty"`
	// Cuts are what recoveries before this term gave up, the newest last. The ledger fills them in.
	Cuts []Cut `json:"cuts,omitempty"`
}

// Without is the beginning without volumes that were removed from the guest: one that is added later under the name of such a one
// is another.
func (b *Beginning) Without(removed func(Volume) bool) *Beginning {
	if b == nil {
		return nil
	}
	next := *b
	next.GUIDs = maps.Clone(b.GUIDs)
	maps.DeleteFunc(next.GUIDs, func(v Volume, _ uint64) bool { return removed(v) })
	return &next
}

// Cut is what a recovery gave up: the points after the one from which the guest went on, to the end of the term of the owner that
// was lost. Nodes that were away then may have such points.
type Cut struct {
	// From is the name of that point.
	From string `json:"from"`
	Term Term   `json:"term"`
}

// maxCuts is how many are remembered.
const maxCuts = 32

// Has says that a point was given up.
func (c Cut) Has(point SnapshotName) bool {
	from, err := ParseSnapshotName(c.From)
	known := point.Term.Generation == from.Term.Generation || point.Term.Generation == c.Term.Generation
	return err == nil && known && point.Term.N <= c.Term.N && point.After(from)
}

// CutsUntil are what was given up before a next term that begins from a point. If that had been given up itself, it is back.
func (b *Beginning) CutsUntil(next string) []Cut {
	if b == nil {
		return nil
	}
	cuts := slices.Clone(b.Cuts)
	if b.How == ByRecovery {
		cuts = append(cuts, Cut{From: b.Point, Term: b.Term})
	}
	if point, err := ParseSnapshotName(next); err == nil {
		cuts = slices.DeleteFunc(cuts, func(c Cut) bool { return c.Has(point) })
	}
	return cuts[max(0, len(cuts)-maxCuts):]
}

// Validate refuses one that nobody could finish from.
func (b Beginning) Validate() error {
	if b.How != ByMigration && b.How != ByRecovery {
		return fmt.Errorf("beginning %q: must be %s or %s", b.How, ByMigration, ByRecovery)
	}
	if b.Point == "" || len(b.Point) > 255 || !utf8.ValidString(b.Point) || strings.ContainsAny(b.Point, "@/ \t\n") {
		return fmt.Errorf("beginning: point %q is not the name of a snapshot", b.Point)
	}
	if len(b.GUIDs) == 0 {
		return errors.New("beginning: it has no volume")
	}
	for _, v := range slices.SortedFunc(maps.Keys(b.GUIDs), Volume.Compare) {
		if err := v.Validate(); err != nil {
			return fmt.Errorf("beginning: %w", err)
		}
		if b.GUIDs[v] == 0 {
			return fmt.Errorf("beginning: volume %s has no snapshot", v)
		}
	}
	return nil
}
