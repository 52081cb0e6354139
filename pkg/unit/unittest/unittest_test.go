package unittest_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/unit"
	"github.com/tandemd/tandem/pkg/unit/unittest"
	"github.com/tandemd/tandem/pkg/unit/unittest/contract"
)

func TestManager_KeepsTheContract(t *testing.T) {
	contract.Run(t, func(t *testing.T) contract.Env {
		t.Helper()
		m, allowed := unittest.New(), true
		m.MayStart = func(context.Context, guest.ID) error {
			if !allowed {
				return errors.New("not here")
			}
			return nil
		}
		return contract.Env{
			Manager: m, Crash: func(name string) { m.Crash(name, "exit-code") }, Allow: func(ok bool) { allowed = ok },
			Define: func(name string, s contract.Service) {
				spec := unittest.Spec{Fails: s.Fails, StopTimeout: 2 * time.Second, Leaves: s.Leaves, Enabled: s.Enabled}
				if s.Ignores {
					spec.Stops = time.Hour
				}
				m.Add(name, spec)
			},
		}
	})
}

func TestManager_HangingStopEndsByItsLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := unittest.New()
		m.Add("web.service", unittest.Spec{HangsForEver: true, StopTimeout: 20 * time.Second})
		if err := m.Start(t.Context(), "web.service"); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		err := m.Stop(t.Context(), "web.service")
		if s, _ := m.State(t.Context(), "web.service"); !errors.Is(err, unit.ErrTimeout) || !s.Running() || time.Since(begun) != 35*time.Second {
			t.Errorf("after %s: %v, %+v", time.Since(begun), err, s)
		}
	})
}

func TestManager_StopCutsAStartShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := unittest.New()
		m.Add("web.service", unittest.Spec{Starts: time.Hour})
		started := make(chan error, 1)
		go func() { started <- m.Start(t.Context(), "web.service") }()
		synctest.Wait()
		if err := m.Stop(t.Context(), "web.service"); err != nil {
			t.Error(err)
		}
		if err := <-started; err == nil || m.Starts("web.service") != 0 {
			t.Errorf("it started %d times: %v", m.Starts("web.service"), err)
		}
	})
}
