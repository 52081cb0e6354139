package daemon

import (
	"context"
	"os"
	"reflect"
	"time"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/config"
	"github.com/tandemd/tandem/pkg/node"
	"github.com/tandemd/tandem/pkg/sched"
)

func limitsOf(l config.Limits) sched.Limits {
	return sched.Limits{Node: l.MaxJobs, Target: l.MaxJobsPerTarget, Spread: time.Duration(l.StartSpread)}
}

// Reload takes from a new configuration what can change while the daemon runs:
// the limits, which then hold for running syncs too.
func (d *Daemon) Reload(ctx context.Context, conf config.Config) {
	l := conf.Limits
	d.limits.Store(&l)
	node.SetRate(d.rate, l.RateLimit)
	if c := d.cluster.Load(); c != nil {
		c.node.SetLimits(ctx, limitsOf(l))
	}
	d.log.Info("the limits of the configuration are in force", zap.Float64("rate_limit", l.RateLimit),
		zap.Int("max_jobs", l.MaxJobs), zap.Int("max_jobs_per_target", l.MaxJobsPerTarget),
		zap.Duration("start_spread", time.Duration(l.StartSpread)))
	conf.Limits = d.conf.Limits
	if !reflect.DeepEqual(conf, d.conf) {
		d.log.Warn("the configuration has changed in more than its limits: that needs `systemctl restart tandemd`")
	}
}

// reloads reads the configuration anew whenever told to; one that is wrong changes nothing.
func reloads(ctx context.Context, d *Daemon, path string, told <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-told:
		}
		conf, err := config.Load(path)
		if err != nil {
			d.log.Error("the configuration cannot be read anew, the old one stays in force", zap.Error(err))
			continue
		}
		d.Reload(ctx, conf)
	}
}
