package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/guest"
)

// maxBody is the largest request in bytes; the largest sensible one, a guest
// with hundreds of volumes, is far below.
const maxBody = 1 << 20

// NewHandler serves b's methods as HTTP with JSON under /v1/. Unknown fields and
// parameters are refused: a client that is newer than the daemon shall learn that
// its wish was not understood. A panic in b becomes CodeInternal and is logged.
func NewHandler(b Backend, log *zap.Logger) http.Handler {
	s := server{log: log}
	mux := http.NewServeMux()
	mux.Handle("GET /v1/status", endpoint(s, readFilter, b.Status))
	mux.Handle("GET /v1/cluster", endpoint(s, readNothing, asking(b.Cluster)))
	mux.Handle("POST /v1/cluster/token", endpoint(s, readBody[TokenRequest], b.Token))
	mux.Handle("POST /v1/cluster/join", endpoint(s, readBody[JoinRequest], b.Join))
	mux.Handle("GET /v1/guests", endpoint(s, readNothing, asking(b.Guests)))
	mux.Handle("POST /v1/guests", endpoint(s, readBody[AddGuestRequest], b.AddGuest))
	mux.Handle("GET /v1/jobs", endpoint(s, readNothing, asking(b.Jobs)))
	mux.Handle("POST /v1/jobs", endpoint(s, readBody[CreateJobRequest], b.CreateJob))
	mux.Handle("GET /v1/jobs/{id}", endpoint(s, readJobID, b.Job))
	mux.Handle("PATCH /v1/jobs/{id}", endpoint(s, readAbout("job", readJobID, func(q UpdateJobRequest) guest.JobID { return q.ID }), b.UpdateJob))
	mux.Handle("DELETE /v1/jobs/{id}", endpoint(s, readDelete, b.DeleteJob))
	mux.Handle("POST /v1/jobs/{id}/schedule-now", endpoint(s, readJobID, doing(b.ScheduleNow)))
	mux.Handle("GET /v1/jobs/{id}/runs", endpoint(s, readRuns,
		func(ctx context.Context, q runsRequest) ([]Run, error) { return b.Runs(ctx, q.job, q.n) }))
	mux.Handle("POST /v1/jobs/{id}/run", endpoint(s, readJobID, b.StartRun))
	mux.Handle("GET /v1/jobs/{id}/runs/{run}/watch", endpoint(s, readWatch, b.Watch))
	mux.Handle("GET /v1/jobs/{id}/explain", endpoint(s, readJobID, b.Explain))
	clusterRoutes(s, mux, b)
	guestRoutes(s, mux, b)
	verifyRoutes(s, mux, b)
	divergedRoutes(s, mux, b)
	moveRoutes(s, mux, b)
	drillRoutes(s, mux, b)
	mux.Handle("/", http.HandlerFunc(s.unknown))
	return s.guarded(mux)
}

// nothing is the request or the answer of a call that has none.
type nothing struct{}

// runsRequest asks for the n newest runs of a job.
type runsRequest struct {
	job guest.JobID
	n   int
}

func asking[A any](call func(context.Context) (A, error)) func(context.Context, nothing) (A, error) {
	return func(ctx context.Context, _ nothing) (A, error) { return call(ctx) }
}

func doing[Q any](call func(context.Context, Q) error) func(context.Context, Q) (nothing, error) {
	return func(ctx context.Context, q Q) (nothing, error) { return nothing{}, call(ctx, q) }
}

// server writes answers; the log is for what the client cannot be told.
type server struct{ log *zap.Logger }

func endpoint[Q, A any](s server, read func(*http.Request) (Q, error), call func(context.Context, Q) (A, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q, err := read(r)
		if err != nil {
			s.fail(w, r, &Error{Code: CodeInvalid, Message: "request: " + err.Error()})
			return
		}
		answer, err := call(r.Context(), q)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		s.write(w, r, http.StatusOK, answer)
	})
}

// guarded limits bodies and keeps a panic from ending the connection without an answer.
func (s server) guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if p := recover(); p != nil {
				s.log.Error("request panicked", zap.String("method", r.Method), zap.String("path", r.URL.Path),
					zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
				s.fail(w, r, &Error{
					Code:    CodeInternal,
					Message: "tandemd met a fault of its own",
					Hint:    "journalctl -u tandemd tells where; please report it",
				})
			}
		}()
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		next.ServeHTTP(w, r)
	})
}

func (s server) unknown(w http.ResponseWriter, r *http.Request) {
	s.fail(w, r, &Error{
		Code:    CodeNotFound,
		Message: fmt.Sprintf("tandemd does not know the request %s %s", r.Method, r.URL.Path),
		Hint:    "the client and the running tandemd may be of different versions: compare `tandem version` and `tandemd --version`, restart tandemd after an upgrade",
	})
}

