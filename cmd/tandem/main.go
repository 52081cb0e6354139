// Command tandem is the client of tandemd.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"
	_ "time/tzdata" // schedules may name a zone on machines without zone files

	"github.com/tandemd/tandem/pkg/cli"
)

// version is set when a release is built (-ldflags "-X main.version=…").
var version string

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if info, ok := debug.ReadBuildInfo(); ok && version == "" {
		version = info.Main.Version
	}
	return cli.Run(ctx, cli.Env{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Now: time.Now, Zone: time.Local, Version: version,
		Terminal: terminal(os.Stdout), Pause: pause,
	}, os.Args[1:])
}
