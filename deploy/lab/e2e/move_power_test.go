//go:build lab

package e2e_test

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// bootRow are guests that start when their nodes boot, in their order on each.
type bootRow map[string][]worker

// bootDelay is that of n1's first guest, in seconds.
const bootDelay = 6

// onBoot adds guests that start at boot, where -boot-guests asks for them, and does not start them.
func onBoot(t *testing.T) bootRow {
	t.Helper()
	if !*bootGuests {
		return nil
	}
	installWorkers(t)
	row := bootRow{
		"n1": {{id: "810", tree: true}, {id: "811", tree: true}, {id: "812", tree: true}},
		"n2": {{id: "813", tree: true}},
		"n3": {{id: "814", tree: true}},
	}
	row["n1"][0].add(t, "n1", fmt.Sprintf("--onboot on --boot-order 1 --boot-delay %d", bootDelay))
	row["n1"][1].add(t, "n1", "--onboot on --boot-order 2")
	row["n1"][2].add(t, "n1", "--onboot on") // after all others
	row["n2"][0].add(t, "n2", "--onboot on --boot-order 1")
	row["n3"][0].add(t, "n3", "--onboot on")
	return row
}

// started wants the guests of these nodes started once since they booted, in their order, and no other guest.
func (row bootRow) started(t *testing.T, names ...string) {
	t.Helper()
	if row == nil {
		return
	}
	for _, name := range names {
		var want, got []string
		var at []float64
		for _, w := range row[name] {
			want = append(want, w.id)
		}
		eventually(t, fmt.Sprintf("%s has started its %d guests", name, len(want)), 3*time.Minute, time.Second, func() (bool, string) {
			said := n(name).run(t, `grep " $(cat /proc/sys/kernel/random/boot_id) " /var/tmp/starts`).Stdout
			got, at = nil, nil
			for line := range strings.Lines(said) {
				f := strings.Fields(line)
				uptime, err := strconv.ParseFloat(f[2], 64)
				must(t, err)
				got, at = append(got, f[0]), append(at, uptime)
			}
			return len(got) >= len(want), said
		})
		t.Logf("%s has started guests %v, so many seconds after its boot: %v", name, got, at)
		if !slices.Equal(got, want) {
			t.Errorf("%s has started guests %v, want %v, each once and in this order", name, got, want)
		}
		// The delay counts from when systemd has begun; the guest tells its start a little later.
		if name == "n1" && len(at) > 1 && at[1]-at[0] < bootDelay-3 {
			t.Errorf("%s waited %.1f s after its first guest, want %d", name, at[1]-at[0], bootDelay)
		}
		for _, w := range row[name] {
			w.writes(t, name, 1)
		}
	}
}

// remove ends the guests.
func (row bootRow) remove(t *testing.T) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(row)) {
		for _, w := range row[name] {
			w.remove(t, name)
		}
	}
}
