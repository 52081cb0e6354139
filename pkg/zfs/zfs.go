// Package zfs is the adapter to OpenZFS: every zfs and zpool process that the daemon starts is started here, without a shell,
// with validated names, a deadline of its own and an error that is classified once ([Error], [Class]).
//
// It is not a policy: it knows nothing of guests, jobs or terms and decides nothing. What it refuses on principle it has no
// way to express: receive -F, rollback, destroy -r, -R or -f, send -R or -p. The engine packages call it through small
// interfaces of their own; pkg/zfs/zfstest has an in-memory pool with the same methods and the contract that both keep.
//
// A child may hang in the kernel for ever (a suspended pool). No call here does: after its deadline the child gets SIGTERM,
// then SIGKILL, and is then abandoned, counted and reported as [ClassHung].
package zfs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/tandemd/tandem/pkg/zfs/child"
	"github.com/tandemd/tandem/pkg/zfs/zname"
)

// Tandem's user properties. On a dataset they say whose replica or volume it is, on a snapshot what it holds.
const (
	PropCluster  = "tandem:cluster"
	PropGuest    = "tandem:guest"
	PropRole     = "tandem:role"
	PropTerm     = "tandem:term"
	PropVolume   = "tandem:volume"
	PropPoint    = "tandem:point"
	PropComplete = "tandem:complete"
	PropArrived  = "tandem:arrived"
	PropReceived = "tandem:received"
	// PropRemoving is set by [ZFS.DestroyDataset] to the dataset's GUID once it begins.
	PropRemoving = "tandem:removing"
	// PropMode is how the volume's streams are made: "raw" or "plain".
	PropMode = "tandem:mode"
	// PropManifest is what a replica's owner has set on its volume; see pkg/plan/manifest.
	PropManifest = "tandem:manifest"
	// PropLanding is on a replica that a migration began where no job brings the guest: the guest's term then. It says nothing
	// at any other term, and goes once a job brings the guest there.
	PropLanding = "tandem:landing"
)

// Values of [PropRole].
const (
	RoleOwner   = "owner"
	RoleReplica = "replica"
	// RoleDiverged is diverged data of a guest that was set aside, or is about to be.
	RoleDiverged = "diverged"
	// RoleFolder is a filesystem that holds such data and nothing of its own.
	RoleFolder = "folder"
	// RoleRestored is a clone of diverged data that became no guest's volume, and is about to go.
	RoleRestored = "restored"
)

// PropSealed is on an owner's volume that was made read-only, for a move or because another owns its guest now: the guest's term
// then. It goes when the volume is the owner's again, or as the last thing of an owner's when it becomes a replica: on one with
// another role it says that this was cut.
const PropSealed = "tandem:sealed"

// PropDiverged says of data set aside why, when and by whom. Only who looks at such data reads it.
const PropDiverged = "tandem:diverged"

// UserProps returns the names of all of Tandem's user properties: what [ZFS.List] asks for.
func UserProps() []string {
	return []string{
		PropCluster, PropGuest, PropRole, PropTerm, PropVolume, PropPoint, PropComplete, PropArrived, PropReceived, PropRemoving,
		PropMode, PropManifest, PropLanding, PropSealed,
	}
}

// Options are what [New] needs; the zero value is what a daemon uses.
type Options struct {
	// ZFS and ZPool are the absolute paths of the tools; empty: looked up in PATH, then in /usr/sbin and /sbin.
	ZFS, ZPool string
	// KStat is the folder in which the kernel module shows its pools; default /proc/spl/kstat/zfs.
	KStat string
	// Mounts is where the kernel lists what is mounted; default /proc/self/mounts.
	Mounts string
	// QueryTimeout is the deadline of what only reads; default 5 minutes (a snapshot of a zvol takes 1 ms to list, 20 in emulation).
	QueryTimeout time.Duration
	// ChangeTimeout is the deadline of what changes something, streams excepted (they end with their context); default 5 minutes.
	ChangeTimeout time.Duration
	// PoolPoll is how often it is looked whether a pool that a process works on is suspended; default 5 s.
	PoolPoll time.Duration
	// Grace is the time between SIGTERM and SIGKILL, and again between SIGKILL and giving the child up; default 10 s.
	Grace time.Duration
	// Proc, Sys and Dev are where the kernel shows processes and devices; default /proc, /sys and /dev.
	Proc, Sys, Dev string
	// UserProps are more user properties for List to report beside [UserProps].
	UserProps []string
}

