package zfs

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tandemd/tandem/pkg/zfs/zerr"
	"github.com/tandemd/tandem/pkg/zfs/zname"
)

// Type is the type of a dataset.
type Type string

// The types.
const (
	TypeFilesystem Type = "filesystem"
	TypeVolume     Type = "volume"
)

// Dataset is a filesystem or zvol with its snapshots and bookmarks.
type Dataset struct {
	Name string
	// Err is nil if the dataset exists and was read; else an [*Error], of ClassGone if it does not exist and its pool does.
	Err  error
	Type Type
	// GUID identifies the dataset on this node; a replica's is not its source's.
	GUID, CreateTXG uint64
	// Sizes are in bytes. Written is since the last snapshot; a clone's, or after a rollback, is a kilobyte and not 0.
	Used, Available, Referenced, Written, VolSize uint64
	ReadOnly, Mounted                             bool
	CanMount, Mountpoint                          string
	// Encryption is "off" or the cipher; KeyStatus "available", "unavailable" or empty.
	Encryption, EncryptionRoot, KeyStatus string
	// Origin is the snapshot of which this is a clone, or empty.
	Origin string
	// ResumeToken is set while an interrupted receive is kept, and also while a receive is running.
	ResumeToken string
	// Props are its own user properties: set here or received, never inherited (every snapshot and child would seem to carry the
	// parent's). Full names as keys.
	Props map[string]string
	// Native are those of [NativeProps] that apply to it, with their source.
	Native map[string]Property
	// Snapshots and Bookmarks are in createtxg order.
	Snapshots []Snapshot
	Bookmarks []Bookmark
}

// Exists tells whether the dataset was found and read.
func (d Dataset) Exists() bool { return d.Err == nil }

// Unmounted says that a filesystem is not mounted that ZFS mounts by itself, at boot and by `zfs mount -a`.
func (d Dataset) Unmounted() bool {
	return d.Type == TypeFilesystem && !d.Mounted && d.CanMount == "on" && d.Mountpoint != "none" && d.Mountpoint != "legacy"
}

// Sort puts snapshots and bookmarks in createtxg order.
func (d *Dataset) Sort() {
	slices.SortStableFunc(d.Snapshots, func(a, b Snapshot) int { return cmp.Compare(a.CreateTXG, b.CreateTXG) })
	slices.SortStableFunc(d.Bookmarks, func(a, b Bookmark) int { return cmp.Compare(a.CreateTXG, b.CreateTXG) })
}

// Snapshot is a snapshot of a [Dataset].
type Snapshot struct {
	// Name is without "dataset@".
	Name string
	// GUID identifies the content on all nodes; CreateTXG orders on this one.
	GUID, CreateTXG uint64
	Creation        time.Time
	// UserRefs is the number of holds. Written is in bytes, since the snapshot before; Used is what destroying it would free.
	UserRefs, Written, Used uint64
	// Props are its own user properties, as in [Dataset].
	Props map[string]string
}

// Bookmark is a bookmark of a [Dataset]. Its GUID and CreateTXG are its snapshot's.
type Bookmark struct {
	// Name is without "dataset#".
	Name            string
	GUID, CreateTXG uint64
	Creation        time.Time
}

// Property is the value of a property as `zfs get` tells it.
type Property struct {
	// Value is "-" if the property does not apply or, for a user property, is not set.
	Value string
	// Source is "local", "received", "default", "temporary", "inherited from NAME" or "-".
	Source string
}

// Own tells whether the property was set on the thing itself.
func (p Property) Own() bool { return p.Source == "local" || p.Source == "received" }

func nativeProps() []string {
	return []string{
		"type", "guid", "createtxg", "creation", "userrefs", "used", "available", "referenced", "written", "volsize",
		"readonly", "mounted", "encryption", "encryptionroot", "keystatus", "origin", "receive_resume_token",
	}
}

