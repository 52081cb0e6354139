package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// hostTools are the programs that the lab runs on the host, with the Debian package that brings each.
func hostTools() map[string]string {
	return map[string]string{
		"qemu-system-x86_64": "qemu-system-x86",
		"qemu-img":           "qemu-utils",
		"mmdebstrap":         "mmdebstrap",
		"mke2fs":             "e2fsprogs",
		"ssh":                "openssh-client",
		"ssh-keygen":         "openssh-client",
		"zstd":               "zstd",
		"xz":                 "xz-utils",
		"tar":                "tar",
		"ip":                 "iproute2",
		"nsenter":            "util-linux",
		"unshare":            "util-linux",
	}
}

// toolDirs lists where programs are looked for: what `su` leaves out of the path as well.
func toolDirs() []string {
	dirs := filepath.SplitList(os.Getenv("PATH"))
	for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"} {
		if !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// Tool returns the absolute path of a program, or its bare name where the host has none: running it then says so.
func Tool(name string) string {
	for _, dir := range toolDirs() {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path
		}
	}
	return name
}

// missingPackages returns the Debian packages of the tools that the host does not have, sorted.
func missingPackages() []string {
	var missing []string
	for name, pkg := range hostTools() {
		if !filepath.IsAbs(Tool(name)) {
			missing = append(missing, pkg)
		}
	}
	slices.Sort(missing)
	return slices.Compact(missing)
}

// Prepare checks that the lab can run here and installs the Debian packages that are missing.
func Prepare(ctx context.Context, p *Progress) error {
	if os.Geteuid() != 0 {
		return errors.New("the lab needs root: it makes network interfaces and disk images; run it with sudo")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		return fmt.Errorf("the lab needs /dev/net/tun (kernel module tun): %w", err)
	}
	missing := missingPackages()
	if len(missing) == 0 {
		return nil
	}
	if !filepath.IsAbs(Tool("apt-get")) {
		return fmt.Errorf("the lab needs the programs of these Debian packages, and there is no apt-get to install them: %s",
			strings.Join(missing, " "))
	}
	p.Say("installing Debian packages: %s", strings.Join(missing, " "))
	install := append([]string{"-q", "-y", "--no-install-recommends", "install"}, missing...)
	if err := aptGet(ctx, install...); err != nil {
		// The package lists of a fresh machine may be missing or old.
		if err := aptGet(ctx, "-q", "update"); err != nil {
			return fmt.Errorf("install Debian packages: %w", err)
		}
		if err := aptGet(ctx, install...); err != nil {
			return fmt.Errorf("install Debian packages: %w", err)
		}
	}
	if missing = missingPackages(); len(missing) > 0 {
		return fmt.Errorf("programs of these Debian packages are still missing after apt-get install: %s", strings.Join(missing, " "))
	}
	return nil
}

// aptGet runs apt-get. It is asked to end, not killed: half-installed packages would be the host's trouble.
func aptGet(ctx context.Context, args ...string) error {
	cmd := Command(ctx, "apt-get", args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	text, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("apt-get %s: %w: %s", strings.Join(args, " "), err, Tail(string(text), 5))
	}
	return nil
}

// Command prepares a program of the host, with a predictable environment.
func Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, Tool(name), args...)
	cmd.Env = append(os.Environ(),
		"PATH="+strings.Join(toolDirs(), string(os.PathListSeparator)), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	return cmd
}

// Run runs a program of the host to its end and returns what it printed; a failure carries the end of its messages.
func Run(ctx context.Context, name string, args ...string) (string, error) {
	cmd := Command(ctx, name, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, Tail(stderr.String(), 5))
	}
	return stdout.String(), nil
}

// Tail returns the last n lines of a text, on one line.
func Tail(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "; ")
}

// RunDetached runs a program that leaves a process of its own behind. What it says goes to a file, because that process
// would keep a pipe open.
func RunDetached(ctx context.Context, log, name string, args ...string) error {
	file, err := os.OpenFile(log, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	cmd := Command(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = file, file
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // a Ctrl-C at the terminal is for the tool, not for the machines
	err = errors.Join(cmd.Run(), file.Close())
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		text, _ := os.ReadFile(log)
		return fmt.Errorf("%w: %s", err, Tail(string(text), 3))
	}
	return nil
}

// RunBound runs a command that is killed when this process dies, and waits until everything that it started has let go
// of its output.
func RunBound(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 20 * time.Second
	done := make(chan error)
	go func() {
		// The death signal comes when the thread ends that started the child: keep it until the child is gone.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		done <- cmd.Run()
	}()
	return <-done
}
