package history

import (
	"fmt"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
)

// Outcome is how a run ended.
type Outcome string

// The outcomes.
const (
	// Running has not ended.
	Running Outcome = "running"
	// OK has brought the target up to date.
	OK Outcome = "ok"
	// Failed has not; Error says why.
	Failed Outcome = "failed"
	// Skipped could not begin, which is no failure: the guest was locked. Of several
	// in a row that sent nothing only the first is kept.
	Skipped Outcome = "skipped"
	// Interrupted was cut: by the daemon's end (Open makes it of Running), or because
	// the job was removed or its guest went elsewhere.
	Interrupted Outcome = "interrupted"
)

// Kind is what a run sent: pkg/replicate's kinds. It is empty while that is not known.
type Kind string

// The kinds.
const (
	Full        Kind = "full"
	Incremental Kind = "incremental"
	// Resumed went on with a full stream that had been cut.
	Resumed Kind = "resumed"
	// Nothing found nothing to send, or was over before anything was sent.
	Nothing Kind = "nothing"
)

// Run is the record of one run of a job.
type Run struct {
	// ID counts the runs of its job, from 1; the store gives it.
	ID     uint64         `json:"id"`
	Job    guest.JobID    `json:"job"`
	Guest  guest.ID       `json:"guest"`
	Source guest.NodeName `json:"source"`
	Target guest.NodeName `json:"target"`
	Start  time.Time      `json:"start"`
	// End is zero while it runs, and where nobody saw it end.
	End     time.Time `json:"end,omitzero"`
	Outcome Outcome   `json:"outcome"`
	Kind    Kind      `json:"kind"`
	// Bytes were sent to the target, as they went over the network.
	Bytes int64 `json:"bytes"`
	// BaseSnapshot and NewSnapshot are names without the dataset; the base is
	// empty for a full sync.
	BaseSnapshot string `json:"base_snapshot,omitempty"`
	NewSnapshot  string `json:"new_snapshot,omitempty"`
	// Consistency is that of the new snapshot.
	Consistency guest.Consistency `json:"consistency,omitempty"`
	Volumes     []guest.Volume    `json:"volumes,omitempty"`
	Error       string            `json:"error,omitempty"`
	// ErrorHint tells the operator what to do about it.
	ErrorHint string `json:"error_hint,omitempty"`
	// Fails counts the failed runs in a row, including this one; the store sets it.
	Fails int       `json:"fails,omitempty"`
	Log   []LogLine `json:"log,omitempty"`
}

// Duration is how long the run took; zero while that is not known, or where the
// clock was set back meanwhile.
func (r Run) Duration() time.Duration {
	if r.End.IsZero() {
		return 0
	}
	return max(0, r.End.Sub(r.Start))
}

// LogLine is one line of a run's log.
type LogLine struct {
	Time time.Time `json:"time"`
	// Level is debug, info, warn or error.
	Level   string `json:"level"`
	Message string `json:"message"`
}

func (r Run) validate() error {
	switch r.Outcome {
	case Running, OK, Failed, Skipped, Interrupted:
	default:
		return fmt.Errorf("run of job %s: unknown outcome %q", r.Job, r.Outcome)
	}
	if r.Start.IsZero() {
		return fmt.Errorf("run of job %s: it has no start", r.Job)
	}
	return nil
}

// maxLog bounds the lines that are kept of one run: its beginning and its end.
const (
	maxLog  = 1000
	maxHead = 200
)

func shorten(log []LogLine) []LogLine {
	if len(log) <= maxLog {
		return log
	}
	tail := log[len(log)-(maxLog-maxHead-1):]
	gap := LogLine{
		Time: tail[0].Time, Level: "info",
		Message: fmt.Sprintf("… %d lines left out", len(log)-maxLog+1),
	}
	short := append(make([]LogLine, 0, maxLog), log[:maxHead]...)
	return append(append(short, gap), tail...)
}
