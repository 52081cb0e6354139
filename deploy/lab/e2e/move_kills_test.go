//go:build lab

package e2e_test

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// ending is how, where and when a migration is ended in its middle.
type ending struct {
	phase string
	// target: the node that the guest goes to is ended, else the one that it comes from.
	target bool
	how    string
}

const (
	endProcess = "process"
	endPower   = "power"
	// endCable pulls the cable of the source: the owner change is on its way, and its confirmation does not arrive.
	endCable = "cable"
)

func (e ending) String() string {
	side := "source"
	if e.target {
		side = "target"
	}
	return e.phase + " " + side + " " + e.how
}

// phaseScript waits until the migration of a guest that is not the given one has come to a phase, and then at once runs the rest of
// its command line.
const phaseScript = `#!/bin/bash
f=/var/lib/tandem/moves/$1.json before=$2 phase=$3; shift 3
phases=" prepared presync stopping stopped sealed final sent confirmed back ended "
end=$((SECONDS+120))
while [ $SECONDS -lt $end ]; do
	s=''; [ ! -e "$f" ] || read -r -d '' s <"$f"
	[[ $s != *"$before"* && $s =~ \"phase\":\"([a-z]+)\" ]] || continue
	now=${BASH_REMATCH[1]}
	if [[ " $phase ${phases#* "$phase" } " == *" $now "* ]]; then "$@"; echo "$now"; exit; fi
done
exit 1
`

// endings are as many as were asked for: first the cable between the owner change and its confirmation, then what the seed chooses.
func endings(random *rand.Rand, count int) []ending {
	var every []ending
	for _, phase := range []string{"prepared", "presync", "stopping", "stopped", "sealed", "final", "sent", "confirmed"} {
		for _, target := range []bool{false, true} {
			every = append(every, ending{phase, target, endProcess}, ending{phase, target, endPower})
		}
	}
	random.Shuffle(len(every), func(i, j int) { every[i], every[j] = every[j], every[i] })
	out := []ending{{"sent", false, endCable}}
	// The boot of a machine takes long where it is emulated: a sample has some only.
	powers := (count + 2) / 4
	if count > len(every) {
		powers = len(every)
	}
	for _, e := range every {
		if len(out) >= count || e.how == endPower && powers == 0 {
			continue
		}
		if e.how == endPower {
			powers--
		}
		out = append(out, e)
	}
	return out[:min(len(out), count)]
}

// killMigrations ends migrations in their middle. Afterwards the guest has one owner and runs there alone, and nothing is lost; nobody
// helped.
func killMigrations(t *testing.T, w worker) {
	t.Helper()
	random := rand.New(rand.NewPCG(*seed, 2))
	list := endings(random, *moveKills)
	t.Logf("seed %d: %v", *seed, list)
	for _, name := range all {
		n(name).write(t, "/usr/local/bin/at-phase", phaseScript)
		n(name).sh(t, "chmod +x /usr/local/bin/at-phase")
	}
	// It runs again after a power cut of its owner, too.
	n("n1").sh(t, "tandem guest set %s --onboot on", w.id)
	for i, e := range list {
		t.Run(fmt.Sprintf("%d %s", i, e), func(t *testing.T) {
			onFailure(t)
			killMigration(t, w, e, random.IntN(2) == 0)
		})
		if t.Failed() {
			return
		}
	}
	n("n1").sh(t, "tandem guest set %s --onboot off", w.id)
	owner := w.owner(t, "n1")
	a, b := others(owner)
	w.sync(t, owner, a, b)
}

func killMigration(t *testing.T, w worker, e ending, swap bool) { //nolint:revive // flag-parameter: the seed's
	t.Helper()
	from := w.owner(t, "n1")
	to, other := others(from)
	if swap {
		to = other
	}
	before := w.writes(t, from, w.writes(t, from, 0)+2)
	last := cmp.Or(n(from).sh(t, "tail -n +2 /var/lib/tandem/moves/%s.json 2>/dev/null | jq -r .id", w.id), "no migration")
	pid := n(from).sh(t, "systemctl show -P MainPID tandemd")
	act := "true"
	switch {
	case e.how == endCable:
		act = "ip link set eth0 down"
	case e.how == endProcess && !e.target:
		act = "kill -9 " + pid
	}
	reached := n(from).sh(t, "setsid tandem guest migrate %s %s >/var/tmp/migrate 2>&1 </dev/null & exec at-phase %[1]s '%[3]s' %s %s",
		w.id, to, last, e.phase, act)
	victim := from
	if e.target {
		victim = to
	}
	t.Logf("%s to %s: in phase %s %s ends: %s", from, to, reached, victim, e.how)
	switch {
	case e.how == endPower:
		must(t, n(victim).Kill(world.ctx))
		boot(t, victim)
	case e.how == endCable:
		pause(world.ctx, 15*time.Second)
		t.Logf("on %s without its cable: %s", from, n(from).run(t, "tandem guest show %s", w.id).Stdout)
		n(from).sh(t, "ip link set eth0 up")
	case e.target:
		n(to).killDaemon(t)
	}
	w.settles(t, reached)
	owner := w.owner(t, "n1")
	after := w.writes(t, owner, before+3)
	if owner != from {
		w.keptAll(t, from, owner)
	}
	t.Logf("guest %s is on %s: %d records before, %d after; it was said: %s", w.id, owner, before, after, n(from).run(t, "cat /var/tmp/migrate").Stdout)
}

// settles waits until every node knows the same owner, no migration goes on, and the guest runs there and nowhere else.
func (w worker) settles(t *testing.T, phase string) {
	t.Helper()
	eventually(t, "one owner, on which the guest runs, and nowhere else", 4*time.Minute, 2*time.Second, func() (bool, string) {
		var told []string
		owners, running := map[string]bool{}, ""
		moving := false
		for _, name := range all {
			said := n(name).run(t, `tandem guest list -o json | jq -r '.guests[]|select((.id|tostring)=="%s").owner'
tandem status -o json | jq -r '(.cluster.quorate|tostring)+" "+((.migrations//[])|length|tostring)'; systemctl is-active %s`, w.id, w.unit()).Stdout
			f := strings.Fields(said)
			told = append(told, name+": "+strings.Join(f, " "))
			if len(f) != 4 || f[1] != "true" || f[2] != "0" {
				moving = true
				continue
			}
			owners[f[0]] = true
			if f[3] != "inactive" && f[3] != "failed" {
				running += name
			}
		}
		return !moving && len(owners) == 1 && owners[running], strings.Join(told, "; ") + "; ended in phase " + phase
	})
}