// Counters count the processes of one [ZFS].
type Counters struct {
	// Started is how many processes were started since New.
	Started int64
	// Running is how many of them have not ended, Abandoned how many of those nobody waits for any more.
	Running, Abandoned int64
}

// ZFS runs the zfs and zpool of this machine. It is safe for concurrent use and holds no state but counters.
type ZFS struct {
	opt    Options
	runner child.Runner
}

// New looks up the tools. It starts no process.
func New(opt Options) (*ZFS, error) {
	var err error
	if opt.ZFS, err = lookup("zfs", opt.ZFS); err != nil {
		return nil, err
	}
	if opt.ZPool, err = lookup("zpool", opt.ZPool); err != nil {
		return nil, err
	}
	opt.KStat = cmp.Or(opt.KStat, "/proc/spl/kstat/zfs")
	opt.Mounts = cmp.Or(opt.Mounts, "/proc/self/mounts")
	opt.Proc, opt.Sys, opt.Dev = cmp.Or(opt.Proc, "/proc"), cmp.Or(opt.Sys, "/sys"), cmp.Or(opt.Dev, "/dev")
	opt.QueryTimeout = cmp.Or(opt.QueryTimeout, 5*time.Minute)
	opt.ChangeTimeout = cmp.Or(opt.ChangeTimeout, 5*time.Minute)
	opt.Grace = cmp.Or(opt.Grace, 10*time.Second)
	opt.PoolPoll = cmp.Or(opt.PoolPoll, 5*time.Second)
	for _, p := range opt.UserProps {
		if err := zname.Prop(p); err != nil {
			return nil, err
		}
	}
	return &ZFS{opt: opt, runner: child.Runner{Grace: opt.Grace}}, nil
}

func lookup(tool, path string) (string, error) {
	if path != "" {
		if !filepath.IsAbs(path) {
			return "", fmt.Errorf("path of %s is %q: want an absolute path", tool, path)
		}
		return path, nil
	}
	for _, candidate := range []string{tool, "/usr/sbin/" + tool, "/sbin/" + tool} {
		if found, err := exec.LookPath(candidate); err == nil && filepath.IsAbs(found) {
			return found, nil
		}
	}
	return "", fmt.Errorf("no %s command in PATH, /usr/sbin or /sbin: install zfsutils-linux", tool)
}

// Counters returns the counts so far.
func (z *ZFS) Counters() Counters {
	return Counters{Started: z.runner.Started.Load(), Running: z.runner.Running.Load(), Abandoned: z.runner.Abandoned.Load()}
}

// Version is what `zfs version` says.
type Version struct {
	// Userland and Kernel are as printed, without their prefix: "2.3.2-2".
	Userland, Kernel string
}

// AtLeast tells whether the kernel module is at this release or later. An unreadable version is not.
func (v Version) AtLeast(major, minor, patch int) bool {
	want := [3]int{major, minor, patch}
	fields := strings.FieldsFunc(v.Kernel, func(r rune) bool { return r < '0' || r > '9' })
	for i, w := range want {
		if i >= len(fields) {
			return false
		}
		got, err := strconv.Atoi(fields[i])
		if err != nil || got < w {
			return false
		}
		if got > w {
			return true
		}
	}
	return true
}

// Version asks for the versions of tools and module; it is also the start-up test that both are there and agree.
func (z *ZFS) Version(ctx context.Context) (Version, error) {
	out, _, err := z.outputs(ctx, call{op: "version", args: []string{"version"}, timeout: z.opt.QueryTimeout})
	if err != nil {
		return Version{}, err
	}
	var v Version
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		if rest, ok := strings.CutPrefix(line, "zfs-kmod-"); ok {
			v.Kernel = rest
		} else if rest, ok := strings.CutPrefix(line, "zfs-"); ok {
			v.Userland = rest
		}
	}
	if v.Kernel == "" || v.Userland == "" {
		return Version{}, &Error{Op: "version", Class: ClassUnknown, Stderr: out, Err: errors.New("no version of tools and module in the answer")}
	}
	return v, nil
}