// List reads the datasets with all their snapshots and bookmarks: one process, however many they are. One entry per name, in
// that order; a dataset that does not exist, of which zfs does not tell everything, or whose pool does not answer, has its Err set
// and does not fail the others.
//
// It is `zfs get` and not `zfs list`: only that tells own user properties from inherited ones.
func (z *ZFS) List(ctx context.Context, names ...string) ([]Dataset, error) {
	list := make([]Dataset, len(names))
	var ask []string
	for i, name := range names {
		list[i].Name = name
		if err := zname.Dataset(name); err != nil {
			return nil, refuse("list", name, err)
		}
		if list[i].Err = z.poolReady("list", name); list[i].Err == nil && !slices.Contains(ask, name) {
			ask = append(ask, name)
		}
	}
	if len(ask) == 0 {
		return list, nil
	}
	inv := newInventory(ask)
	stderr, failed := z.feed(ctx, call{op: "list", args: z.getArgs([]string{"-d", "1", "-t", "filesystem,volume,snapshot,bookmark"}, ask...), timeout: z.opt.QueryTimeout}, inv)
	if e, ok := errors.AsType[*Error](failed); ok && e.Exit < 0 && (e.Stderr == "" || e.Class != ClassUnknown) {
		return nil, failed // It did not end by itself: nothing is known of any of them.
	}
	said := listen(stderr, failed, ask)
	for i := range list {
		if list[i].Err != nil {
			continue
		}
		if said.rest != "" && len(ask) > 1 { // Which of them it is about shows where each is asked alone.
			alone, err := z.List(ctx, list[i].Name)
			if err != nil {
				return nil, err
			}
			list[i] = alone[0]
			continue
		}
		list[i] = z.listed(list[i].Name, inv, said)
	}
	return list, nil
}

// listed is what is known of one dataset.
func (z *ZFS) listed(name string, inv *inventory, said said) Dataset {
	switch d := inv.byName[name]; {
	case said.rest != "":
		return Dataset{Name: name, Err: said.doubt(name)}
	case said.closed[name] != "":
		return Dataset{Name: name, Err: z.absentOrGone(zerr.New("list", name, 1, said.closed[name]))}
	case d.GUID == 0:
		return Dataset{Name: name, Err: &Error{Op: "list", Dataset: name, Class: ClassUnknown, Exit: -1, Err: errors.New("zfs said nothing of it")}}
	default:
		d.Sort()
		return *d
	}
}

// Children reads the direct children of a dataset (a storage's root), without their snapshots, ordered by name.
func (z *ZFS) Children(ctx context.Context, root string) ([]Dataset, error) {
	if err := zname.Dataset(root); err != nil {
		return nil, refuse("list", root, err)
	}
	inv := newInventory([]string{root})
	inv.children = true
	args := z.getArgs([]string{"-d", "1", "-t", "filesystem,volume"}, root)
	stderr, err := z.feed(ctx, call{op: "list", names: []string{root}, args: args, timeout: z.opt.QueryTimeout}, inv)
	if err != nil {
		return nil, err
	}
	if said := listen(stderr, nil, nil); said.rest != "" {
		return nil, said.doubt(root)
	}
	delete(inv.byName, root)
	children := make([]Dataset, 0, len(inv.byName))
	for _, d := range inv.byName {
		children = append(children, *d)
	}
	slices.SortFunc(children, func(a, b Dataset) int { return cmp.Compare(a.Name, b.Name) })
	return children, nil
}

func (z *ZFS) getArgs(scope []string, names ...string) []string {
	props := slices.Concat(nativeProps(), NativeProps(), UserProps(), z.opt.UserProps)
	args := []string{"get", "-Hp", "-o", "name,property,value,source"}
	return slices.Concat(args, scope, []string{strings.Join(props, ",")}, names)
}

// inventory parses what `zfs get -Hp -o name,property,value,source` prints, as it comes: tens of thousands of snapshots are
// never in memory as text.
type inventory struct {
	byName   map[string]*Dataset
	children bool // take datasets that were not asked for
	line     []byte
	last     *Dataset
}

func newInventory(names []string) *inventory {
	inv := &inventory{byName: make(map[string]*Dataset, len(names))}
	for _, name := range names {
		inv.byName[name] = &Dataset{Name: name}
	}
	return inv
}

// Write takes a piece of output. It never fails: what cannot be read is an error of the dataset that it belongs to.
func (inv *inventory) Write(p []byte) (int, error) {
	n := len(p)
	for {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			inv.line = append(inv.line, p...)
			return n, nil
		}
		line := string(append(inv.line, p[:i]...))
		inv.line, p = inv.line[:0], p[i+1:]
		if err := inv.take(line); err != nil && inv.last != nil {
			inv.last.Err = &Error{Op: "list", Dataset: inv.last.Name, Class: ClassUnknown, Err: err}
		}
	}
}

