//go:build lab

package contest_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The kernel writes a record for each process that ends (acct(2)): exact, and next to free.
const (
	accountFile = "/run/bench/acct"
	recordSize  = 64 // of struct acct_v3
	recordPPID  = 20
	recordName  = 48
)

// ended is a process that has ended.
type ended struct {
	parent int
	name   string // the first 15 letters of its program's
}

func (e ended) isZFS() bool { return e.name == "zfs" || e.name == "zpool" }

// startAccounting has every process counted that ends from now on.
func startAccounting() error {
	if err := os.WriteFile(accountFile, nil, 0o600); err != nil {
		return err
	}
	return unix.Acct(accountFile)
}

func stopAccounting() error { return unix.Acct("") }

// accounted returns the processes that have ended since a place in the accounts, and the place after them.
func accounted(from int64) ([]ended, int64, error) {
	file, err := os.Open(accountFile)
	if err != nil {
		return nil, 0, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, 0, err
	}
	data := make([]byte, info.Size()-from)
	if _, err := file.ReadAt(data, from); err != nil && len(data) > 0 {
		return nil, 0, err
	}
	var all []ended
	for ; len(data) >= recordSize; data = data[recordSize:] {
		name, _, _ := bytes.Cut(data[recordName:recordSize], []byte{0})
		all = append(all, ended{int(binary.NativeEndian.Uint32(data[recordPPID:])), string(name)})
		from += recordSize
	}
	return all, from, nil
}

// group is a control group of the contest's own: the kernel counts the processor time of everything in it, also of what has ended.
type group struct{ *os.File }

func makeGroup(name string) (group, error) {
	folder := filepath.Join("/sys/fs/cgroup", "bench-"+name)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return group{}, err
	}
	file, err := os.Open(folder)
	return group{file}, err
}

// used is the processor time so far.
func (g group) used() (time.Duration, error) {
	text, err := os.ReadFile(filepath.Join(g.Name(), "cpu.stat"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "usage_usec "); ok {
			micro, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
			return time.Duration(micro) * time.Microsecond, err
		}
	}
	return 0, fmt.Errorf("%s has no usage_usec", g.Name())
}

// busy is the time that the machine's processors have worked since it was booted.
func busy() (time.Duration, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	var ticks int64
	for i, field := range strings.Fields(line) {
		switch i {
		case 1, 2, 3, 6, 7: // user, nice, system, irq, softirq
			n, err := strconv.ParseInt(field, 10, 64)
			if err != nil {
				return 0, err
			}
			ticks += n
		}
	}
	return time.Duration(ticks) * (time.Second / 100), nil
}

// peak is the most memory that a process had resident, in MiB, since resetPeak.
func peak(pid int) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseFloat(strings.Fields(value)[0], 64)
			return kib / 1024, err
		}
	}
	return 0, fmt.Errorf("process %d has no VmHWM", pid)
}

func resetPeak(pid int) error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)
}

// zfsRuns tells whether a zfs or zpool process is there.
func zfsRuns() bool {
	names, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, name := range names {
		if text, err := os.ReadFile(name); err == nil && (string(text) == "zfs\n" || string(text) == "zpool\n") {
			return true
		}
	}
	return false
}
