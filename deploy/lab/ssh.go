package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/tandemd/tandem/deploy/lab/folder"
	"github.com/tandemd/tandem/deploy/lab/host"
	"github.com/tandemd/tandem/deploy/lab/image"
	"github.com/tandemd/tandem/deploy/lab/network"
	"github.com/tandemd/tandem/deploy/lab/qemu"
)

// sshSocket is the control socket of the machine's shared connection: a key exchange under emulation takes a second.
const sshSocket = "ssh.ctl"

// endedWith255 is what the machine adds to the messages of a command that ended with 255, the code that ssh uses for its
// own failures as well.
const endedWith255 = "\ntandem-lab: the command itself ended with 255\n"

// UnreachableError says that a command could not be run, or that its end was not seen: the machine is off, stalled, or
// was cut off meanwhile. Whether the command did anything is not known.
type UnreachableError struct {
	Machine string
	Detail  string
}

// Error names the machine and what ssh said.
func (e *UnreachableError) Error() string {
	return fmt.Sprintf("machine %s cannot be reached: %s", e.Machine, e.Detail)
}

// Result is what a command on a machine came to.
type Result struct {
	Stdout string
	Stderr string
	Code   int // exit code, 128 + N where signal N ended it
}

// Run runs a shell command as root. The error is nil whenever the command ran to its end, whatever its exit code; an
// *UnreachableError says that the machine was not to be had. A command that is left by ctx may run on.
func (m *Machine) Run(ctx context.Context, command string) (Result, error) {
	var stdout, stderr bytes.Buffer
	code, err := m.Stream(ctx, command, Streams{Stdout: &stdout, Stderr: &stderr})
	return Result{Stdout: stdout.String(), Stderr: stderr.String(), Code: code}, err
}

// Output runs a shell command that is expected to succeed and returns what it printed, without the space around it.
func (m *Machine) Output(ctx context.Context, command string) (string, error) {
	result, err := m.Run(ctx, command)
	if err != nil {
		return "", err
	}
	if result.Code != 0 {
		return "", fmt.Errorf("on %s: %s: exit code %d: %s", m.name, command, result.Code, strings.TrimSpace(result.Stderr))
	}
	return strings.TrimSpace(result.Stdout), nil
}

// Streams are a command's standard streams; each may be nil.
type Streams struct {
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
}

// Stream is Run with streams, for data that should not be collected in memory.
func (m *Machine) Stream(ctx context.Context, command string, streams Streams) (code int, err error) {
	if err := m.connect(ctx); err != nil {
		return 0, err
	}
	remote := "(\n" + command + "\n)\nrc=$?; [ $rc -ne 255 ] || printf " + shellQuote(endedWith255) + " >&2; exit $rc"
	cmd := m.ssh(ctx, "-T", m.name, remote)
	marker := &markerFilter{out: streams.Stderr, marker: []byte(endedWith255)}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = streams.Stdin, streams.Stdout, marker
	cmd.WaitDelay = 5 * time.Second
	runErr := cmd.Run()
	found, err := marker.finish()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return 0, context.Cause(ctx)
	case runErr == nil:
		return 0, err
	case !errors.As(runErr, &exit):
		return 0, errors.Join(fmt.Errorf("run ssh: %w", runErr), err)
	case exit.ExitCode() < 0, exit.ExitCode() == 255 && !found:
		return 0, &UnreachableError{Machine: m.name, Detail: fmt.Sprintf("%s: %s", exit, host.Tail(string(marker.kept), 3))}
	}
	return exit.ExitCode(), err
}

// Terminal says whether a session gets a terminal of its own on the machine.
type Terminal bool

// Terminals of a session.
const (
	WithTerminal    Terminal = true
	WithoutTerminal Terminal = false
)

// Shell prepares an interactive session, or a command where words are given; the caller connects its streams and runs it.
// Its exit code is the command's, or 255 where ssh itself fails.
func (m *Machine) Shell(ctx context.Context, terminal Terminal, words ...string) (*exec.Cmd, error) {
	if err := m.connect(ctx); err != nil {
		return nil, err
	}
	option := "-T"
	if terminal {
		option = "-t"
	}
	return m.ssh(ctx, append([]string{option, m.name}, words...)...), nil
}

