package overview

import (
	"fmt"
	"strings"
	"time"

	"github.com/tandemd/tandem/pkg/api"
)

// differs is the alarm about a replica that is not what its source is.
func differs(j api.JobStatus) string {
	return fmt.Sprintf(
		"job %s: the replica on %s differs from its source on %s, found at %s (%s). Set it aside and run the job, see docs/failures.md; `tandem verify %s --acknowledge` ends this warning",
		j.ID, j.Target, j.Source, j.Verified.Differs.UTC().Format(time.RFC3339), strings.Join(j.Verified.What, "; "), j.ID)
}

// whyVerified tells what is known of a replica by having compared it.
func whyVerified(v *api.Verified, zone *time.Location) []string {
	if v == nil {
		return nil
	}
	var out []string
	switch v.Outcome {
	case api.VerifyEqual:
		out = append(out, fmt.Sprintf("its replica was compared with its source until %s, at the point %s: they are equal", moment(v.Time, zone), v.Point))
	case api.VerifyFailed:
		out = append(out, fmt.Sprintf("its replica was last compared with its source at %s, which could not be told: %s", moment(v.Time, zone), v.Error))
	}
	if !v.Differs.IsZero() {
		text := fmt.Sprintf("its replica differs from its source, found at %s: %s", moment(v.Differs, zone), strings.Join(v.What, "; "))
		if v.Acknowledged != "" {
			text += "; acknowledged by " + v.Acknowledged
		}
		out = append(out, text)
	}
	return out
}
