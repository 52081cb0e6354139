//go:build lab

package contest_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tandemd/tandem/deploy/lab/bench"
)

func split(list string) []string { return strings.Split(list, ",") }

// did fails the test with an error and is what a turn returns that has nothing to tell.
func did(t *testing.T, err error) took {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
	return took{}
}

// ran is a sync by `tandem run`, with what the record says of it.
func (c *contest) ran(t *testing.T, id int) took {
	t.Helper()
	begun := time.Now()
	if err := c.tandem.run(t.Context(), id); err != nil {
		return did(t, err)
	}
	seconds := time.Since(begun).Seconds()
	run := c.tandem.lastRun(t, id, begun)
	return took{seconds, run.End.Sub(run.Start).Seconds()}
}

// one is a single guest of 64 MiB, half of them filled, and what little changes on it.
func (c *contest) one(t *testing.T) {
	t.Helper()
	c.say("a guest of 64 MiB for everybody")
	volumes(t, 64*mib, 32*mib, "source/plain/one", "source/syncoid/one", dataset(small))
	did(t, c.plain.first(t.Context(), "one"))
	sync := func() took { return did(t, syncoid(t.Context(), c.shell, "source/syncoid/one", "target/syncoid/one")) }
	sync()
	c.tandem.take(t, small)
	c.tandem.jobs(t, small)
	c.ran(t, small)
	later := func() { c.tandem.later(t, small) }
	defer c.tandem.schedule(t, never, small)
	for round := 1; round <= *rounds; round++ {
		for _, delta := range []struct {
			id   string
			size int
		}{{bench.Delta64, 64 << 10}, {bench.Nothing, 0}, {bench.Delta16, 16 * mib}} {
			write := func(volume string) func() {
				return func() { noise(t, volume, delta.size, anywhere) }
			}
			c.round(t, delta.id, round,
				turn{who: bench.Pipe, before: write("source/plain/one"), run: func() took { return did(t, c.plain.next(t.Context(), byPipe, "one")) }},
				turn{who: bench.SSH, before: write("source/plain/one"), run: func() took { return did(t, c.plain.next(t.Context(), bySSH, "one")) }},
				turn{who: bench.Syncoid, before: write("source/syncoid/one"), run: sync},
				turn{who: bench.Tandem, before: write(dataset(small)), poise: later, run: func() took { return c.ran(t, small) }},
			)
		}
	}
}

// many are 20 guests with a small disk each.
func (c *contest) many(t *testing.T) {
	t.Helper()
	c.say("20 guests for everybody")
	var names, plains, syncoids, tandems []string
	var ids []int
	for i := range many {
		name := fmt.Sprintf("g%02d", i)
		names, ids = append(names, name), append(ids, manyFirst+i)
		plains = append(plains, "source/plain/"+name)
		syncoids = append(syncoids, "source/syncoid/many/"+name)
		tandems = append(tandems, dataset(manyFirst+i))
	}
	if err := shell(t.Context(), nil, "for p in source target; do zfs create -o canmount=off -o mountpoint=none $p/syncoid/many; done"); err != nil {
		t.Fatal(err)
	}
	for _, set := range [][]string{plains, syncoids, tandems} {
		volumes(t, 8*mib, mib, set...)
	}
	did(t, c.plain.first(t.Context(), names...))
	sync := func() took {
		return did(t, syncoid(t.Context(), c.shell, "source/syncoid/many", "target/syncoid/many", "--recursive", "--skip-parent"))
	}
	if *reference > 0 {
		sync()
	}
	c.tandem.take(t, ids...)
	c.tandem.jobs(t, ids...)
	begun := time.Now()
	c.tandem.now(t, ids)
	c.tandem.all(t, ids, begun)
	defer c.tandem.schedule(t, never, ids...)

	write := func(set []string) func() {
		return func() {
			for _, volume := range set {
				noise(t, volume, 64<<10, anywhere)
			}
		}
	}
	var minute time.Time
	together := func() took {
		first, last := c.tandem.all(t, ids, minute)
		return took{last.Sub(minute).Seconds(), last.Sub(first).Seconds()}
	}
	for round := 1; round <= *rounds; round++ {
		turns := []turn{
			{who: bench.Pipe, before: write(plains), run: func() took { return did(t, c.plain.next(t.Context(), byPipe, names...)) }},
			{who: bench.Tandem, before: write(tandems), poise: func() { minute = c.tandem.due(t, ids) }, run: together},
		}
		if round <= *reference {
			turns = append(turns,
				turn{who: bench.SSH, before: write(plains), run: func() took { return did(t, c.plain.next(t.Context(), bySSH, names...)) }},
				turn{who: bench.Syncoid, before: write(syncoids), run: sync})
		}
		c.round(t, bench.Many, round, turns...)
		c.round(t, bench.AtOnce, round, turn{who: bench.Tandem, before: write(tandems), poise: func() { c.tandem.later(t, ids...) }, run: func() took {
			minute = time.Now()
			c.tandem.now(t, ids)
			return together()
		}})
	}
}

