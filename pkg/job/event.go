package job

import "time"

// Event is what happened to a job.
//
//sumtype:decl
type Event interface{ isEvent() }

// Picked says that the scheduler lets the job run now. Unless it is due, nothing happens.
type Picked struct{}

// Succeeded says that the run, a sync or a cleaning, has done its work.
type Succeeded struct{}

// Failed says that the run has failed.
type Failed struct {
	// Reason is for people; it names the thing and says why.
	Reason string
}

// Skipped says that the run could not begin, which is no failure: the guest is
// locked (it is migrating), or the target has to catch up first.
type Skipped struct{ Reason string }

// Ask is an operator's schedule-now.
type Ask struct{}

// Enable is an operator's enable.
type Enable struct{}

// Disable is an operator's disable. A run that is under way ends first.
type Disable struct{}

// Delete is an operator's delete.
type Delete struct {
	// Keep leaves the replica's data.
	Keep bool
	// Force drops the job at once, with all that it leaves.
	Force bool
}

// TargetDown says that gossip holds the target for dead.
type TargetDown struct{ Since time.Time }

// TargetUp says that the target is alive again.
type TargetUp struct{}

// Changed says that the job's settings are now these.
type Changed struct{ Settings Settings }

// Restarted says that whatever ran has ended with the daemon (or its part) that
// ran it.
type Restarted struct{}

func (Picked) isEvent()     {}
func (Succeeded) isEvent()  {}
func (Failed) isEvent()     {}
func (Skipped) isEvent()    {}
func (Ask) isEvent()        {}
func (Enable) isEvent()     {}
func (Disable) isEvent()    {}
func (Delete) isEvent()     {}
func (TargetDown) isEvent() {}
func (TargetUp) isEvent()   {}
func (Changed) isEvent()    {}
func (Restarted) isEvent()  {}

// Effect is what the loop has to do after a step.
//
//sumtype:decl
type Effect interface{ isEffect() }

// StartSync starts a sync; its result comes back as Succeeded, Failed or Skipped.
type StartSync struct{ Manual bool }

// StartRemoval cleans the source's snapshots and, unless Keep, the replicas,
// and takes the job off the ledger; its result comes back like that of a sync.
type StartRemoval struct{ Keep bool }

// CancelRun ends the run that is under way; its result still comes back.
type CancelRun struct{}

// Forget drops the job. Forced: it is still on the ledger, its traces are
// still there, and the operator wants them named.
type Forget struct{ Forced bool }

// Refuse tells the operator who asked that nothing was done, and why.
type Refuse struct{ Reason string }

func (StartSync) isEffect()    {}
func (StartRemoval) isEffect() {}
func (CancelRun) isEffect()    {}
func (Forget) isEffect()       {}
func (Refuse) isEffect()       {}
