package replicate

import (
	"fmt"
	"sync"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
)

// slowAfter is how long a stream may stand still before the run says so. It goes on nevertheless: "slow is not dead". What is dead
// is cut by the stream's own heartbeats, and a pool that hangs by pkg/zfs.
const slowAfter = 30 * time.Second

// pace watches one stream.
type pace struct {
	mu      sync.Mutex
	moved   time.Time
	told    bool
	reading bool // it waits for zfs send here; else for the target
	quit    chan struct{}
	done    chan struct{}
}

// watch says in the run's log and progress when the stream of a volume stands still, who is waited for, and when it goes on.
// It measures how long nothing moved by the clock that only goes forward.
func (r *run) watch(v guest.Volume) *pace {
	p := &pace{moved: time.Now(), quit: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(p.done)
		tick := time.NewTicker(slowAfter / 6)
		defer tick.Stop()
		for {
			select {
			case <-p.quit:
				return
			case <-tick.C:
				p.look(r, v, time.Now())
			}
		}
	}()
	return p
}

func (p *pace) look(r *run, v guest.Volume, now time.Time) {
	p.mu.Lock()
	still, reading, told := now.Sub(p.moved), p.reading, p.told
	if still < slowAfter || told {
		p.mu.Unlock()
		return
	}
	p.told = true
	p.mu.Unlock()
	what := fmt.Sprintf("%s: %s is alive, but has taken nothing for %s", v, r.target, slowAfter)
	if reading {
		what = fmt.Sprintf("%s: zfs send on this node has given nothing for %s", v, slowAfter)
	}
	r.log("%s; the transfer waits", what)
	r.note(func() { r.progress.Slow = what; r.tell() })
}

// at notes what the stream waits for, and that n bytes have moved.
func (p *pace) at(r *run, v guest.Volume, reading bool, n int) {
	p.mu.Lock()
	p.reading = reading
	told := false
	if n > 0 {
		p.moved, told, p.told = time.Now(), p.told, false
	}
	p.mu.Unlock()
	if told {
		r.log("%s: the transfer goes on", v)
		r.note(func() { r.progress.Slow = ""; r.tell() })
	}
}

func (p *pace) stop(r *run) {
	close(p.quit)
	<-p.done
	if p.told {
		r.note(func() { r.progress.Slow = "" })
	}
}