// first is a first sync: of the same volume for all, whose content the machine then has in memory for all.
func (c *contest) first(t *testing.T) {
	t.Helper()
	c.say("512 MiB for everybody")
	const size = 512 * mib
	volume := dataset(big)
	volumes(t, size, size, volume)
	if err := shell(t.Context(), nil, fmt.Sprintf("zfs snapshot %[1]s@warm && zfs send %[1]s@warm >/dev/null && zfs destroy %[1]s@warm", volume)); err != nil {
		t.Fatal(err)
	}
	c.tandem.take(t, big)
	clean := func(target string) func() {
		return func() {
			script := fmt.Sprintf("udevadm settle; zfs list -H -o name -d 1 -t snapshot %s | xargs -r -n 1 zfs destroy; zfs destroy -r %s", volume, target)
			if err := shell(t.Context(), nil, script); err != nil {
				t.Fatal(err)
			}
		}
	}
	for round := 1; round <= *rounds; round++ {
		turns := []turn{
			{who: bench.Pipe, run: func() took { return did(t, c.plain.full(t.Context(), volume, byPipe)) }, after: clean("target/plain/big")},
			{
				who: bench.Tandem, before: func() { c.tandem.jobs(t, big) }, run: func() took { return c.ran(t, big) },
				after: func() { c.tandem.end(t, big) },
			},
		}
		if round <= *reference {
			turns = append(turns,
				turn{who: bench.SSH, run: func() took { return did(t, c.plain.full(t.Context(), volume, bySSH)) }, after: clean("target/plain/big")},
				turn{
					who: bench.Syncoid, run: func() took { return did(t, syncoid(t.Context(), c.shell, volume, "target/syncoid/big")) },
					after: clean("target/syncoid/big"),
				})
		}
		c.round(t, bench.First, round, turns...)
	}
}

// eight are eight streams side by side, for their memory.
func (c *contest) eight(t *testing.T) {
	t.Helper()
	c.say("eight guests of 32 MiB")
	var ids []int
	for i := range 8 {
		ids = append(ids, eightFirst+i)
		volumes(t, 32*mib, 32*mib, dataset(eightFirst+i))
	}
	c.tandem.configure(t, 8)
	defer c.tandem.configure(t, perTarget)
	c.tandem.take(t, ids...)
	c.round(t, bench.Eight, 1, turn{
		who: bench.Tandem, before: func() { c.tandem.jobs(t, ids...) },
		run: func() took {
			begun := time.Now()
			c.tandem.now(t, ids)
			first, last := c.tandem.all(t, ids, begun)
			return took{last.Sub(begun).Seconds(), last.Sub(first).Seconds()}
		},
		after: func() { c.tandem.end(t, ids...) },
	})
}
