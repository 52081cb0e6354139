package report

import (
	"fmt"
	"strings"

	"github.com/tandemd/tandem/pkg/api"
)

// Verified is the text of `verify` for one job.
func Verified(v api.Verification) []string {
	r := v.Result
	head := fmt.Sprintf("job %s, %s to %s: ", v.Job, v.Source, v.Target)
	var lines []string
	switch r.Outcome {
	case api.VerifyEqual:
		lines = append(lines, head+"equal")
	case api.VerifyDiffers:
		lines = append(lines, head+"DIFFERS")
	default:
		lines = append(lines, head+"cannot tell")
	}
	if v.Point != "" {
		lines = append(lines, fmt.Sprintf("  at %s: read %s in %s", v.Point, size(v.Bytes), span(r.Ended.Sub(v.Started))))
	}
	for _, vol := range r.Volumes {
		lines = append(lines, verifiedVolume(vol)...)
	}
	if r.Error != "" {
		lines = append(lines, "  error: "+OneLine(r.Error))
	}
	if r.Hint != "" {
		lines = append(lines, "  hint: "+OneLine(r.Hint))
	}
	return lines
}

func verifiedVolume(v api.VerifiedVolume) []string {
	found := "equal"
	switch n := len(v.Differences) + v.More; {
	case v.Problem != "":
		found = "not compared: " + OneLine(v.Problem)
	case n > 0 && !v.Compared:
		found = Count(n, "difference") + " up to where it ended"
	case n > 0:
		found = Count(n, "difference")
	case !v.Compared:
		found = "not compared to its end"
	}
	lines := []string{fmt.Sprintf("  %s: %s", v.Volume, found)}
	for _, d := range v.Differences {
		where := OneLine(d.Path)
		if d.Path == "" {
			where = fmt.Sprintf("bytes %d to %d", d.Offset, d.Offset+max(d.Length, 1)-1)
		}
		lines = append(lines, fmt.Sprintf("    %s: %s", where, OneLine(strings.Join(d.What, ", "))))
	}
	if v.More > 0 {
		lines = append(lines, fmt.Sprintf("    and %d more", v.More))
	}
	return lines
}

// verified is what `status --details` tells of a job's verifications.
func (p Printer) verified(s api.Status, j api.JobStatus) string {
	v := j.Verified
	if v == nil {
		return ""
	}
	text := p.ago(v.Time, s.Time) + ": "
	switch v.Outcome {
	case api.VerifyEqual:
		text += "equal"
	case api.VerifyDiffers:
		text += "differs"
	default:
		text += "could not be told: " + v.Error
	}
	if !v.Differs.IsZero() {
		if v.Outcome != api.VerifyDiffers {
			text += "; differed " + p.ago(v.Differs, s.Time)
		}
		text += ": " + strings.Join(v.What, "; ")
		if v.Acknowledged != "" {
			text += ", acknowledged by " + v.Acknowledged
		}
	}
	return text
}
