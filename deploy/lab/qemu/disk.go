package qemu

import (
	"context"
	"fmt"

	"github.com/tandemd/tandem/deploy/lab/host"
)

// Overlay makes a disk that has the content of another and takes all that is written.
func Overlay(ctx context.Context, path, below string) error {
	_, err := host.Run(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", below, path)
	return err
}

// Blank makes an empty sparse disk.
func Blank(ctx context.Context, path string, sizeGiB int) error {
	_, err := host.Run(ctx, "qemu-img", "create", "-q", "-f", "qcow2", path, fmt.Sprintf("%dG", sizeGiB))
	return err
}
