package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// process is a process that was recognised as one of a lab's; the descriptor keeps its ID from being given to another.
type process struct {
	pid int
	fd  int
}

// labPrograms are the only programs that the lab leaves running.
func labPrograms() []string { return []string{"qemu-system-x86_64", "ssh"} }

// belongsTo reports whether a process is one of the lab's programs, with the word in its command line. Words are paths in
// the lab's own folder, so that nothing of anybody else's is taken for the lab's.
func belongsTo(exe string, cmdline []byte, word string) bool {
	for _, program := range labPrograms() {
		if filepath.Base(exe) == program && bytes.Contains(cmdline, []byte(word)) {
			return true
		}
	}
	return false
}

// findProcesses returns the lab's processes whose command line has the word; the caller closes them.
func findProcesses(word string) ([]process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("look for the lab's processes: %w", err)
	}
	var found []process
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if !isOurs(pid, word) {
			continue
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue // it has just ended
		}
		if !isOurs(pid, word) { // again: only now the ID cannot change hands
			_ = unix.Close(fd)
			continue
		}
		found = append(found, process{pid: pid, fd: fd})
	}
	return found, nil
}

func isOurs(pid int, word string) bool {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	exe, err := os.Readlink(filepath.Join(dir, "exe"))
	if err != nil {
		return false
	}
	cmdline, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	return err == nil && belongsTo(strings.TrimSuffix(exe, " (deleted)"), cmdline, word)
}

// KillAll ends the lab's processes with the word in their command line at once and waits until they are gone.
func KillAll(ctx context.Context, word string) error {
	found, err := findProcesses(word)
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range found {
		if err := unix.PidfdSendSignal(p.fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("kill process %d: %w", p.pid, err))
		}
	}
	for _, p := range found {
		errs = append(errs, p.wait(ctx), unix.Close(p.fd))
	}
	return errors.Join(errs...)
}

// wait waits until the process has ended.
func (p process) wait(ctx context.Context) error {
	limit, cancel := context.WithTimeoutCause(ctx, 20*time.Second, fmt.Errorf("process %d does not end", p.pid))
	defer cancel()
	return Poll(limit, 10*time.Millisecond, func() (bool, error) {
		events := []unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}
		n, err := unix.Poll(events, 100)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return false, fmt.Errorf("wait for process %d: %w", p.pid, err)
		}
		return n > 0, nil
	})
}

// Running reports whether the lab has a process with the word in its command line.
func Running(word string) (bool, error) {
	found, err := findProcesses(word)
	for _, p := range found {
		_ = unix.Close(p.fd)
	}
	return len(found) > 0, err
}
