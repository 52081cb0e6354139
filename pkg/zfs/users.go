package zfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tandemd/tandem/pkg/zfs/zname"
)

// User is somebody who has a dataset open or mounted. ZFS itself fences nobody: it receives into a zvol that is open for writing.
type User struct {
	Dataset string
	// PID is 0 where it is the kernel: another device on top of the zvol, or swap.
	PID     int
	Command string
	// How is what it does, like "has /dev/zd16 open".
	How string
}

// String tells it to people.
func (u User) String() string {
	if u.PID == 0 {
		return u.Dataset + " " + u.How
	}
	return fmt.Sprintf("process %d (%s) %s", u.PID, u.Command, u.How)
}

// Users finds who has the datasets open or mounted, in any namespace, by what the kernel shows: the devices that processes have
// open, devices on top of a zvol and of its partitions, what is mounted, who has files open or its working folder there, swap. No
// process is started. Of files that are only mapped, or below a folder that a process calls otherwise, it knows nothing. ClassBusy: for the moment it cannot be told.
func (z *ZFS) Users(ctx context.Context, datasets ...string) ([]User, error) {
	s := scan{z: z, byPath: map[string]string{}, byNumber: map[string]string{}, datasets: datasets, spaces: map[string][]mounting{}}
	for _, name := range datasets {
		if err := zname.Dataset(name); err != nil {
			return nil, refuse("users", name, err)
		}
		if err := s.device(name); err != nil {
			return nil, &Error{Op: "users", Dataset: name, Class: ClassBusy, Exit: -1, Err: err}
		}
	}
	if swaps, err := os.ReadFile(filepath.Join(z.opt.Proc, "swaps")); err == nil {
		for line := range strings.Lines(string(swaps)) {
			if f := strings.Fields(line); len(f) > 0 && s.byPath[f[0]] != "" {
				s.found = append(s.found, User{Dataset: s.byPath[f[0]], How: "is used as swap"})
			}
		}
	}
	processes, err := os.ReadDir(z.opt.Proc)
	if err != nil {
		return nil, &Error{Op: "users", Dataset: strings.Join(datasets, " "), Class: ClassUnknown, Exit: -1, Err: err}
	}
	for _, p := range processes {
		if err := context.Cause(ctx); err != nil {
			return nil, &Error{Op: "users", Dataset: strings.Join(datasets, " "), Class: ClassCanceled, Exit: -1, Err: err}
		}
		if pid, err := strconv.Atoi(p.Name()); err == nil {
			s.process(pid, filepath.Join(z.opt.Proc, p.Name()))
		}
	}
	return s.found, nil
}

// scan is one search for users.
type scan struct {
	z        *ZFS
	datasets []string
	// byPath and byNumber tell the zvol of a device by its path and by "major:minor".
	byPath, byNumber map[string]string
	// spaces are the mount namespaces that were looked into, with where they have the datasets.
	spaces map[string][]mounting
	found  []User
}

// mounting is a filesystem, or one on a zvol, and where it is mounted.
type mounting struct{ dataset, at string }

// device notes the device node of a zvol, with its partitions, and what is on top of them.
func (s *scan) device(dataset string) error {
	node, err := s.z.devices().Find(dataset)
	if err == nil {
		node, err = filepath.EvalSymlinks(node)
	}
	if errors.Is(err, os.ErrNotExist) {
		return nil // It has none, so nobody has it open.
	}
	if err != nil {
		return err
	}
	name := filepath.Base(node)
	block := filepath.Join(s.z.opt.Sys, "block", name)
	parts, _ := filepath.Glob(filepath.Join(block, name+"p*"))
	for _, dir := range append([]string{block}, parts...) {
		own := filepath.Base(dir)
		s.byPath[filepath.Join(s.z.opt.Dev, own)] = dataset
		if number, err := os.ReadFile(filepath.Join(dir, "dev")); err == nil {
			s.byNumber[strings.TrimSpace(string(number))] = dataset
		}
		holders, _ := os.ReadDir(filepath.Join(dir, "holders"))
		for _, h := range holders {
			s.found = append(s.found, User{Dataset: dataset, How: "is part of the device " + h.Name()})
		}
	}
	return nil
}

// process looks at what a process has open, and at what is mounted where it is. One that ends meanwhile has nothing.
func (s *scan) process(pid int, dir string) {
	tell := func(dataset, how string) {
		command, _ := os.ReadFile(filepath.Join(dir, "comm"))
		u := User{Dataset: dataset, PID: pid, Command: strings.TrimSpace(string(command)), How: how}
		if !slices.Contains(s.found, u) {
			s.found = append(s.found, u)
		}
	}
	if len(s.byPath) > 0 {
		files, _ := os.ReadDir(filepath.Join(dir, "fd"))
		for _, f := range files {
			fd := filepath.Join(dir, "fd", f.Name())
			if path, err := os.Readlink(fd); err == nil {
				if dataset := s.opened(fd, path); dataset != "" {
					tell(dataset, "has "+path+" open")
				}
			}
		}
	}
	s.files(dir, tell)
}

// files looks at where a process has the datasets mounted, once for each namespace, and at what it uses below.
func (s *scan) files(dir string, tell func(dataset, how string)) {
	space, err := os.Readlink(filepath.Join(dir, "ns", "mnt"))
	if err != nil {
		return
	}
	if _, seen := s.spaces[space]; !seen {
		s.spaces[space] = nil
		mounts, _ := os.ReadFile(filepath.Join(dir, "mountinfo"))
		for line := range strings.Lines(string(mounts)) {
			if dataset, at := s.mounted(line); dataset != "" {
				s.spaces[space] = append(s.spaces[space], mounting{dataset, at})
				tell(dataset, "has it mounted at "+at)
			}
		}
	}
	for _, m := range s.spaces[space] {
		if path := inside(dir, m.at); path != "" {
			tell(m.dataset, "uses "+path)
		}
	}
}

// inside is a path below a mountpoint that a process uses: its working folder, its root, its program or an open file. In a
// namespace that has the dataset as its root everybody does, which is told with who has it mounted.
func inside(dir, at string) string {
	if at == "/" {
		return ""
	}
	links := []string{"cwd", "root", "exe"}
	files, _ := os.ReadDir(filepath.Join(dir, "fd"))
	for _, f := range files {
		links = append(links, filepath.Join("fd", f.Name()))
	}
	for _, l := range links {
		if path, err := os.Readlink(filepath.Join(dir, l)); err == nil && (path == at || strings.HasPrefix(path, at+"/")) {
			return path
		}
	}
	return ""
}

// opened is the zvol that an open file is the device of: by its path or, where a container calls the device otherwise, by its number.
func (s *scan) opened(fd, path string) string {
	if dataset := s.byPath[path]; dataset != "" || !strings.Contains(path, "/dev/") {
		return dataset
	}
	var st unix.Stat_t
	if err := unix.Stat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return ""
	}
	return s.byNumber[fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))]
}

// mounted reads a line of proc_pid_mountinfo(5). Names that zname allows need none of its escapes.
func (s *scan) mounted(line string) (dataset, at string) {
	mount, fs, ok := strings.Cut(line, " - ")
	m, f := strings.Fields(mount), strings.Fields(fs)
	switch {
	case !ok || len(m) < 5 || len(f) < 2:
		return "", ""
	case f[0] == "zfs" && slices.Contains(s.datasets, f[1]):
		return f[1], m[4]
	default:
		return s.byNumber[m[2]], m[4]
	}
}
