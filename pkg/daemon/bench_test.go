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
	"github.com/tandemd/tandem/pkg/unit/unittest"
	"github.com/tandemd/tandem/pkg/zfs/zfstest"
)

// BenchmarkCluster runs whole daemons in this process, over loopback, with their
// state on disk and ZFS in memory, and measures what figures tells. All nodes share
// the processors of one machine. `make bench-cluster` runs it and prints a page.
func BenchmarkCluster(b *testing.B) {
	var all []figures
	for _, size := range []struct{ nodes, guests int }{{16, 2000}, {50, 10_000}} {
		b.Run(fmt.Sprintf("nodes=%d/guests=%d", size.nodes, size.guests), func(b *testing.B) {
			for b.Loop() {
				f := benchCluster(b, size.nodes, size.guests)
				b.ReportMetric(f.commands, "commands/s")
				b.ReportMetric(f.ledger.median(), "ledger-ms")
				b.ReportMetric(f.gossip.median(), "gossip-ms")
				b.ReportMetric(f.idle, "idle-B/s")
				b.ReportMetric(f.heap/mib, "heap-MiB")
				b.ReportMetric(0, "ns/op")
				all = append(all, f)
			}
		})
	}
	if err := writePage(os.Stdout, all); err != nil {
		b.Error(err)
	}
}

func benchCluster(b *testing.B, nodes, guests int) figures {
	b.Helper()
	f := figures{nodes: nodes, guests: guests, begun: time.Now()}
	empty, before := heap(), processors(b)
	n := production(b, nodes)
	until(b, "all are alive everywhere", func() bool {
		c, err := n[nodes-1].api.Cluster(b.Context())
		return err == nil && !slices.ContainsFunc(c.Members, func(m api.Member) bool { return m.State != "alive" && m.State != "self" })
	})
	f.joined = time.Since(f.begun)
	for i := range guests + changes {
		n[i%nodes].volume(i)
	}
	f.commands = addGuests(b, n, guests)
	f.ledger, f.gossip = spread(b, n, guests)
	f.idle, f.idleCPU = idle(b, nodes)
	f.heap = (heap() - empty) / float64(nodes)
	f.took, f.cpu = time.Since(f.begun), processors(b).since(before)
	for _, m := range n {
		m.stop()
	}
	return f
}

// production is a cluster with the timing of real ones.
func production(b *testing.B, nodes int) []*machine {
	b.Helper()
	var all []*machine
	for i := range nodes {
		name := fmt.Sprintf("n%d", i+1)
		m := &machine{t: b, conf: config.Default(), pool: zfstest.New(zfstest.Options{Node: name}), units: unittest.New()}
		m.configure(name)
		m.start()
		if i > 0 {
			m.joinPatiently(all[i-1]) // each lets in few in a second
		} else if _, err := m.api.InitCluster(b.Context(), api.InitRequest{}); err != nil {
			b.Fatal(err)
		}
		all = append(all, m)
	}
	return all
}

// joinPatiently gives a node that shares its machine with all others some tries.
func (m *machine) joinPatiently(issuer *machine) {
	m.t.Helper()
	var err error
	for range 20 {
		if err = m.join(issuer); err == nil {
			return
		}
	}
	m.t.Fatal(err)
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

// changes is how many changes are followed through the cluster, one after the other.
const changes = 30

// spread adds more guests and tells how long it took until each was known everywhere.
func spread(b *testing.B, n []*machine, guests int) (ledger, gossip delays) {
	b.Helper()
	for i := guests; i < guests+changes; i++ {
		begin := time.Now()
		if err := n[i%len(n)].tryGuest(i); err != nil {
			b.Fatal(err)
		}
		id := guest.ID(100 + i)
		unaware, unheard := slices.Clone(n), slices.Clone(n)
		var inLedger time.Duration
		until(b, "every node knows a guest", func() bool {
			unaware = slices.DeleteFunc(unaware, func(m *machine) bool { l, _ := m.daemon.Knows(id); return l })
			if len(unaware) == 0 && inLedger == 0 {
				inLedger = time.Since(begin)
			}
			unheard = slices.DeleteFunc(unheard, func(m *machine) bool { _, g := m.daemon.Knows(id); return g })
			return len(unaware)+len(unheard) == 0
		})
		ledger, gossip = append(ledger, inLedger.Round(time.Millisecond)), append(gossip, time.Since(begin).Round(time.Millisecond))
	}
	b.Logf("until the ledgers had it: %v", []time.Duration(ledger))
	b.Logf("until gossip told it: %v", []time.Duration(gossip))
	return ledger, gossip
}

// idle is how many bytes a second a node sends while nothing happens, and which part
// of a processor it uses.
func idle(b *testing.B, nodes int) (bytes, cpu float64) {
	b.Helper()
	const settle, watch = 15 * time.Second, 60 * time.Second
	time.Sleep(settle)
	from, before, begin := sent(b), processors(b), time.Now()
	time.Sleep(watch)
	each := time.Since(begin).Seconds() * float64(nodes)
	return float64(sent(b)-from) / each, processors(b).since(before).own.Seconds() / each
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
