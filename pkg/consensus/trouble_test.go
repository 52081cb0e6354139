package consensus_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/tandemd/tandem/pkg/consensus"
	"github.com/tandemd/tandem/pkg/consensus/guard"
	"github.com/tandemd/tandem/pkg/statefile"
)

// TestTrouble_AWriteThatFailsIsTriedUntilItWorks: raft, which would panic, sees
// nothing of it, and nothing is acknowledged meanwhile.
func TestTrouble_AWriteThatFailsIsTriedUntilItWorks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		core, logs := observer.New(zap.InfoLevel)
		r.options = func(_ int, o *consensus.Options) { o.Logger = zap.New(core) }
		r.found(1)
		defer r.close()
		c := r.node(1)
		if err := c.Trouble(); err != nil {
			t.Fatalf("trouble with a healthy disk: %v", err)
		}
		r.disks[nodeID(1)].Fail(syscall.EIO)
		if err := r.propose(c, addGuest(100), 3*time.Second); !errors.Is(err, consensus.ErrUnknownOutcome) {
			t.Errorf("got %v, want ErrUnknownOutcome", err)
		}
		var trouble *guard.TroubleError
		if err := c.Trouble(); !errors.As(err, &trouble) || !errors.Is(err, syscall.EIO) || trouble.Hint() == "" ||
			!strings.Contains(err.Error(), "write the ledger's log in "+firstGeneration) {
			t.Errorf("trouble: %v", err)
		}
		if got := logs.FilterMessageSnippet("does not take a write").Len(); got != 1 {
			t.Errorf("%d lines were logged about it, want 1 for all tries", got)
		}
		if _, ok := c.View().Guests[100]; ok {
			t.Error("what is not durable is visible")
		}
		r.disks[nodeID(1)].Fail(nil)
		r.must(c, addGuest(101))
		if got := c.View().Guests; len(got) != 2 {
			t.Errorf("guests %v, want both: the parked write went through", got)
		}
		if err := c.Trouble(); err != nil {
			t.Errorf("trouble with a disk that works again: %v", err)
		}
	})
}

// TestTrouble_ALeaderWhoseDiskHangsFallsSilent: its heartbeats would keep the
// others from electing for ever.
func TestTrouble_ALeaderWhoseDiskHangsFallsSilent(t *testing.T) {
	for name, stop := range map[string]func(r *rig) (goOn func()){
		"hangs": func(r *rig) func() { return r.disks[nodeID(1)].Hang() },
		"fails": func(r *rig) func() {
			r.disks[nodeID(1)].Fail(syscall.EIO)
			return func() { r.disks[nodeID(1)].Fail(nil) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := founded(t, 3)
				defer r.close()
				r.confirm(r.node(2))
				r.confirm(r.node(3))
				goOn := stop(r)
				began := time.Now()
				if err := r.propose(r.node(1), addGuest(100), time.Second); !errors.Is(err, consensus.ErrUnknownOutcome) {
					t.Errorf("got %v, want ErrUnknownOutcome", err)
				}
				r.eventually("another node leads", 25*time.Second, func() bool { return r.node(2).IsLeader() || r.node(3).IsLeader() })
				if waited := time.Since(began); waited < 5*time.Second {
					t.Errorf("the leader fell silent after %s already", waited)
				}
				r.must(r.node(2), addGuest(101))
				if c := r.node(1); c.Quorate() || c.IsLeader() || c.Leader() != "" || c.Trouble() == nil || c.Progress().QuorateFor != 0 {
					t.Errorf("the silent node: quorate %v, leads %v, leader %q, trouble %v", c.Quorate(), c.IsLeader(), c.Leader(), c.Trouble())
				}
				time.Sleep(10 * time.Minute)
				goOn()
				r.confirm(r.node(1))
				if s := r.node(1).View(); s.Guests[101].ID != 101 || s.Guests[100].ID != 0 {
					t.Errorf("guests %v, want 101 only", s.GuestList())
				}
				if err := r.node(1).Trouble(); err != nil {
					t.Errorf("trouble with a disk that works again: %v", err)
				}
			})
		})
	}
}

// TestTrouble_AFollowerWhoseDiskHangsIsNotCountedAsThere: raft answers heartbeats
// beside its hanging write.
func TestTrouble_AFollowerWhoseDiskHangsIsNotCountedAsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := founded(t, 2)
		defer r.close()
		r.confirm(r.node(2))
		resume := r.disks[nodeID(2)].Hang()
		if err := r.propose(r.node(1), addGuest(100), time.Second); !errors.Is(err, consensus.ErrUnknownOutcome) {
			t.Errorf("got %v, want ErrUnknownOutcome: half the votes are no majority", err)
		}
		r.eventually("the leader notices that it is alone", time.Minute, func() bool { return !r.node(1).Quorate() })
		resume()
		r.must(r.node(1), addGuest(101))
		if got := r.node(1).View().Guests; len(got) != 2 {
			t.Errorf("guests %v, want 100 and 101", got)
		}
	})
}

