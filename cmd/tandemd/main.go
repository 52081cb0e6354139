// Command tandemd is the daemon of Tandem; systemd runs it.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	_ "time/tzdata" // schedules may name a zone on machines without zone files

	"github.com/tandemd/tandem/pkg/daemon"
)

// version is set when a release is built (-ldflags "-X main.version=…").
var version string

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	if info, ok := debug.ReadBuildInfo(); ok && version == "" {
		version = info.Main.Version
	}
	return daemon.Main(ctx, os.Args[1:], os.Stderr, version, reload)
}
