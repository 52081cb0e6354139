package network

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// unmountEmpty removes an empty folder and what is mounted on it. Somebody else using it in this moment is no error:
// they keep it then.
func unmountEmpty(path string) error {
	for {
		err := unix.Unmount(path, 0)
		if errors.Is(err, unix.EINVAL) {
			break // nothing is mounted there any more
		}
		if errors.Is(err, unix.EBUSY) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
	err := os.Remove(path)
	if err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EBUSY) && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	return nil
}
