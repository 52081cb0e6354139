package consensus

import (
	"errors"
	"fmt"
	"sync"
)

// intake says whether commands are taken here, and how many are on their way to the log.
type intake struct {
	mu      sync.Mutex
	refusal error
	under   int
	idle    chan struct{} // closed when under falls to 0; nil: nobody waits
}

// Refuse has ApplyHere refuse commands for that reason, until Refuse(nil): for a
// node that has decided to give its generation up. It returns when none is on its
// way to the log any more, so that Progress is final. It says nothing about
// commands of other leaders.
func (c *Consensus) Refuse(reason error) {
	l := &c.intake
	l.mu.Lock()
	l.refusal = reason
	if reason == nil || l.under == 0 {
		l.mu.Unlock()
		return
	}
	if l.idle == nil {
		l.idle = make(chan struct{})
	}
	idle := l.idle
	l.mu.Unlock()
	<-idle
}

// errRefusing is part of what callers get while commands are refused here.
var errRefusing = errors.New("no commands are taken here now")

// take begins a command; done is called once nothing more can become of it.
func (l *intake) take() (done func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refusal != nil {
		return nil, fmt.Errorf("%w: %w: %w", ErrNotLeader, errRefusing, l.refusal)
	}
	l.under++
	return sync.OnceFunc(l.give), nil
}

func (l *intake) give() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.under--
	if l.under == 0 && l.idle != nil {
		close(l.idle)
		l.idle = nil
	}
}
