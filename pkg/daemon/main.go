package daemon

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	sdnotify "github.com/coreos/go-systemd/v22/daemon"
	sdjournal "github.com/coreos/go-systemd/v22/journal"
	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/tandemd/tandem/pkg/advice"
	"github.com/tandemd/tandem/pkg/config"
	"github.com/tandemd/tandem/pkg/journal"
)

// Main is the command tandemd: it reads the configuration, runs the daemon until
// ctx ends, keeps systemd informed, and returns the exit code. With each signal in
// reload it reads the configuration anew.
func Main(ctx context.Context, args []string, stderr io.Writer, version string, reload <-chan os.Signal) int {
	var path string
	var checkOnly bool
	cmd := &cobra.Command{
		Use:           "tandemd",
		Short:         "Replicates guests' volumes to other nodes with ZFS snapshots",
		Long:          "tandemd is the daemon of Tandem; systemd runs it. Operators talk to it with tandem(1).",
		Args:          cobra.NoArgs,
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			conf, err := config.Load(path)
			if err != nil || checkOnly {
				return err
			}
			log, err := newLogger(conf.LogLevel, stderr)
			if err != nil {
				return err
			}
			d, err := New(Options{Config: conf, Version: version, Logger: log, Watchdog: []string{self, watchVerb}})
			if err != nil {
				return err
			}
			return serve(cmd.Context(), d, log, func(ctx context.Context) { reloads(ctx, d, path, reload) })
		},
	}
	cmd.Flags().StringVar(&path, "config", config.Path, "the configuration file")
	cmd.Flags().BoolVar(&checkOnly, "check", false, "only check the configuration file")
	cmd.AddCommand(watchCmd())
	cmd.CompletionOptions.DisableDefaultCmd = true
	cmd.SetHelpCommand(&cobra.Command{Hidden: true})
	cmd.SetArgs(args)
	cmd.SetErr(stderr)
	if err := cmd.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(stderr, "tandemd:", err) //nolint:errcheck // there is nowhere else to say it
		if hint := advice.Of(err); hint != "" {
			fmt.Fprintln(stderr, hint) //nolint:errcheck // as above
		}
		return 1
	}
	return 0
}

// serve runs the daemon, and beside it whatever lives as long.
func serve(ctx context.Context, d *Daemon, log *zap.Logger, beside func(context.Context)) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { watchdog(ctx, d, log) })
	wg.Go(func() { beside(ctx) })
	err := d.Run(ctx, func() { notify(log, sdnotify.SdNotifyReady) })
	notify(log, sdnotify.SdNotifyStopping)
	return err
}

// notify tells systemd; outside systemd it does nothing.
func notify(log *zap.Logger, state string) {
	if _, err := sdnotify.SdNotify(false, state); err != nil {
		log.Warn("tell systemd", zap.String("state", state), zap.Error(err))
	}
}

// watchdog tells systemd that the daemon lives, as long as its loop goes round.
func watchdog(ctx context.Context, d *Daemon, log *zap.Logger) {
	limit, err := sdnotify.SdWatchdogEnabled(false)
	if err != nil || limit == 0 {
		return
	}
	tick := time.NewTicker(limit / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if d.Healthy() {
				notify(log, sdnotify.SdNotifyWatchdog)
			} else {
				log.Error("the event loop does not go round: systemd's watchdog is not fed")
			}
		}
	}
}

// newLogger writes to the journal where stderr is connected to it, else lines
// for people to stderr.
func newLogger(level string, stderr io.Writer) (*zap.Logger, error) {
	lvl, err := zapcore.ParseLevel(level)
	if err != nil {
		return nil, fmt.Errorf("log_level %q: must be debug, info, warn or error", level)
	}
	if inJournal, _ := sdjournal.StderrIsJournalStream(); inJournal && sdjournal.Enabled() {
		return zap.New(journal.NewCore(lvl, func(m string, p sdjournal.Priority, f map[string]string) error {
			return sdjournal.Send(m, p, f)
		})), nil
	}
	enc := zap.NewDevelopmentEncoderConfig()
	enc.EncodeTime = zapcore.ISO8601TimeEncoder
	return zap.New(zapcore.NewCore(zapcore.NewConsoleEncoder(enc), zapcore.AddSync(stderr), lvl)), nil
}