// ssh prepares ssh in the lab's namespace, over the shared connection.
func (m *Machine) ssh(ctx context.Context, args ...string) *exec.Cmd {
	options := []string{"-F", m.lab.sshConfig(), "-S", m.file(sshSocket)}
	return host.Command(ctx, "nsenter", m.lab.ns.Enter("ssh", append(options, args...)...)...)
}

// connect opens the shared connection where there is none.
func (m *Machine) connect(ctx context.Context) error {
	m.connecting.Lock()
	defer m.connecting.Unlock()
	if folder.Exists(m.file(sshSocket)) {
		if err := m.ssh(ctx, "-O", "check", m.name).Run(); err == nil {
			return nil
		}
		if err := m.hangUp(ctx); err != nil {
			return err
		}
	}
	// Without this ssh would wait for its timeout.
	alive, err := host.Running(m.file(qemu.MonitorSocket))
	if err != nil {
		return err
	}
	if !alive {
		return &UnreachableError{Machine: m.name, Detail: "it is off"}
	}
	log := m.file("ssh.log")
	args := m.lab.ns.Enter("ssh", "-F", m.lab.sshConfig(), "-S", m.file(sshSocket), "-M", "-N", "-f", m.name)
	if err := host.RunDetached(ctx, log, "nsenter", args...); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return &UnreachableError{Machine: m.name, Detail: err.Error()}
	}
	return nil
}

// hangUp ends the shared connection and what runs over it, without waiting for a machine that may be gone.
func (m *Machine) hangUp(ctx context.Context) error {
	if err := host.KillAll(ctx, m.file(sshSocket)); err != nil {
		return fmt.Errorf("close the connection to %s: %w", m.name, err)
	}
	return folder.IgnoreMissing(os.Remove(m.file(sshSocket)))
}

// sshConfig is the path of the lab's ssh configuration; `ssh -F` with it works by hand too, inside the namespace.
func (l *Lab) sshConfig() string { return filepath.Join(l.runDir(), "ssh_config") }

// sshConfigText is the configuration for all machines.
func sshConfigText(img image.Image, machines []*Machine) string {
	var text strings.Builder
	for _, m := range machines {
		fmt.Fprintf(&text, "Host %s\n\tHostName %s\n", m.name, network.ToolAddress(m.number).Addr())
	}
	fmt.Fprintf(&text, `Host *
	User root
	IdentityFile %s
	IdentitiesOnly yes
	UserKnownHostsFile %s
	GlobalKnownHostsFile /dev/null
	StrictHostKeyChecking yes
	CheckHostIP no
	BatchMode yes
	ControlMaster no
	ConnectTimeout 20
	ServerAliveInterval 5
	ServerAliveCountMax 3
	KexAlgorithms curve25519-sha256
	Ciphers aes128-gcm@openssh.com
	LogLevel ERROR
`, img.SSHKey(), img.KnownHosts())
	return text.String()
}

// shellQuote makes one word of a text for a POSIX shell.
func shellQuote(text string) string {
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

// markerFilter passes a stream on, but for a marker at its very end.
type markerFilter struct {
	out    io.Writer
	marker []byte
	kept   []byte // the end of the stream, at most as long as the marker
}

func (f *markerFilter) Write(data []byte) (int, error) {
	f.kept = append(f.kept, data...)
	if extra := len(f.kept) - len(f.marker); extra > 0 {
		if f.out != nil {
			if _, err := f.out.Write(f.kept[:extra]); err != nil {
				return 0, err
			}
		}
		f.kept = append([]byte{}, f.kept[extra:]...)
	}
	return len(data), nil
}

// finish passes on what was kept back and tells whether that was the marker.
func (f *markerFilter) finish() (bool, error) {
	if bytes.Equal(f.kept, f.marker) {
		return true, nil
	}
	if f.out == nil {
		return false, nil
	}
	_, err := f.out.Write(f.kept)
	return false, err
}
