package zfs

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tandemd/tandem/pkg/zfs/zerr"
	"github.com/tandemd/tandem/pkg/zfs/zname"
)

// Change is what is done to datasets that belong together, at one moment: what it asks for is checked first, and then all of
// it happens, or nothing and [Changed] says why. Only what is to be destroyed may stay one by one.
type Change struct {
	// Volumes are different datasets of one pool.
	Volumes []VolumeChange
	// Take is the own name of a snapshot to take of all of them, with the user properties Props; empty: none.
	Take  string
	Props map[string]string
}

// VolumeChange is the part of one dataset.
type VolumeChange struct {
	Dataset string
	// GUID is the dataset's own; 0: it does not matter.
	GUID uint64
	// Own are user properties that it must carry itself.
	Own map[string]string
	// ReadOnly says that it must be so.
	ReadOnly bool
	// Need are snapshots that must be there.
	Need []Ref
	// Mark sets user properties on snapshots; one that is not there any more is passed over.
	Mark []Marking
	// Destroy are snapshots to destroy where they carry one of the user properties named in Marks themselves.
	Destroy []Spare
	Marks   []string
}

// Ref is a snapshot by its own name, which must have that GUID: a name alone is nothing to rely on.
type Ref struct {
	Name string
	GUID uint64
}

// Marking sets properties on snapshots.
type Marking struct {
	Props     map[string]string
	Snapshots []Ref
}

// Spare is a snapshot to destroy, once its bookmark is made if Bookmark names one.
type Spare struct {
	Ref
	Bookmark string
}

// Changed says what became of a [Change].
type Changed struct {
	// Err is why nothing of it was done; marks may have been set where it is not what was to be checked.
	Err error
	// Volumes are in the order of the change's.
	Volumes []VolumeChanged
}

// VolumeChanged is the part of one dataset.
type VolumeChanged struct {
	// Taken is the new snapshot, Before the GUID of the one before it, 0 if there was none.
	Taken  Snapshot
	Before uint64
	// Left are those that were not destroyed though they are there.
	Left []Left
}

// Left is a snapshot that stays.
type Left struct {
	Ref
	// Err is of ClassHeld, ClassClones, ClassBusy (it is being sent, or mounted) or ClassRefused (it carries no mark).
	Err error
}

// ErrWritable says that a dataset that had to be read-only is not.
var ErrWritable = errors.New("it is not read-only")

// changeProgram is the text of the channel program; it is the same for all changes.
//
//go:embed change.lua
var changeProgram []byte

// again is how often a change is tried whose snapshot met another one of the same dataset in the same transaction group: two
// tools that snapshot at the full minute meet often. Every try is in a later one.
const again = 5

// Change makes changes that do not depend on each other, in one process and one transaction group: a crash leaves all of them
// or none. All must be on one pool. The error is that of the whole: nothing is known of any of them then.
//
// It is a channel program (zfs-program(8)), which nothing interleaves with: between a check and what follows from it nobody
// else can change anything.
func (z *ZFS) Change(ctx context.Context, changes ...Change) ([]Changed, error) {
	if err := CheckChanges(changes); err != nil || len(changes) == 0 {
		return nil, err
	}
	done := make([]Changed, len(changes))
	todo := make([]int, len(changes))
	for i := range todo {
		todo[i] = i
	}
	for range again {
		lot := make([]Change, 0, len(todo))
		for _, i := range todo {
			lot = append(lot, changes[i])
		}
		answers, err := z.change1(ctx, lot)
		if err != nil {
			return nil, err
		}
		var met []int
		for n, i := range todo {
			if done[i] = answers[n].changed(changes[i]); answers[n].Why == "11" { // EAGAIN
				met = append(met, i)
			}
		}
		if todo = met; len(todo) == 0 {
			break
		}
	}
	return done, nil
}

