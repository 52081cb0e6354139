package migrate_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tandemd/tandem/pkg/move/migrate"
)

func TestMover_Moves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene()
		s.slow["stop"], s.slow["ship"], s.slow["landing"] = 2*time.Second, 3*time.Second, 4*time.Second
		m, _ := s.daemon(t)
		s.begin(t, m)
		if _, err := m.Start(migrate.Request{Guest: 100, To: node("2")}); err == nil || !strings.Contains(err.Error(), "is being moved already") {
			t.Errorf("a second one: %v", err)
		}
		time.Sleep(time.Minute)
		v := s.expect(t, m, migrate.Moved, "2")
		if v.Downtime == nil || *v.Downtime != 8*time.Second {
			t.Errorf("downtime %v, want 8s: 9 s after the stop it ran for one second", v.Downtime)
		}
		want := "write presync,sync,pause,write stopping,stop,write stopped,seal,write sealed,ship,write final,prove,write sent,propose ledger.ChangeOwner,write confirmed,landing"
		if got := strings.Join(s.did, ","); !strings.Contains(got, strings.ReplaceAll(want, "sync,pause", "sync,write presync,pause")) {
			t.Errorf("it did\n%s, want\n%s", got, want)
		}
	})
}

// A wall clock that is set makes nothing late.
func TestMover_AwaitsTheStartByAClockThatNobodySets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene()
		s.fails["landing"] = errors.New("it is booting")
		m, _ := s.daemon(t)
		s.begin(t, m)
		time.Sleep(time.Minute)
		s.with(func() { s.ahead = 24 * time.Hour })
		time.Sleep(time.Minute)
		if v, _ := m.Look(100); v.Phase != migrate.Confirmed {
			t.Errorf("phase %s (%q) after two minutes", v.Phase, v.Warnings)
		}
		time.Sleep(30 * time.Minute)
		if v := s.expect(t, m, migrate.Moved, "2"); len(v.Warnings) != 1 || !strings.Contains(v.Warnings[0], "it is booting") {
			t.Errorf("after half an hour its warnings are %q", v.Warnings)
		}
	})
}

// What the target measured is believed only as far as it can be.
func TestMover_DowntimeIsAtLeastWhatThisNodeKnows(t *testing.T) {
	for name, ago := range map[string]time.Duration{"too long": time.Hour, "less than nothing": -time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScene()
				s.slow["stop"], s.slow["ship"], s.slow["landing"], s.ago = 2*time.Second, 3*time.Second, 4*time.Second, ago
				m, _ := s.daemon(t)
				s.begin(t, m)
				time.Sleep(time.Minute)
				v := s.expect(t, m, migrate.Moved, "2")
				want := 5 * time.Second // Until then the owner change was not sent.
				if ago < 0 {
					want = 9 * time.Second
				}
				if v.Downtime == nil || *v.Downtime != want {
					t.Errorf("downtime %v, want %s", v.Downtime, want)
				}
			})
		})
	}
}

func TestMover_GoesBackWhateverFails(t *testing.T) {
	for _, what := range []string{
		"check", "sync", "pause", "stop", "seal", "ship", "prove", "write presync", "write stopping", "write stopped", "write sealed", "write final", "write sent",
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScene()
				s.fails[what] = errors.New("it is broken")
				m, _ := s.daemon(t)
				s.begin(t, m)
				time.Sleep(time.Minute)
				if v := s.expect(t, m, migrate.Undone, "1"); !strings.Contains(v.Reason, "it is broken") {
					t.Errorf("the reason: %q", v.Reason)
				}
				if slices.Contains(s.did, "propose ledger.ChangeOwner") {
					t.Error("it proposed the owner change all the same")
				}
			})
		})
	}
}

// A guest that was stopped is left so, and its volumes are as they were: so are those of a guest without a unit, which whoever
// runs it has stopped.
func TestMover_AGuestThatDoesNotRunGetsItsVolumesBack(t *testing.T) {
	for _, unit := range []string{"web.service", ""} {
		for _, what := range []string{"stop", "seal", "ship", "prove", "write stopped", "write sealed", "write final", "write sent"} {
			t.Run(what+" of "+unit, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newScene()
					s.runs = false
					g := s.state.Guests[100]
					g.Unit = unit
					s.state.Guests[100] = g
					s.fails[what] = errors.New("it is broken")
					m, _ := s.daemon(t)
					s.begin(t, m)
					time.Sleep(time.Minute)
					s.expect(t, m, migrate.Undone, "1")
					if slices.Contains(s.did, "start") {
						t.Error("it was started")
					}
					s.with(func() { clear(s.fails) })
					s.begin(t, m)
					time.Sleep(time.Minute)
					s.expect(t, m, migrate.Moved, "2")
				})
			})
		}
	}
}

