package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/tandemd/tandem/deploy/lab/folder"
	"github.com/tandemd/tandem/deploy/lab/host"
)

// Timeout bounds one command of QEMU's monitor; a machine under emulation may be slow to answer.
const Timeout = 30 * time.Second

// Monitor is a connection to the monitor of one QEMU (QMP). It has one client at a time, so keep it open shortly.
type Monitor struct {
	conn    net.Conn
	decoder *json.Decoder
}

// qmpReply is any line of the monitor: greeting, event, result, error.
type qmpReply struct {
	Return json.RawMessage `json:"return"`
	Event  string          `json:"event"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
}

// Dial connects and brings the monitor into its command mode.
func Dial(ctx context.Context, socket string) (*Monitor, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("reach QEMU's monitor: %w", err)
	}
	m := &Monitor{conn: conn, decoder: json.NewDecoder(conn)}
	if err := m.greet(ctx); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return m, nil
}

func (m *Monitor) greet(ctx context.Context) error {
	if err := m.conn.SetDeadline(host.Now().Add(Timeout)); err != nil {
		return fmt.Errorf("set a deadline: %w", err)
	}
	var greeting json.RawMessage
	if err := m.decoder.Decode(&greeting); err != nil {
		return fmt.Errorf("read the greeting of QEMU's monitor: %w", err)
	}
	return m.Execute(ctx, "qmp_capabilities", nil, nil)
}

// Close ends the connection.
func (m *Monitor) Close() { _ = m.conn.Close() }

// Execute runs one command; its result is decoded into result where that is not nil.
func (m *Monitor) Execute(ctx context.Context, name string, args, result any) error {
	limit, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	stop := context.AfterFunc(limit, func() { _ = m.conn.SetDeadline(host.Now()) })
	defer stop()
	if err := m.conn.SetDeadline(host.Now().Add(Timeout)); err != nil {
		return fmt.Errorf("set a deadline: %w", err)
	}
	request := map[string]any{"execute": name}
	if args != nil {
		request["arguments"] = args
	}
	if err := json.NewEncoder(m.conn).Encode(request); err != nil {
		return fmt.Errorf("send %s to QEMU's monitor: %w", name, err)
	}
	for {
		var reply qmpReply
		if err := m.decoder.Decode(&reply); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return fmt.Errorf("wait for QEMU's monitor to answer %s: %w", name, err)
		}
		switch {
		case reply.Event != "":
		case reply.Error != nil:
			return fmt.Errorf("QEMU refuses %s: %s: %s", name, reply.Error.Class, reply.Error.Desc)
		case result != nil:
			if err := json.Unmarshal(reply.Return, result); err != nil {
				return fmt.Errorf("read QEMU's answer to %s: %w", name, err)
			}
			return nil
		default:
			return nil
		}
	}
}

// Status returns QEMU's run state: running, paused, inmigrate, postmigrate and more.
func (m *Monitor) Status(ctx context.Context) (string, error) {
	var result struct {
		Status string `json:"status"`
	}
	err := m.Execute(ctx, "query-status", nil, &result)
	return result.Status, err
}

// SaveState writes memory and devices of the stopped machine into a file. The file gets its name when it is complete.
func (m *Monitor) SaveState(ctx context.Context, path string) error {
	if err := m.Execute(ctx, "migrate-set-parameters", map[string]any{"max-bandwidth": int64(10) << 30}, nil); err != nil {
		return err
	}
	part := path + ".part"
	uri := fmt.Sprintf("exec:zstd -q -1 -c >%s && mv %s %s", part, part, path)
	if err := m.Execute(ctx, "migrate", map[string]any{"uri": uri}, nil); err != nil {
		return err
	}
	err := host.Poll(ctx, 50*time.Millisecond, func() (bool, error) {
		var result struct {
			Status string `json:"status"`
			Reason string `json:"error-desc"`
		}
		if err := m.Execute(ctx, "query-migrate", nil, &result); err != nil {
			return false, err
		}
		if result.Status == "failed" || result.Status == "cancelled" {
			return false, fmt.Errorf("QEMU could not save the machine's state: %s %s", result.Status, result.Reason)
		}
		return result.Status == "completed", nil
	})
	if err != nil {
		return err
	}
	limit, cancel := context.WithTimeoutCause(ctx, Timeout, fmt.Errorf("the saved state did not become %s: is the disk full?", path))
	defer cancel()
	return host.Poll(limit, 20*time.Millisecond, func() (bool, error) { return folder.Exists(path), nil })
}