// take reads one line. Values may hold tabs (a user property of somebody else's), names and sources may not.
func (inv *inventory) take(line string) error {
	name, rest, ok1 := strings.Cut(line, "\t")
	prop, rest, ok2 := strings.Cut(rest, "\t")
	i := strings.LastIndexByte(rest, '\t')
	if !ok1 || !ok2 || i < 0 {
		return fmt.Errorf("unreadable line %q: want name, property, value, source", line)
	}
	p := Property{Value: rest[:i], Source: rest[i+1:]}
	dataset, own, sep := name, "", byte(0)
	if at := strings.IndexAny(name, "@#"); at >= 0 {
		dataset, own, sep = name[:at], name[at+1:], name[at]
	}
	d := inv.byName[dataset]
	if d == nil {
		if !inv.children || sep != 0 {
			return nil // A child of a filesystem that was asked for.
		}
		d = &Dataset{Name: dataset}
		inv.byName[dataset] = d
	}
	inv.last = d
	switch sep {
	case '@':
		if k := len(d.Snapshots); k == 0 || d.Snapshots[k-1].Name != own {
			d.Snapshots = append(d.Snapshots, Snapshot{Name: own})
		}
		return d.Snapshots[len(d.Snapshots)-1].set(prop, p)
	case '#':
		if k := len(d.Bookmarks); k == 0 || d.Bookmarks[k-1].Name != own {
			d.Bookmarks = append(d.Bookmarks, Bookmark{Name: own})
		}
		return d.Bookmarks[len(d.Bookmarks)-1].set(prop, p)
	default:
		return d.set(prop, p)
	}
}

func (d *Dataset) set(prop string, p Property) error {
	text := p.Value
	if text == "-" {
		text = ""
	}
	switch prop {
	case "type":
		d.Type = Type(text)
	case "readonly":
		d.ReadOnly = text == "on"
		d.addNative(prop, p)
	case "mounted":
		d.Mounted = text == "yes"
	case "encryption":
		d.Encryption = text
	case "encryptionroot":
		d.EncryptionRoot = text
	case "keystatus":
		d.KeyStatus = text
	case "origin":
		d.Origin = text
	case "receive_resume_token":
		d.ResumeToken = text
	case "guid":
		return number(&d.GUID, prop, text)
	case "createtxg":
		return number(&d.CreateTXG, prop, text)
	case "used":
		return number(&d.Used, prop, text)
	case "available":
		return number(&d.Available, prop, text)
	case "referenced":
		return number(&d.Referenced, prop, text)
	case "written":
		return number(&d.Written, prop, text)
	case "volsize":
		return number(&d.VolSize, prop, text)
	default:
		if !strings.Contains(prop, ":") {
			d.addNative(prop, p)
		}
		d.Props = addUserProp(d.Props, prop, p)
	}
	return nil
}

func (s *Snapshot) set(prop string, p Property) error {
	switch prop {
	case "guid":
		return number(&s.GUID, prop, p.Value)
	case "createtxg":
		return number(&s.CreateTXG, prop, p.Value)
	case "creation":
		return seconds(&s.Creation, prop, p.Value)
	case "userrefs":
		return number(&s.UserRefs, prop, p.Value)
	case "written":
		return number(&s.Written, prop, p.Value)
	case "used":
		return number(&s.Used, prop, p.Value)
	default:
		s.Props = addUserProp(s.Props, prop, p)
	}
	return nil
}

func (b *Bookmark) set(prop string, p Property) error {
	var s Snapshot
	err := s.set(prop, p)
	b.GUID, b.CreateTXG = cmp.Or(s.GUID, b.GUID), cmp.Or(s.CreateTXG, b.CreateTXG)
	if !s.Creation.IsZero() {
		b.Creation = s.Creation
	}
	return err
}

func addUserProp(props map[string]string, name string, p Property) map[string]string {
	if !p.Own() || !strings.Contains(name, ":") {
		return props
	}
	if props == nil {
		props = make(map[string]string)
	}
	props[name] = p.Value
	return props
}

func number(field *uint64, prop, text string) error {
	if text == "" || text == "-" {
		*field = 0
		return nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return fmt.Errorf("property %s: %q is no number", prop, text)
	}
	*field = n
	return nil
}

func seconds(field *time.Time, prop, text string) error {
	var n uint64
	if err := number(&n, prop, text); err != nil {
		return err
	}
	*field = time.Unix(int64(n), 0).UTC()
	return nil
}
