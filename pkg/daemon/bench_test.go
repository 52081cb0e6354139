package daemon_test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/config"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/zfs/zfstest"
)

// BenchmarkCluster runs whole daemons in this process, over loopback, with their
// state on disk and ZFS in memory, and reports
//
//	commands/s    guests added, by 64 clients, over the last quarter of them
//	ledger-ms     from a command until every node's ledger has it: the median, and the slowest
//	gossip-ms     the same until every node has heard of it from the owner
//	idle-B/s      what a node sends while nothing happens, counted at the loopback
//	              device with all headers; true only in a network of its own
//	heap-MiB      what a node keeps
//
// All nodes share the processors of one machine. `make bench-cluster` runs it.
func BenchmarkCluster(b *testing.B) {
	for _, size := range []struct{ nodes, guests int }{{16, 2000}, {50, 10_000}} {
		b.Run(fmt.Sprintf("nodes=%d/guests=%d", size.nodes, size.guests), func(b *testing.B) {
			for b.Loop() {
				benchCluster(b, size.nodes, size.guests)
			}
		})
	}
}

func benchCluster(b *testing.B, nodes, guests int) {
	b.Helper()
	begin := time.Now()
	n := production(b, nodes)
	until(b, "all are alive everywhere", func() bool {
		c, err := n[nodes-1].api.Cluster(b.Context())
		return err == nil && !slices.ContainsFunc(c.Members, func(m api.Member) bool { return m.State != "alive" && m.State != "self" })
	})
	b.Logf("%d nodes joined in %s", nodes, time.Since(begin).Round(time.Millisecond))
	for i := range guests + 50 {
		n[i%nodes].volume(i)
	}
	before := heap()
	rate := addGuests(b, n, guests)
	b.ReportMetric(rate, "commands/s")
	ledger, gossip := spread(b, n, guests)
	b.ReportMetric(ledger[len(ledger)/2], "ledger-ms")
	b.ReportMetric(ledger[len(ledger)-1], "ledger-ms-max")
	b.ReportMetric(gossip[len(gossip)/2], "gossip-ms")
	b.ReportMetric(gossip[len(gossip)-1], "gossip-ms-max")
	b.ReportMetric(idle(b)/float64(nodes), "idle-B/s")
	b.ReportMetric((heap()-before)/float64(nodes)/mib, "heap-MiB")
	b.ReportMetric(0, "ns/op")
	b.Logf("all of it took %s", time.Since(begin).Round(time.Second))
	for _, m := range n {
		m.stop()
	}
}

// production is a cluster with the timing of real ones.
func production(b *testing.B, nodes int) []*machine {
	b.Helper()
	var all []*machine
	for i := range nodes {
		name := fmt.Sprintf("n%d", i+1)
		m := &machine{t: b, conf: config.Default(), pool: zfstest.New(zfstest.Options{Node: name})}
		m.configure(name)
		m.start()
		if i > 0 {
			if err := m.join(all[i-1]); err != nil { // each lets in few in a second
				b.Fatal(err)
			}
		} else if _, err := m.api.InitCluster(b.Context(), api.InitRequest{}); err != nil {
			b.Fatal(err)
		}
		all = append(all, m)
	}
	return all
}

func (m *machine) volume(i int) {
	m.t.Helper()
	if err := m.pool.Create("tank/guests/"+volume(guest.ID(100+i)).Name, 16*mib, nil); err != nil {
		m.t.Fatal(err)
	}
}

func heap() float64 {
	runtime.GC()
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return float64(s.HeapAlloc)
}

// addGuests adds them on the nodes that have their volumes, and answers how many a
// second in the last quarter.
func addGuests(b *testing.B, n []*machine, guests int) float64 {
	b.Helper()
	var next, done atomic.Int64
	var wg sync.WaitGroup
	var quarter atomic.Pointer[time.Time]
	for range 64 {
		wg.Go(func() {
			for {
				i := int(next.Add(1) - 1)
				if i >= guests || b.Failed() {
					return
				}
				if err := n[i%len(n)].tryGuest(i); err != nil {
					b.Error(err)
					return
				}
				if done.Add(1) == int64(guests*3/4) {
					now := time.Now()
					quarter.Store(&now)
				}
			}
		})
	}
	wg.Wait()
	if b.Failed() {
		b.FailNow()
	}
	return float64(guests-guests*3/4) / time.Since(*quarter.Load()).Seconds()
}

// tryGuest adds a guest. A command whose outcome is unknown, on a machine with too
// much to do, is given again.
func (m *machine) tryGuest(i int) error {
	id := guest.ID(100 + i)
	for range 10 {
		_, err := m.api.AddGuest(m.t.Context(), api.AddGuestRequest{ID: id, Type: guest.VM, Name: "web", Volumes: []guest.Volume{volume(id)}})
		var ae *api.Error
		switch {
		case err == nil || strings.Contains(err.Error(), "exists already"):
			return nil
		case !errors.As(err, &ae) || ae.Code != api.CodeUnknown && ae.Code != api.CodeNotQuorate:
			return err
		}
	}
	return errors.New("ten times without a known outcome")
}

// spread adds more guests, one after the other, and tells how many milliseconds it
// took until each was known everywhere, in order.
func spread(b *testing.B, n []*machine, guests int) (ledger, gossip []float64) {
	b.Helper()
	for i := guests; i < guests+30; i++ {
		begin := time.Now()
		if err := n[i%len(n)].tryGuest(i); err != nil {
			b.Fatal(err)
		}
		id := guest.ID(100 + i)
		var inLedger, inGossip time.Duration
		until(b, "every node knows a guest", func() bool {
			all, heard := true, true
			for _, m := range n {
				l, g := m.daemon.Knows(id)
				all, heard = all && l, heard && g
			}
			if all && inLedger == 0 {
				inLedger = time.Since(begin)
			}
			if heard {
				inGossip = time.Since(begin)
			}
			return all && heard
		})
		ledger = append(ledger, float64(inLedger.Microseconds())/1000)
		gossip = append(gossip, float64(inGossip.Microseconds())/1000)
	}
	b.Logf("ms until the ledgers had it: %.0f", ledger)
	b.Logf("ms until gossip told it: %.0f", gossip)
	slices.Sort(ledger)
	slices.Sort(gossip)
	return ledger, gossip
}

// idle is how many bytes a second all nodes send while nothing happens.
func idle(b *testing.B) float64 {
	b.Helper()
	const settle, watch = 15 * time.Second, 60 * time.Second
	time.Sleep(settle)
	from, begin := sent(b), time.Now()
	time.Sleep(watch)
	return float64(sent(b)-from) / time.Since(begin).Seconds()
}

// sent is how many bytes went over the loopback device.
func sent(b *testing.B) int64 {
	b.Helper()
	f, err := os.Open(filepath.Join("/proc", "self", "net", "dev"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		name, rest, _ := strings.Cut(lines.Text(), ":")
		if fields := strings.Fields(rest); strings.TrimSpace(name) == "lo" && len(fields) > 8 {
			n, err := strconv.ParseInt(fields[8], 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			return n
		}
	}
	b.Fatal("there is no loopback device")
	return 0
}
