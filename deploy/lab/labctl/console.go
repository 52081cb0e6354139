package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/tandemd/tandem/deploy/lab"
)

// leaveKey is Ctrl-], as telnet has it.
const leaveKey = 0x1d

// isTerminal reports whether a person types into the file.
func isTerminal(file *os.File) bool {
	_, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
	return err == nil
}

// attach joins the terminal with a machine's serial console until the leave key, the end of the input or of the machine.
func attach(ctx context.Context, m *lab.Machine, stdin *os.File, stdout io.Writer) error {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", m.ConsoleSocket())
	if err != nil {
		return fmt.Errorf("console of %s: is it off? %w", m.Name(), err)
	}
	defer func() { _ = conn.Close() }()
	restore, err := rawTerminal(stdin)
	if err != nil {
		return err
	}
	defer restore()
	_, _ = fmt.Fprintf(stdout, "console of %s; Enter wakes the shell, Ctrl-] leaves\r\n", m.Name())
	ended := make(chan error, 2)
	go func() { ended <- copyKeys(conn, stdin) }()
	go func() {
		_, err := io.Copy(stdout, conn)
		ended <- err
	}()
	select {
	case err = <-ended:
	case <-ctx.Done():
	}
	// The reader of the terminal ends with the program: nothing can wake it.
	_, _ = fmt.Fprint(stdout, "\r\n")
	return err
}

// copyKeys passes on what is typed up to the leave key.
func copyKeys(to io.Writer, from io.Reader) error {
	buffer := make([]byte, 256)
	for {
		n, err := from.Read(buffer)
		keys, _, leave := bytes.Cut(buffer[:n], []byte{leaveKey})
		if _, err := to.Write(keys); err != nil {
			return fmt.Errorf("write to the console: %w", err)
		}
		if leave || errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the terminal: %w", err)
		}
	}
}

// rawTerminal hands every key through as it is and returns what undoes that. A pipe is left alone.
func rawTerminal(file *os.File) (func(), error) {
	fd := int(file.Fd())
	before, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return func() {}, nil //nolint:nilerr // not a terminal: nothing to set
	}
	raw := *before
	raw.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	raw.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &raw); err != nil {
		return nil, fmt.Errorf("set the terminal: %w", err)
	}
	return func() { _ = unix.IoctlSetTermios(fd, unix.TCSETS, before) }, nil
}