// fail answers with err as an *Error; one without a code counts as internal.
func (s server) fail(w http.ResponseWriter, r *http.Request, err error) {
	var e *Error
	if !errors.As(err, &e) {
		e = &Error{Code: CodeInternal, Message: err.Error(), Hint: "journalctl -u tandemd may tell more"}
	} else if e.Message != err.Error() {
		// It was wrapped on its way: what the wrapping says stays.
		e = &Error{Code: e.Code, Message: err.Error(), Hint: e.Hint}
	}
	s.write(w, r, e.Code.status(), e)
}

func (s server) write(w http.ResponseWriter, r *http.Request, status int, answer any) {
	var b bytes.Buffer
	if err := json.NewEncoder(&b).Encode(answer); err != nil {
		s.log.Error("answer cannot be encoded", zap.String("method", r.Method), zap.String("path", r.URL.Path), zap.Error(err))
		status = http.StatusInternalServerError
		b.Reset()
		fmt.Fprintf(&b, `{"code":%q,"message":"tandemd could not encode its answer","hint":"journalctl -u tandemd tells why"}`, CodeInternal)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if _, err := w.Write(b.Bytes()); err != nil {
		s.log.Debug("client went away", zap.String("path", r.URL.Path), zap.Error(err))
	}
}

// status is the HTTP status for a code; clients of ours look at the code only.
func (c Code) status() int {
	switch c {
	case CodeInvalid:
		return http.StatusBadRequest
	case CodeNotFound:
		return http.StatusNotFound
	case CodeRefused:
		return http.StatusConflict
	case CodeNotQuorate, CodeUnavailable:
		return http.StatusServiceUnavailable
	case CodeUnknown:
		return http.StatusGatewayTimeout
	case CodeInternal:
		return http.StatusInternalServerError
	}
	return http.StatusInternalServerError
}

func readNothing(r *http.Request) (nothing, error) { return nothing{}, onlyParams(r.URL.Query()) }

// readAbout reads a body about the one that the path names; id is the body's own word.
func readAbout[Q any, ID interface {
	comparable
	fmt.Stringer
}](what string, parse func(*http.Request) (ID, error), id func(Q) ID) func(*http.Request) (Q, error) {
	return func(r *http.Request) (q Q, err error) {
		named, err := parse(r)
		if err != nil {
			return q, err
		}
		q, err = readBody[Q](r)
		if err == nil && id(q) != named {
			err = fmt.Errorf("the path names %[1]s %[2]s, the body %[1]s %[3]s", what, named, id(q))
		}
		return q, err
	}
}

func readBody[Q any](r *http.Request) (Q, error) {
	var q Q
	if err := onlyParams(r.URL.Query()); err != nil {
		return q, err
	}
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(&q); err != nil {
		return q, bodyError(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return q, errors.New("the body has something after its end")
	}
	return q, nil
}

func bodyError(err error) error {
	var long *http.MaxBytesError
	switch {
	case errors.As(err, &long):
		return fmt.Errorf("the body is longer than %d bytes", long.Limit)
	case errors.Is(err, io.EOF):
		return errors.New("the body is empty")
	default:
		return fmt.Errorf("the body cannot be read: %w", err)
	}
}

func readFilter(r *http.Request) (f Filter, err error) {
	q := r.URL.Query()
	if err := onlyParams(q, "guest", "node"); err != nil {
		return f, err
	}
	if s := q.Get("guest"); s != "" {
		if f.Guest, err = guest.ParseID(s); err != nil {
			return f, err
		}
	}
	if s := q.Get("node"); s != "" {
		f.Node, err = guest.ParseNodeName(s)
	}
	return f, err
}

func readJobID(r *http.Request) (guest.JobID, error) {
	if err := onlyParams(r.URL.Query()); err != nil {
		return guest.JobID{}, err
	}
	return guest.ParseJobID(r.PathValue("id"))
}

func readDelete(r *http.Request) (q DeleteJobRequest, err error) {
	params := r.URL.Query()
	if err := onlyParams(params, "keep", "force"); err != nil {
		return q, err
	}
	if q.ID, err = guest.ParseJobID(r.PathValue("id")); err != nil {
		return q, err
	}
	for name, to := range map[string]*bool{"keep": &q.Keep, "force": &q.Force} {
		if s := params.Get(name); s != "" {
			if *to, err = strconv.ParseBool(s); err != nil {
				return q, fmt.Errorf("%s=%q: must be true or false", name, s)
			}
		}
	}
	return q, nil
}

func readRuns(r *http.Request) (q runsRequest, err error) {
	params := r.URL.Query()
	if err := onlyParams(params, "n"); err != nil {
		return q, err
	}
	if q.job, err = guest.ParseJobID(r.PathValue("id")); err != nil {
		return q, err
	}
	if s := params.Get("n"); s != "" {
		if q.n, err = strconv.Atoi(s); err != nil {
			return q, fmt.Errorf("n=%q: must be a number", s)
		}
	}
	return q, nil
}

func onlyParams(params url.Values, known ...string) error {
	for name := range params {
		if !slices.Contains(known, name) {
			return fmt.Errorf("unknown parameter %q", name)
		}
	}
	return nil
}
