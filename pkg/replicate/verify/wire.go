package verify

import (
	"errors"
	"fmt"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/plan"
	"github.com/tandemd/tandem/pkg/replicate/fault"
	"github.com/tandemd/tandem/pkg/replicate/verify/content"
	"github.com/tandemd/tandem/pkg/replicate/wire"
	"github.com/tandemd/tandem/pkg/zfs/zname"
)

// The paths of the calls that a target answers.
const (
	PathBegin  = "/verify/begin"
	PathRead   = "/verify/read"
	PathAttend = "/verify/attend"
	PathEnd    = "/verify/end"
)

// Bounds of what a peer may tell.
const (
	maxPoints  = 64
	maxVolumes = 1 << 10
	maxSession = 64
	maxBatch   = 4096
	maxPath    = 64 << 10
	maxRate    = 1e6
)

// Point is one of the owner's points: all its snapshots.
type Point struct {
	Name    string        `json:"name"`
	Volumes []PointVolume `json:"volumes"`
}

// PointVolume is one of them.
type PointVolume struct {
	Volume guest.Volume `json:"volume"`
	GUID   uint64       `json:"guid"`
}

// BeginRequest asks a target to let its replica be compared.
type BeginRequest struct {
	wire.Request
	// Session is the owner's name for what follows.
	Session string `json:"session"`
	// Points are those that the owner could compare, the newest first.
	Points []Point `json:"points"`
	// Rate limits the reading, in MB/s (10^6 bytes); 0: no limit.
	Rate float64 `json:"rate,omitempty"`
}

// BeginReply says which point it is: the first that the target has complete.
type BeginReply struct {
	Point string `json:"point"`
	// Kinds are those of the point's volumes, Problems why one cannot be read.
	Kinds    map[guest.Volume]plan.Kind `json:"kinds"`
	Problems map[guest.Volume]Problem   `json:"problems,omitempty"`
}

// Problem is why a volume cannot be compared.
type Problem struct {
	Reason string `json:"reason"`
	Hint   string `json:"hint,omitempty"`
}

// ReadRequest asks for what comes next of a volume.
type ReadRequest struct {
	Session string       `json:"session"`
	Volume  guest.Volume `json:"volume"`
	// From is how many of its entries the owner has. The last answer can be asked for
	// again, where it was lost.
	From int `json:"from"`
}

// ReadReply are those that there are by now.
type ReadReply struct {
	Entries []content.Entry `json:"entries,omitempty"`
	// Done: there are no more.
	Done bool `json:"done,omitempty"`
}

// AttendRequest says that the owner goes on with the session, whenever it reads next.
type AttendRequest struct {
	Session string `json:"session"`
}

// Attended says that there is the session.
type Attended struct{}

// EndRequest ends the session.
type EndRequest struct {
	Session string `json:"session"`
}

// Ended says that it is ended.
type Ended struct{}

// Validate refuses what no owner asks.
func (r BeginRequest) Validate() error {
	if err := r.Request.Validate(); err != nil {
		return err
	}
	var err error
	switch {
	case r.Session == "" || len(r.Session) > maxSession:
		err = errors.New("the session has no sensible name")
	case len(r.Points) == 0 || len(r.Points) > maxPoints:
		err = fmt.Errorf("%d points", len(r.Points))
	case !(r.Rate >= 0 && r.Rate <= maxRate):
		err = fmt.Errorf("rate %v", r.Rate)
	}
	for _, p := range r.Points {
		if err == nil && (len(p.Volumes) == 0 || len(p.Volumes) > maxVolumes) {
			err = fmt.Errorf("a point of %d volumes", len(p.Volumes))
		}
		if err == nil {
			err = zname.Own(p.Name)
		}
	}
	if err != nil {
		return fault.Never("", "verification: %v", err)
	}
	return nil
}

// Validate refuses more than was asked for, and entries of another kind of volume.
func (r ReadReply) Validate(kind plan.Kind) error {
	if len(r.Entries) > maxBatch {
		return fmt.Errorf("%d entries at once", len(r.Entries))
	}
	for _, e := range r.Entries {
		file := len(e.Path) > 0 && e.File != nil && len(e.Path) <= maxPath
		chunk := len(e.Path) == 0 && e.File == nil && e.Offset >= 0 && e.Length > 0
		if e.Length < 0 || kind == plan.Filesystem && !file || kind == plan.Zvol && !chunk {
			return errors.New("an entry that does not fit the volume")
		}
	}
	return nil
}
