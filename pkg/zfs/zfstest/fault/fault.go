// Package fault makes operations of an in-memory backend go wrong, by their names, and counts and tells them: kill points, lost
// answers, hanging processes, cut streams. It knows nothing of zfs but its errors; tests alone import it.
package fault

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tandemd/tandem/pkg/zfs/zerr"
)

// Event is a moment in an operation.
type Event struct {
	// Op is the name of the method: "List", "Receive"; Name the first dataset, snapshot or bookmark that it is about.
	Op, Name string
	// After is false before the effect and true when it is done.
	After bool
}

// Fault is what goes wrong in operations to come.
type Fault struct {
	// Op is the method; Name, if not empty, must be a part of the name that it is about. "Read" is the part of a List that is about
	// one dataset.
	Op, Name string
	// Times is how often it happens; 0: until Heal.
	Times int
	// After makes it happen when the effect is done: the answer is lost.
	After bool
	// Err is returned; see Fail.
	Err error
	// Hang, if not nil, makes the operation wait until it is closed, the context ends, or the Injector's Timeout is over.
	Hang <-chan struct{}
	// Cut, if not 0, ends the stream of a Send or Receive after so many bytes, as a killed process does.
	Cut int64
}

// Fail makes the error that zfs makes of this text.
func Fail(op, dataset, stderr string) error { return zerr.New(op, dataset, 1, stderr) }

// Injector is asked at every moment of every operation. It is safe for concurrent use.
type Injector struct {
	// Timeout is when a hanging operation becomes an error of zerr.Hung.
	Timeout time.Duration
	// Hook, if not nil, is called first, without locks held; an error is what the operation returns.
	Hook func(Event) error

	mu     sync.Mutex
	faults []*Fault
	calls  []Event
}

// Inject adds a fault.
func (in *Injector) Inject(f Fault) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.faults = append(in.faults, &f)
}

// Heal takes all faults away. What hangs goes on hanging.
func (in *Injector) Heal() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.faults = nil
}

// Calls returns the operations so far, each once, as they began.
func (in *Injector) Calls() []Event {
	in.mu.Lock()
	defer in.mu.Unlock()
	return slices.Clone(in.calls)
}

// At lets hook and faults happen; its error is the operation's.
func (in *Injector) At(ctx context.Context, ev Event) error {
	canceled := func() error {
		return &zerr.Error{Op: ev.Op, Dataset: ev.Name, Class: zerr.Canceled, Exit: -1, Err: context.Cause(ctx)}
	}
	if ctx.Err() != nil {
		return canceled()
	}
	if !ev.After {
		in.mu.Lock()
		in.calls = append(in.calls, ev)
		in.mu.Unlock()
	}
	if in.Hook != nil {
		if err := in.Hook(ev); err != nil {
			return err
		}
	}
	f := in.take(ev, func(f *Fault) bool { return f.Cut == 0 })
	if f == nil {
		return nil
	}
	if f.Hang != nil {
		timer := time.NewTimer(in.Timeout)
		defer timer.Stop()
		select {
		case <-f.Hang:
		case <-ctx.Done():
			return canceled()
		case <-timer.C:
			return &zerr.Error{Op: ev.Op, Dataset: ev.Name, Class: zerr.Hung, Exit: -1, Err: fmt.Errorf("no answer within %s", in.Timeout)}
		}
	}
	return f.Err
}

// Part returns the error of one of many datasets in an operation; nil: none.
func (in *Injector) Part(op, name string) error {
	if f := in.take(Event{Op: op, Name: name}, func(f *Fault) bool { return f.Err != nil }); f != nil {
		return f.Err
	}
	return nil
}

// Cut returns after how many bytes the operation's stream ends too early; 0: it does not.
func (in *Injector) Cut(op, name string) int64 {
	if f := in.take(Event{Op: op, Name: name}, func(f *Fault) bool { return f.Cut != 0 }); f != nil {
		return f.Cut
	}
	return 0
}

func (in *Injector) take(ev Event, fits func(*Fault) bool) *Fault {
	in.mu.Lock()
	defer in.mu.Unlock()
	for i, f := range in.faults {
		if f.Op != ev.Op || f.After != ev.After || !strings.Contains(ev.Name, f.Name) || !fits(f) {
			continue
		}
		if f.Times == 1 {
			in.faults = slices.Delete(in.faults, i, i+1)
		} else if f.Times > 0 {
			f.Times--
		}
		return f
	}
	return nil
}