// change1 runs the program once.
func (z *ZFS) change1(ctx context.Context, changes []Change) ([]answer, error) {
	args := encode(changes)
	// Both limits are a matter of the program's own safety; what it needs grows with what it is asked for.
	instructions, memory := 100_000+2_000*len(args), 1<<20
	for _, a := range args {
		memory += 64 + 8*len(a)
	}
	first := changes[0].Volumes[0].Dataset
	r, w, err := os.Pipe()
	if err == nil {
		_, err = w.Write(changeProgram) // It is smaller than a pipe.
		_ = w.Close()
	}
	if err != nil {
		return nil, &Error{Op: "change", Dataset: first, Class: ClassUnknown, Exit: -1, Err: err}
	}
	defer func() { _ = r.Close() }()
	var out bytes.Buffer
	c := call{op: "change", names: []string{first}, timeout: z.opt.ChangeTimeout, args: slices.Concat([]string{
		"program", "-j", "-t", strconv.Itoa(instructions), "-m", strconv.Itoa(memory), "--", zname.PoolOf(first), "-",
	}, args)}
	ch, err := z.start(ctx, c, r, &out)
	if err != nil {
		return nil, err
	}
	if err := z.await(ctx, ch, c); err != nil {
		return nil, err
	}
	var said struct{ Return map[string]answer }
	if err := json.Unmarshal(out.Bytes(), &said); err != nil || len(said.Return) != len(changes) {
		return nil, &Error{Op: "change", Dataset: first, Class: ClassUnknown, Err: fmt.Errorf("unreadable answer %q: %w", out.String(), err)}
	}
	answers := make([]answer, len(changes))
	for i := range answers {
		answers[i] = said.Return[strconv.Itoa(i+1)]
	}
	return answers, nil
}

// answer is what the program says of one change. Numbers of 64 bits are signed there, and lists are tables by place, from 1.
type answer struct {
	At, Why string
	Volumes map[string]struct {
		GUID, TXG, Creation, Written, Before int64
		Left                                 map[string]string
	}
}

func (a answer) changed(c Change) Changed {
	if a.Why != "" {
		return Changed{Err: ChangeError(a.At, a.Why)}
	}
	out := Changed{Volumes: make([]VolumeChanged, len(c.Volumes))}
	for i, v := range c.Volumes {
		got := a.Volumes[strconv.Itoa(i+1)]
		if c.Take != "" {
			out.Volumes[i].Taken = Snapshot{
				Name: c.Take, GUID: uint64(got.GUID), CreateTXG: uint64(got.TXG), //nolint:gosec // the same 64 bits
				Creation: time.Unix(got.Creation, 0).UTC(), Written: uint64(got.Written), Props: c.Props, //nolint:gosec // the same 64 bits
			}
			out.Volumes[i].Before = uint64(got.Before) //nolint:gosec // the same 64 bits
		}
		for k, s := range v.Destroy {
			if why := got.Left[strconv.Itoa(k+1)]; why != "" && why != "gone" {
				out.Volumes[i].Left = append(out.Volumes[i].Left, Left{s.Ref, ChangeError(v.Dataset+"@"+s.Name, why)})
			}
		}
	}
	return out
}

// ChangeError is the error of a reason that the channel program gives: a word, or the number of an error. The in-memory pool
// makes its errors by it too.
func ChangeError(name, why string) *Error {
	said := func(text string) *Error { return zerr.New("change", name, -1, text) }
	switch why {
	case "gone", "2": // ENOENT
		return said("cannot open '" + name + "': dataset does not exist")
	case "17": // EEXIST
		return said("cannot create snapshot '" + name + "': dataset already exists")
	case "clones":
		return said("cannot destroy '" + name + "': snapshot has dependent clones")
	case "other":
		return &Error{Op: "change", Dataset: name, Class: ClassGone, Exit: -1, Err: errors.New("it is not the dataset that it was")}
	case "writable":
		return refuse("change", name, ErrWritable)
	case "unmarked":
		return refuse("change", name, errors.New("it carries no mark of Tandem's"))
	case "held":
		return said("cannot destroy '" + name + "': it's being held")
	case "11", "16": // EAGAIN, EBUSY
		return said("'" + name + "': dataset is busy")
	case "28": // ENOSPC
		return said("'" + name + "': out of space")
	case "122": // EDQUOT
		return said("'" + name + "': space quota exceeded")
	case "30": // EROFS
		return said("'" + name + "': pool is read-only")
	}
	return &Error{Op: "change", Dataset: name, Class: ClassRefused, Exit: -1, Err: fmt.Errorf("the kernel's channel program says: %s", why)}
}

