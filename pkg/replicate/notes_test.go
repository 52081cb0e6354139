package replicate_test

import (
	"context"
	"testing"
	"time"

	"github.com/tandemd/tandem/pkg/replicate"
)

// A state disk that does not take one guest's note holds up that guest's commit and nobody else.
func TestTarget_ADiskThatHangsHoldsUpOneGuest(t *testing.T) {
	w := newWorld(t)
	others := w.crowd(1)
	w.run(job)
	n2 := w.node("2")
	hung := newGate()
	n2.setTrap(func(what string) error {
		if what == "write arrivals-100" {
			hung.pass()
		}
		return nil
	})
	ended := make(chan error, 1)
	go func() {
		_, err := w.node("1").source.Run(context.WithoutCancel(t.Context()), replicate.Task{Job: job}) // Nothing was written: n2 notes that.
		ended <- err
	}()
	<-hung.reached
	on := make(chan struct{})
	go func() {
		defer close(on)
		n2.target.EndStale()
		list, err := n2.target.Replicas(t.Context())
		if err != nil || len(list) != 1 {
			t.Errorf("replicas: %+v, %v", list, err)
		}
		if _, err := w.node("1").source.Run(t.Context(), replicate.Task{Job: others[0]}); err != nil {
			t.Errorf("the other guest: %v", err)
		}
		n2.target.EndStale()
	}()
	select {
	case <-on:
	case <-time.After(time.Minute):
		t.Error("they wait for the disk")
	}
	close(hung.open)
	<-on
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
