package sim_test

import (
	"flag"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/sim"
)

var (
	seed    = flag.Uint64("sim.seed", 1, "the first seed")
	runs    = flag.Uint64("sim.runs", 4, "how many seeds to run")
	profile = flag.String("sim.profile", "", "plain or forced; empty: both in turn")
	length  = flag.Duration("sim.length", 10*time.Minute, "for how long things go wrong in each run, in simulated time")
	verbose = flag.Bool("sim.log", false, "show the nodes' logs")
)

func TestWip(t *testing.T) {
	for s := *seed; s < *seed+*runs; s++ {
		begun := time.Now()
		o := sim.Options{Seed: s, Profile: sim.Profile(*profile), Length: *length, Logger: zap.NewNop()}
		if o.Profile == "" {
			o.Profile = sim.Profiles()[s%2]
		}
		if *verbose {
			c := zap.NewDevelopmentConfig()
			c.DisableStacktrace = true
			o.Logger, _ = c.Build()
		}
		var r sim.Result
		synctest.Test(t, func(t *testing.T) { r = sim.Run(o) })
		t.Log(time.Since(begun).Round(time.Millisecond), r)
		for _, p := range r.Problems {
			t.Error(p)
		}
		if len(r.History) > 0 {
			t.Log(len(r.History), sim.Linearizable(r.History))
			byGuest := map[int][]sim.Entry{}
			for _, e := range r.History {
				byGuest[int(e.Guest)] = append(byGuest[int(e.Guest)], e)
			}
			for g, es := range byGuest {
				if sim.Linearizable(es) == "Illegal" {
					t.Error("illegal", g)
					n := len(es)
					for n > 0 && sim.Linearizable(es[:n]) == "Illegal" {
						n--
					}
					for i, e := range es[:n+1] {
						if i > n-30 {
							t.Logf("%d %d-%d %s %T %+v %s %s seen %v/%v read %+v", e.Client, e.Call, e.Return, e.Tag, e.Op, e.Op, e.Verdict, e.Reason, e.SeenGuest, e.SeenJob, e.Read)
						}
					}
				}
			}
		}
	}
}