// TestTrouble_CloseAndSwitchDoNotWaitForADeadDisk: and what raft is told then is
// nothing that anybody hears.
func TestTrouble_CloseAndSwitchDoNotWaitForADeadDisk(t *testing.T) {
	for _, stopped := range []string{"hangs", "fails"} {
		for _, when := range []string{"idle", "writing", "electing"} {
			t.Run(stopped+" while "+when, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := founded(t, 3)
					defer r.close()
					r.confirm(r.node(2))
					disk := r.disks[nodeID(2)]
					goOn := func() { disk.Fail(nil) }
					if stopped == "hangs" {
						goOn = disk.Hang()
					} else {
						disk.Fail(syscall.EIO)
					}
					switch when {
					case "writing":
						r.must(r.node(1), addGuest(100))
					case "electing":
						r.isolate(1, true)
						time.Sleep(10 * time.Second)
					}
					if stopped == "fails" {
						began := time.Now()
						if err := r.node(2).Switch(t.Context(), "aaaaaaaaaaaaaaaa"); err == nil && when != "idle" {
							t.Log("the switch itself needs no write")
						}
						if took := time.Since(began); took > 15*time.Second {
							t.Errorf("a switch took %s", took)
						}
					}
					began := time.Now()
					err := r.node(2).Close()
					if took := time.Since(began); took > 15*time.Second {
						t.Errorf("closing took %s (%v)", took, err)
					}
					goOn()
					synctest.Wait() // what hung lets go of the folder
					r.isolate(1, false)
					c := r.open(2, firstGeneration)
					r.confirm(c)
				})
			})
		}
	}
}

// TestTrouble_ASwitchThatAHangingWriteHoldsUpGoesBackOnceItCan: raft cannot be
// ended while a write hangs in the kernel.
func TestTrouble_ASwitchThatAHangingWriteHoldsUpGoesBackOnceItCan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := founded(t, 1)
		defer r.close()
		c := r.node(1)
		resume := r.disks[nodeID(1)].Hang()
		if err := r.propose(c, addGuest(100), time.Second); !errors.Is(err, consensus.ErrUnknownOutcome) {
			t.Errorf("got %v, want ErrUnknownOutcome", err)
		}
		if err := c.Switch(t.Context(), "aaaaaaaaaaaaaaaa"); err == nil {
			t.Error("it left stores in which a write hangs")
		}
		if err := r.propose(c, addGuest(101), time.Second); !errors.Is(err, consensus.ErrNotQuorate) || c.Err() == nil {
			t.Errorf("got %v, want ErrNotQuorate; Err is %v", err, c.Err())
		}
		resume()
		r.must(c, addGuest(101))
		if err := c.Err(); err != nil || c.Generation() != firstGeneration {
			t.Errorf("in generation %s: %v", c.Generation(), err)
		}
	})
}

func TestTrouble_AFullDiskGetsItsReserve(t *testing.T) {
	path := filepath.Join(t.TempDir(), "reserve")
	reserve, err := statefile.OpenReserve(path, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.options = func(_ int, o *consensus.Options) { o.Reserve = reserve }
		r.found(1)
		defer r.close()
		c := r.node(1)
		disk := r.disks[nodeID(1)]
		disk.FailWith(func() error {
			if reserve.Held() {
				return syscall.ENOSPC
			}
			return nil
		})
		r.must(c, addGuest(100)) // by giving up the reserve
		var told *consensus.ReserveError
		if err := c.Trouble(); !errors.As(err, &told) || !errors.Is(err, syscall.ENOSPC) || told.Hint() == "" {
			t.Errorf("trouble: %v", err)
		}
		disk.Fail(nil)
		r.eventually("the reserve is back", time.Minute, reserve.Held)
		if err := c.Trouble(); err != nil {
			t.Errorf("trouble with a disk that has room: %v", err)
		}
	})
}

// TestOpen_WorksOnAFullDisk: a node whose disk is full can start, and says so.
func TestOpen_WorksOnAFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := founded(t, 3)
		defer r.close()
		r.must(r.node(2), addGuest(100))
		r.crash(2, nil)
		r.isolate(2, false)
		r.disks[nodeID(2)].Fail(syscall.ENOSPC)
		c := r.open(2, firstGeneration)
		r.must(r.node(1), addGuest(101))
		r.eventually("it is in trouble", time.Minute, func() bool { return errors.Is(c.Trouble(), syscall.ENOSPC) })
		r.disks[nodeID(2)].Fail(nil)
		r.confirm(c)
	})
}

func TestCrash_WhatWasAcknowledgedStays(t *testing.T) {
	for seed := range 20 {
		synctest.Test(t, func(t *testing.T) {
			r := founded(t, 3)
			defer r.close()
			for n := 1; n <= 3; n++ {
				r.disks[nodeID(n)].Delay(20 * time.Millisecond)
			}
			var acked []int
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() {
				defer close(done)
				for id := 100; ctx.Err() == nil; id++ {
					if r.propose(r.node(1), addGuest(id), 5*time.Second) == nil {
						acked = append(acked, id)
					}
				}
			}()
			time.Sleep(time.Second + time.Duration(seed)*7*time.Millisecond)
			cancel()
			for n := 1; n <= 3; n++ {
				r.disks[nodeID(n)].Crash(func(n int) int { return (seed + n) % (n + 1) })
			}
			for n := 1; n <= 3; n++ {
				_ = r.node(n).Close()
			}
			<-done
			for n := 1; n <= 3; n++ {
				r.open(n, firstGeneration)
			}
			r.confirm(r.node(1))
			s := r.node(1).View()
			for _, id := range acked {
				if _, ok := s.Guests[addGuest(id).Guest.ID]; !ok {
					t.Fatalf("guest %d was acknowledged and is gone", id)
				}
			}
			if len(acked) < 5 {
				t.Fatalf("%d commands only: the test looks at nothing", len(acked))
			}
		})
	}
}
