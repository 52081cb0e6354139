package backend

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/ledger"
	"github.com/tandemd/tandem/pkg/peer"
	"github.com/tandemd/tandem/pkg/replicate/verify"
)

// The calls between the backends about verifications.
const (
	pathVerify            = "/node/verify"
	pathVerifyWatch       = "/node/verify-watch"
	pathVerifyCancel      = "/node/verify-cancel"
	pathVerifyAcknowledge = "/node/verify-acknowledge"
)

type acknowledgement struct {
	Job guest.JobID `json:"job"`
	By  string      `json:"by"`
}

// handleVerify answers the other nodes' backends about verifications.
func (b *Backend) handleVerify(mux *http.ServeMux) {
	peer.Handle(mux, pathVerify, func(ctx context.Context, r startVerify) (api.StartedVerify, error) {
		b.catchUp(ctx, r.Index)
		return b.startVerify(r.VerifyRequest)
	})
	peer.Handle(mux, pathVerifyWatch, b.watchVerify)
	peer.Handle(mux, pathVerifyCancel, func(_ context.Context, r api.VerifyID) (struct{}, error) { return struct{}{}, b.cancelVerify(r) })
	peer.Handle(mux, pathVerifyAcknowledge, func(_ context.Context, r acknowledgement) (struct{}, error) {
		return struct{}{}, b.acknowledge(r)
	})
}

type startVerify struct {
	api.VerifyRequest
	// Index is how far the sender's ledger is: the job may have been made just now.
	Index uint64 `json:"index"`
}

// StartVerify begins to compare a job's replica with its source.
func (b *Backend) StartVerify(ctx context.Context, r api.VerifyRequest) (api.StartedVerify, error) {
	q := question{pathVerify, startVerify{r, b.Book.Current().Index}}
	return ofJob(ctx, b, r.Job, q, func() (api.StartedVerify, error) { return b.startVerify(r) })
}

func (b *Backend) startVerify(r api.VerifyRequest) (api.StartedVerify, error) {
	c, err := b.cluster()
	if err != nil {
		return api.StartedVerify{}, err
	}
	n, err := c.Verifier.Start(r.Job, r.Rate)
	return api.StartedVerify{VerifyID: api.VerifyID{Job: r.Job, Number: n}, Node: b.Name}, err
}

// WatchVerify tells how a verification fares.
func (b *Backend) WatchVerify(ctx context.Context, r api.VerifyID) (api.Verification, error) {
	return ofJob(ctx, b, r.Job, question{pathVerifyWatch, r}, func() (api.Verification, error) { return b.watchVerify(ctx, r) })
}

func (b *Backend) watchVerify(ctx context.Context, r api.VerifyID) (api.Verification, error) {
	c, err := b.cluster()
	if err != nil {
		return api.Verification{}, err
	}
	st, err := c.Verifier.Watch(ctx, r.Job, r.Number)
	if err != nil {
		return api.Verification{}, err
	}
	s := b.Book.Current()
	out := api.Verification{
		Version: api.Version, VerifyID: r, Source: b.Name, Target: guest.NodeName(s.NameOf(s.Jobs[r.Job].Target)), Started: st.Started, Time: time.Now(),
		Point: st.Point, Bytes: int64(st.Bytes), Total: int64(st.Total), //nolint:gosec // bytes of one guest
	}
	if st.Volume != (guest.Volume{}) {
		out.Volume = st.Volume.String()
	}
	if st.Result != nil {
		out.Target, out.Point = guest.NodeName(s.NameOf(st.Result.Target)), st.Result.Point
		out.Result = verdict(s, *st.Result)
	}
	return out, nil
}

func verdict(s *ledger.State, r verify.Result) *api.VerifyResult {
	out := &api.VerifyResult{
		Outcome: string(r.Outcome), Ended: r.Ended, Volumes: []api.VerifiedVolume{}, Error: s.Named(r.Error), Hint: s.Named(r.Hint),
	}
	for _, v := range r.Volumes {
		vol := api.VerifiedVolume{Volume: v.Volume, Compared: v.Compared, Differences: []api.Difference{}, More: v.More}
		if v.Problem != nil {
			vol.Problem = v.Problem.Reason
		}
		for _, d := range v.Differences {
			vol.Differences = append(vol.Differences, api.Difference{Offset: d.Offset, Length: d.Length, Path: d.Path, What: d.What})
		}
		out.Volumes = append(out.Volumes, vol)
	}
	return out
}

// CancelVerify ends a verification.
func (b *Backend) CancelVerify(ctx context.Context, r api.VerifyID) error {
	_, err := ofJob(ctx, b, r.Job, question{pathVerifyCancel, r}, func() (struct{}, error) { return struct{}{}, b.cancelVerify(r) })
	return err
}

func (b *Backend) cancelVerify(r api.VerifyID) error {
	c, err := b.cluster()
	if err != nil {
		return err
	}
	c.Verifier.Cancel(r.Job, r.Number)
	return nil
}

// AcknowledgeVerify ends the alarm about a difference.
func (b *Backend) AcknowledgeVerify(ctx context.Context, id guest.JobID) error {
	a := acknowledgement{Job: id, By: b.caller(ctx)}
	_, err := ofJob(ctx, b, id, question{pathVerifyAcknowledge, a}, func() (struct{}, error) { return struct{}{}, b.acknowledge(a) })
	return err
}

func (b *Backend) acknowledge(a acknowledgement) error {
	c, err := b.cluster()
	if err != nil {
		return err
	}
	_, j, err := b.job(a.Job)
	if err != nil {
		return err
	}
	return c.Verifier.Acknowledge(j, a.By)
}

// Verified is what status tells of a job's verifications; nil: there was none.
func Verified(r verify.Record) *api.Verified {
	if r.Last == nil {
		return nil
	}
	out := &api.Verified{
		Time: r.Last.Ended, Outcome: string(r.Last.Outcome), Point: r.Last.Point, Error: r.Last.Error,
		Alarm: r.Alarm(), Acknowledged: r.Known,
	}
	if r.Differs != nil {
		out.Differs, out.What = r.Differs.Ended, found(*r.Differs)
	}
	return out
}

// found are a few words for each volume that differs.
func found(r verify.Result) []string {
	var out []string
	for _, v := range r.Volumes {
		if len(v.Differences) == 0 {
			continue
		}
		first := v.Differences[0]
		where := fmt.Sprintf("offset %d", first.Offset)
		if first.Path != "" {
			where = first.Path
		}
		text := fmt.Sprintf("volume %s: %s of %s", v.Volume, strings.Join(first.What, ", "), where)
		if slices.Contains(first.What, "missing") || slices.Contains(first.What, "extra") {
			text = fmt.Sprintf("volume %s: %s %s", v.Volume, strings.Join(first.What, ", "), where)
		}
		if n := len(v.Differences) - 1 + v.More; n > 0 {
			text += fmt.Sprintf(" and %d more", n)
		}
		out = append(out, text)
	}
	return out
}