// encode makes the program's arguments: counts, and then so many of what is counted.
func encode(changes []Change) []string {
	var args []string
	count := func(n int) { args = append(args, strconv.Itoa(n)) }
	props := func(m map[string]string) {
		count(len(m))
		for _, name := range sortedKeys(m) {
			args = append(args, name, m[name])
		}
	}
	ref := func(r Ref) { args = append(args, r.Name, strconv.FormatInt(int64(r.GUID), 10)) } //nolint:gosec // the same 64 bits
	refs := func(list []Ref) {
		count(len(list))
		for _, r := range list {
			ref(r)
		}
	}
	count(len(changes))
	for _, c := range changes {
		args = append(args, c.Take)
		props(c.Props)
		count(len(c.Volumes))
		for _, v := range c.Volumes {
			ref(Ref{v.Dataset, v.GUID})
			args = append(args, map[bool]string{true: "1", false: "0"}[v.ReadOnly])
			props(v.Own)
			refs(v.Need)
			count(len(v.Mark))
			for _, m := range v.Mark {
				props(m.Props)
				refs(m.Snapshots)
			}
			count(len(v.Marks))
			args = append(args, v.Marks...)
			count(len(v.Destroy))
			for _, s := range v.Destroy {
				ref(s.Ref)
				args = append(args, s.Bookmark)
			}
		}
	}
	return args
}

// CheckChanges tells what is wrong with the arguments of a Change call; nil if nothing is.
func CheckChanges(changes []Change) error {
	pool := ""
	for _, c := range changes {
		if len(c.Volumes) == 0 {
			return refuse("change", "", errors.New("no dataset given"))
		}
		seen := map[string]bool{}
		for _, v := range c.Volumes {
			if err := v.check(c.Take); err != nil {
				return refuse("change", v.Dataset, err)
			}
			if pool == "" {
				pool = zname.PoolOf(v.Dataset)
			}
			if other := zname.PoolOf(v.Dataset); other != pool {
				return refuse("change", v.Dataset, fmt.Errorf("pools %s and %s: nothing can be changed on two pools at one moment", pool, other))
			}
			if seen[v.Dataset] {
				return refuse("change", v.Dataset, errors.New("it is given twice"))
			}
			seen[v.Dataset] = true
		}
		if err := userProps(c.Props); err != nil {
			return refuse("change", c.Volumes[0].Dataset, err)
		}
	}
	return nil
}

func (v VolumeChange) check(take string) error {
	errs := []error{zname.Dataset(v.Dataset), userProps(v.Own)}
	if take != "" {
		errs = append(errs, zname.Snapshot(v.Dataset+"@"+take))
	}
	for _, r := range v.Need {
		errs = append(errs, zname.Snapshot(v.Dataset+"@"+r.Name))
	}
	for _, m := range v.Mark {
		errs = append(errs, userProps(m.Props))
		for _, r := range m.Snapshots {
			errs = append(errs, zname.Snapshot(v.Dataset+"@"+r.Name))
		}
	}
	for _, s := range v.Destroy {
		errs = append(errs, zname.Snapshot(v.Dataset+"@"+s.Name))
		if s.Bookmark != "" {
			errs = append(errs, zname.Bookmark(v.Dataset+"#"+s.Bookmark))
		}
	}
	if len(v.Destroy) > 0 && len(v.Marks) == 0 {
		errs = append(errs, errors.New("snapshots are only destroyed by a mark that they carry"))
	}
	return errors.Join(errs...)
}

// userProps tells what is wrong with properties that a snapshot could not have.
func userProps(props map[string]string) error {
	if err := zname.Props(props); err != nil {
		return err
	}
	for _, name := range sortedKeys(props) {
		if !strings.Contains(name, ":") {
			return fmt.Errorf("property %s: only user properties are set by a change", name)
		}
	}
	return nil
}
