// Command labctl runs Tandem's lab by hand: machines with real ZFS under QEMU, and the faults that happen to them.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	err := command(os.Stdin, os.Stdout).ExecuteContext(ctx)
	interrupted := ctx.Err() != nil
	stop()
	var remote *exec.ExitError
	switch {
	case err == nil:
	case errors.As(err, &remote) && remote.ExitCode() >= 0:
		os.Exit(remote.ExitCode()) //nolint:forbidigo // the exit code of what `ssh` ran
	case interrupted:
		fmt.Fprintln(os.Stderr, "labctl: interrupted:", err)
		os.Exit(130) //nolint:forbidigo // main is where a program ends
	default:
		fmt.Fprintln(os.Stderr, "labctl:", err)
		os.Exit(1) //nolint:forbidigo // main is where a program ends
	}
}
