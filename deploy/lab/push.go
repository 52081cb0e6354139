package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/tandemd/tandem/deploy/lab/host"
)

// modulePath is what the work tree's go.mod says.
const modulePath = "module github.com/tandemd/tandem"

// FindTree returns the work tree that a folder is in.
func FindTree(dir string) (string, error) {
	from, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("find the work tree: %w", err)
	}
	for tree := from; ; tree = filepath.Dir(tree) {
		text, err := os.ReadFile(filepath.Join(tree, "go.mod"))
		if err == nil {
			for line := range strings.Lines(string(text)) {
				if strings.TrimSpace(line) == modulePath {
					return tree, nil
				}
			}
		}
		if tree == filepath.Dir(tree) {
			return "", fmt.Errorf("%s is not in Tandem's work tree; run this there", from)
		}
	}
}

// Push installs what the work tree's `make install` installs on the machines, all where none is named, and tells
// systemd. Services that run go on with the old program until they are restarted.
func (l *Lab) Push(ctx context.Context, tree string, machines ...*Machine) (err error) {
	if len(machines) == 0 {
		machines = l.machines
	}
	stage, err := os.MkdirTemp("", "tandem-push-")
	if err != nil {
		return fmt.Errorf("push: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(stage)) }()
	l.progress.Say("make install from %s", tree)
	if _, err := host.Run(ctx, "env", "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64",
		"make", "--no-print-directory", "-C", tree, "install", "DESTDIR="+stage); err != nil {
		return fmt.Errorf("push: %w", err)
	}
	l.progress.Say("installing on %s", machineNames(machines))
	return eachOf(ctx, machines, func(ctx context.Context, m *Machine) error {
		if err := m.PutTree(ctx, stage, "/"); err != nil {
			return err
		}
		_, err := m.Output(ctx, "systemctl daemon-reload")
		return err
	})
}
