package qemu_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tandemd/tandem/deploy/lab/qemu"
)

// serveMonitor answers one connection as QEMU's monitor does, with the given lines for the command after the handshake.
func serveMonitor(t *testing.T, lines ...string) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "qmp.sock")
	var config net.ListenConfig
	listener, err := config.Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		input := bufio.NewReader(conn)
		fmt.Fprintln(conn, `{"QMP": {"version": {}, "capabilities": []}}`)
		_, _ = input.ReadString('\n')
		fmt.Fprintln(conn, `{"return": {}}`)
		_, _ = input.ReadString('\n')
		for _, line := range lines {
			fmt.Fprintln(conn, line)
		}
	}()
	t.Cleanup(func() {
		listener.Close()
		<-done
	})
	return socket
}

// ask connects to a monitor and asks for its status.
func ask(ctx context.Context, socket string) (string, error) {
	monitor, err := qemu.Dial(ctx, socket)
	if err != nil {
		return "", err
	}
	defer monitor.Close()
	return monitor.Status(ctx)
}

func TestMonitor_SkipsEvents(t *testing.T) {
	socket := serveMonitor(t, `{"event": "STOP", "timestamp": {}}`, `{"return": {"status": "paused"}}`)
	got, err := ask(t.Context(), socket)
	if err != nil || got != "paused" {
		t.Errorf("got %q, %v, want paused", got, err)
	}
}

func TestMonitor_TellsWhatQEMURefuses(t *testing.T) {
	socket := serveMonitor(t, `{"error": {"class": "GenericError", "desc": "no such device"}}`)
	_, err := ask(t.Context(), socket)
	if err == nil || !strings.Contains(err.Error(), "query-status: GenericError: no such device") {
		t.Errorf("got %v", err)
	}
}

func TestMonitor_TellsThatQEMUEnded(t *testing.T) {
	_, err := ask(t.Context(), serveMonitor(t))
	if err == nil || !strings.Contains(err.Error(), "query-status") {
		t.Errorf("got %v", err)
	}
}