// Its volumes are what a migration has to give back. That its unit does not start is no reason to keep hold of the guest.
func TestMover_AGuestThatDoesNotStartAgainIsLetGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene()
		s.fails["ship"], s.fails["start"] = errors.New("it is cut"), errors.New("there is no memory")
		m, _ := s.daemon(t)
		s.begin(t, m)
		time.Sleep(time.Minute)
		s.with(func() { s.ran = false })
		v := s.expect(t, m, migrate.Undone, "1")
		if len(v.Warnings) != 1 || !strings.Contains(v.Warnings[0], "there is no memory") {
			t.Errorf("warnings: %q", v.Warnings)
		}
		s.with(func() { clear(s.fails) })
		s.begin(t, m)
		time.Sleep(time.Minute)
		s.expect(t, m, migrate.Moved, "2")
	})
}

// While its volumes cannot be given back it is not over, and says why.
func TestMover_GoesOnGoingBackUntilTheVolumesAreUsable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene()
		s.fails["ship"], s.fails["unseal"] = errors.New("it is cut"), errors.New("the pool is suspended")
		m, stop := s.daemon(t)
		s.begin(t, m)
		for range 2 {
			time.Sleep(time.Minute)
			v, _ := m.Look(100)
			s.with(func() {
				if v.Phase != migrate.Back || !strings.Contains(v.Trouble, "the pool is suspended") || s.runs {
					t.Errorf("phase %s (%s), it runs %v", v.Phase, v.Trouble, s.runs)
				}
			})
			if _, err := m.Start(migrate.Request{Guest: 100, To: node("2")}); err == nil || strings.Contains(err.Error(), "--cancel") {
				t.Errorf("another one: %v", err)
			}
			stop()
			m, stop = s.daemon(t)
		}
		s.with(func() { clear(s.fails) })
		time.Sleep(time.Minute)
		s.expect(t, m, migrate.Undone, "1")
	})
}

// The write of `sent` fails, and the disk has it all the same: no restart may send the owner change of a guest that has been
// started again meanwhile.
func TestMover_WhatTheDiskSaysIsNotDoneToAGuestThatRuns(t *testing.T) {
	for _, stuck := range []bool{true, false} {
		t.Run(fmt.Sprintf("on disk all the same %v", stuck), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScene()
				s.stuck = stuck
				for _, p := range []migrate.Phase{migrate.Sent, migrate.Back, migrate.Ended} {
					s.fails["write "+string(p)] = errors.New("its disk is read-only")
				}
				s.slow["start"] = time.Minute
				m, stop := s.daemon(t)
				s.begin(t, m)
				time.Sleep(30 * time.Second)
				stop()
				s.with(func() { clear(s.fails); clear(s.slow) })
				m, _ = s.daemon(t)
				time.Sleep(time.Minute)
				s.expect(t, m, migrate.Undone, "1")
				if slices.Contains(s.did, "propose ledger.ChangeOwner") && s.state.Guests[100].Term.N == 1 {
					t.Error("the owner change was sent while the ledger could carry it out")
				}
			})
		})
	}
}

// The change was never sent, the disk says that it was, and cannot be told otherwise.
func TestMover_WhatWasNeverSentIsNotSentDaysLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene()
		s.away = true
		for _, p := range []migrate.Phase{migrate.Back, migrate.Ended} {
			s.fails["write "+string(p)] = errors.New("its disk is read-only")
		}
		m, stop := s.daemon(t)
		s.begin(t, m)
		time.Sleep(time.Minute)
		s.with(func() {
			if s.runs {
				t.Error("it runs while nobody confirms whose it is")
			}
		})
		s.with(func() { s.away = false })
		time.Sleep(time.Minute)
		if v := s.expect(t, m, migrate.Undone, "1"); !strings.Contains(v.Reason, "could not be sent") {
			t.Errorf("the reason: %q", v.Reason)
		}
		time.Sleep(72 * time.Hour)
		stop()
		s.with(func() { clear(s.fails) })
		m, _ = s.daemon(t)
		time.Sleep(time.Minute)
		s.expect(t, m, migrate.Undone, "1")
	})
}

// The disk takes no end for a while: what is over is not undone by a restart days later.
func TestMover_AnEndIsWrittenDownOnceTheDiskTakesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene()
		s.fails["ship"] = errors.New("it is cut")
		for _, p := range []migrate.Phase{migrate.Back, migrate.Ended} {
			s.fails["write "+string(p)] = errors.New("its disk is full")
		}
		m, stop := s.daemon(t)
		s.begin(t, m)
		time.Sleep(time.Hour)
		s.expect(t, m, migrate.Undone, "1")
		s.with(func() { clear(s.fails) })
		time.Sleep(time.Minute)
		s.with(func() { s.runs = false }) // By its operator.
		stop()
		m, _ = s.daemon(t)
		time.Sleep(time.Minute)
		s.with(func() {
			if s.runs {
				t.Error("the guest was stopped after its migration, and the restart started it")
			}
		})
		if v, _ := m.Look(100); !strings.Contains(v.Reason, "it is cut") {
			t.Errorf("the reason: %q", v.Reason)
		}
	})
}

