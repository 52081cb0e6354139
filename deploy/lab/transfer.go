package lab

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"time"

	"github.com/tandemd/tandem/deploy/lab/host"
)

// Put copies a local file to a path on the machine, with its mode; the folder is made where it is missing, and the file is
// there as a whole or not at all, also after a power cut.
func (m *Machine) Put(ctx context.Context, local, remote string) error {
	file, err := os.Open(local)
	if err != nil {
		return fmt.Errorf("put on %s: %w", m.name, err)
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return fmt.Errorf("put on %s: %w", m.name, err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("put on %s: %s is not a regular file; PutTree copies folders", m.name, local)
	}
	aside := shellQuote(remote + ".tandem-lab")
	return m.feed(ctx, file, fmt.Sprintf("mkdir -p %s && cat >%s && chmod %o %s && sync %s && mv -T %s %s",
		shellQuote(path.Dir(remote)), aside, info.Mode().Perm(), aside, aside, aside, shellQuote(remote)))
}

// PutTree copies everything in a local folder over a folder on the machine, with modes and links, owned by root. It is on the
// machine's disk when this returns.
func (m *Machine) PutTree(ctx context.Context, local, remote string) error {
	reader, writer, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("put on %s: %w", m.name, err)
	}
	var stderr bytes.Buffer
	pack := host.Command(ctx, "tar", "-C", local, "--owner=0", "--group=0", "--zstd", "-cf", "-", ".")
	pack.Stdout, pack.Stderr = writer, &stderr
	err = pack.Start()
	_ = writer.Close()
	if err != nil {
		_ = reader.Close()
		return fmt.Errorf("pack %s: %w", local, err)
	}
	dir := shellQuote(remote)
	// Without --no-overwrite-dir the folders of the machine would take the modes of the local ones.
	feedErr := m.feed(ctx, reader, fmt.Sprintf("mkdir -p %s && tar -C %s --zstd --no-overwrite-dir -xpf - && sync -f %s", dir, dir, dir))
	_ = reader.Close()
	packErr := pack.Wait()
	if feedErr != nil {
		return feedErr
	}
	if packErr != nil {
		return fmt.Errorf("pack %s: %w: %s", local, packErr, host.Tail(stderr.String(), 3))
	}
	return nil
}

// Get copies a file from the machine into a local one.
func (m *Machine) Get(ctx context.Context, remote, local string) error {
	file, err := os.Create(local)
	if err != nil {
		return fmt.Errorf("get from %s: %w", m.name, err)
	}
	var stderr bytes.Buffer
	code, err := m.Stream(ctx, "cat "+shellQuote(remote), Streams{Stdout: file, Stderr: &stderr})
	if err == nil && code != 0 {
		err = fmt.Errorf("exit code %d: %s", code, host.Tail(stderr.String(), 3))
	}
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("get %s from %s: %w", remote, m.name, err)
	}
	return nil
}

// feed runs a command that reads its input and is expected to succeed.
func (m *Machine) feed(ctx context.Context, input io.Reader, command string) error {
	var stderr bytes.Buffer
	code, err := m.Stream(ctx, command, Streams{Stdin: input, Stderr: &stderr})
	if err == nil && code != 0 {
		err = fmt.Errorf("exit code %d: %s", code, host.Tail(stderr.String(), 3))
	}
	if err != nil {
		return fmt.Errorf("put on %s: %w", m.name, err)
	}
	return nil
}

// SetClock sets the machine's clock to the host's: a machine that was saved wakes up in the past.
func (m *Machine) SetClock(ctx context.Context) error {
	if err := m.connect(ctx); err != nil {
		return err
	}
	t := host.Now().Add(50 * time.Millisecond) // about what the command takes to arrive
	_, err := m.Output(ctx, fmt.Sprintf("date -u -s @%d.%09d", t.Unix(), t.Nanosecond()))
	return err
}
