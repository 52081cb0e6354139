package launch

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"syscall"
	"time"
)

// quitTimeout is for QEMU to write what it has and end.
const quitTimeout = 15 * time.Second

// qmp is a connection to QEMU's monitor.
type qmp struct {
	conn net.Conn
	in   *bufio.Reader
}

func dialQMP(ctx context.Context, socket string) (*qmp, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("%w: %w", errNotRunning, err)
	}
	if err != nil {
		return nil, err
	}
	return &qmp{conn: conn, in: bufio.NewReader(conn)}, nil
}

// execute sends a command and waits for its answer; greeting and events are passed over.
func (q *qmp) execute(command string) error {
	if _, err := fmt.Fprintf(q.conn, `{"execute":%q}`+"\n", command); err != nil {
		return err
	}
	for {
		line, err := q.in.ReadBytes('\n')
		if err != nil {
			return err
		}
		var m struct {
			Return json.RawMessage `json:"return"`
			Error  *struct {
				Desc string `json:"desc"`
			} `json:"error"`
		}
		switch err := json.Unmarshal(line, &m); {
		case err != nil:
			return fmt.Errorf("QEMU's monitor says %.100q: %w", line, err)
		case m.Error != nil:
			return fmt.Errorf("QEMU's monitor refuses %s: %s", command, m.Error.Desc)
		case m.Return != nil:
			return nil
		}
	}
}