// The end of a migration that is written down late does not take the place of the next one's record.
func TestMover_ALateEndLeavesTheNextMigrationAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene()
		s.fails["check"], s.fails["write ended"] = errors.New("it is broken"), errors.New("its disk is full")
		m, stop := s.daemon(t)
		s.begin(t, m)
		time.Sleep(time.Minute)
		s.with(func() { delete(s.fails, "check"); s.slow["sync"] = time.Hour })
		s.begin(t, m)
		second, _ := m.Look(100)
		s.with(func() { clear(s.fails) })
		time.Sleep(time.Minute)
		stop()
		m, _ = s.daemon(t)
		time.Sleep(2 * time.Hour)
		if v := s.expect(t, m, migrate.Undone, "1"); v.ID != second.ID || !strings.Contains(v.Reason, "restarted") {
			t.Errorf("what is on disk is migration %s (%s), want %s", v.ID, v.Reason, second.ID)
		}
	})
}

func TestMover_GoesBackOnCancelAndRestart(t *testing.T) {
	for _, what := range []string{"check", "sync", "stop", "seal", "ship", "prove"} {
		for _, how := range []string{"cancel", "restart"} {
			t.Run(how+" in "+what, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newScene()
					s.slow[what] = time.Hour
					m, stop := s.daemon(t)
					s.begin(t, m)
					time.Sleep(time.Minute)
					if how == "cancel" {
						if err := m.Cancel(t.Context(), 100); err != nil {
							t.Fatal(err)
						}
					} else {
						stop()
						s.with(func() { clear(s.slow) })
						m, _ = s.daemon(t)
					}
					time.Sleep(2 * time.Hour)
					s.expect(t, m, migrate.Undone, "1")
				})
			})
		}
	}
}

// The answer to the owner change is lost: the guest stays stopped, also over a
// restart, until a command ends the doubt.
func TestMover_InDoubtOnlyACommandEndsIt(t *testing.T) {
	for _, taken := range []bool{true, false} {
		for _, cancel := range []bool{true, false} {
			t.Run(fmt.Sprintf("taken %v, cancelled %v", taken, cancel), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newScene()
					s.lost = 1 << 20
					m, stop := s.daemon(t)
					if !taken {
						s.tried["id-2"] = "" // It never arrives: what is sent again is taken for it, and nothing is done.
					}
					s.begin(t, m)
					time.Sleep(time.Minute)
					for range 2 {
						v, _ := m.Look(100)
						if !v.InDoubt() || s.runs || s.held != 1 {
							t.Fatalf("phase %s, in doubt %v; it runs %v, held %d", v.Phase, v.InDoubt(), s.runs, s.held)
						}
						stop()
						m, stop = s.daemon(t)
						time.Sleep(time.Minute)
					}
					if cancel {
						if err := m.Cancel(t.Context(), 100); err != nil {
							t.Fatal(err)
						}
						time.Sleep(time.Minute)
					}
					s.with(func() {
						s.lost = 0
						if !taken {
							delete(s.tried, "id-2")
						}
					})
					time.Sleep(time.Minute)
					if cancel && !taken {
						s.expect(t, m, migrate.Undone, "1")
					} else {
						s.expect(t, m, migrate.Moved, "2")
					}
				})
			})
		}
	}
}

func TestMover_WithoutAMajorityNothingIsSentAndTheGuestComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene()
		s.away = true
		m, _ := s.daemon(t)
		s.begin(t, m)
		time.Sleep(time.Minute)
		if v, _ := m.Look(100); v.Phase != migrate.Back || s.runs {
			t.Errorf("phase %s, runs %v", v.Phase, s.runs)
		}
		s.with(func() { s.away = false })
		time.Sleep(time.Minute)
		s.expect(t, m, migrate.Undone, "1")
	})
}

func TestMover_ABrokenRecordHoldsTheGuestUntilACancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene()
		s.broken, s.runs, s.sealed, s.ran = true, false, true, true
		g := s.state.Guests[100]
		g.Boot.On = true
		s.state.Guests[100] = g
		m, _ := s.daemon(t)
		if s.held != 1 || len(m.Active()) != 1 {
			t.Errorf("held %d, active %d", s.held, len(m.Active()))
		}
		if _, err := m.Start(migrate.Request{Guest: 100, To: node("2")}); err == nil || !strings.Contains(err.Error(), "cannot be read") {
			t.Errorf("another one: %v", err)
		}
		if err := m.Cancel(t.Context(), 100); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		s.expect(t, m, migrate.Undone, "1")
		if s.state.Guests[100].Term.N != 2 {
			t.Error("an owner change that is still under way could be carried out")
		}
	})
}
