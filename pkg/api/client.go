package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"syscall"

	"github.com/tandemd/tandem/pkg/guest"
)

// DefaultSocket is where tandemd listens for clients unless configured otherwise.
const DefaultSocket = "/run/tandem/tandemd.sock"

// Group is the group whose members may use the socket. They are equal to root on
// the whole cluster.
const Group = "tandem"

// maxAnswer is the longest answer in bytes that a client reads: logs of many runs.
const maxAnswer = 256 << 20

var _ Backend = (*Client)(nil)

// Client asks the daemon on this machine. Its methods are those of Backend;
// their errors are *Error, with the daemon's code and hint, or with what is wrong
// with the socket. It has no timeouts of its own: joining may take long.
type Client struct {
	socket string
	http   *http.Client
}

// NewClient makes a client of the daemon that listens on socket; it connects
// with the first call.
func NewClient(socket string) *Client {
	return &Client{
		socket: socket,
		http: &http.Client{Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, "unix", socket)
			},
			DisableKeepAlives: true,
		}},
	}
}

// Status is Backend's.
func (c *Client) Status(ctx context.Context, f Filter) (Status, error) {
	q := url.Values{}
	if f.Guest != 0 {
		q.Set("guest", f.Guest.String())
	}
	if f.Node != "" {
		q.Set("node", string(f.Node))
	}
	return ask[Status](ctx, c, call{method: http.MethodGet, path: "/v1/status", query: q})
}

// Cluster is Backend's.
func (c *Client) Cluster(ctx context.Context) (Cluster, error) {
	return ask[Cluster](ctx, c, call{method: http.MethodGet, path: "/v1/cluster"})
}

// InitCluster is Backend's.
func (c *Client) InitCluster(ctx context.Context, r InitRequest) (Cluster, error) {
	return ask[Cluster](ctx, c, call{method: http.MethodPost, path: "/v1/cluster/init", body: r})
}

// Token is Backend's.
func (c *Client) Token(ctx context.Context, r TokenRequest) (Token, error) {
	return ask[Token](ctx, c, call{method: http.MethodPost, path: "/v1/cluster/token", body: r})
}

// Join is Backend's.
func (c *Client) Join(ctx context.Context, r JoinRequest) (Cluster, error) {
	return ask[Cluster](ctx, c, call{method: http.MethodPost, path: "/v1/cluster/join", body: r})
}

// Guests is Backend's.
func (c *Client) Guests(ctx context.Context) ([]Guest, error) {
	return ask[[]Guest](ctx, c, call{method: http.MethodGet, path: "/v1/guests"})
}

// AddGuest is Backend's.
func (c *Client) AddGuest(ctx context.Context, r AddGuestRequest) (Guest, error) {
	return ask[Guest](ctx, c, call{method: http.MethodPost, path: "/v1/guests", body: r})
}

// Jobs is Backend's.
func (c *Client) Jobs(ctx context.Context) ([]Job, error) {
	return ask[[]Job](ctx, c, call{method: http.MethodGet, path: "/v1/jobs"})
}

// Job is Backend's.
func (c *Client) Job(ctx context.Context, id guest.JobID) (Job, error) {
	return ask[Job](ctx, c, call{method: http.MethodGet, path: "/v1/jobs/" + id.String()})
}

// CreateJob is Backend's.
func (c *Client) CreateJob(ctx context.Context, r CreateJobRequest) (Job, error) {
	return ask[Job](ctx, c, call{method: http.MethodPost, path: "/v1/jobs", body: r})
}

// UpdateJob is Backend's.
func (c *Client) UpdateJob(ctx context.Context, r UpdateJobRequest) (Job, error) {
	return ask[Job](ctx, c, call{method: http.MethodPatch, path: "/v1/jobs/" + r.ID.String(), body: r})
}

// DeleteJob is Backend's.
func (c *Client) DeleteJob(ctx context.Context, r DeleteJobRequest) (DeletedJob, error) {
	q := url.Values{}
	if r.Keep {
		q.Set("keep", "true")
	}
	if r.Force {
		q.Set("force", "true")
	}
	return ask[DeletedJob](ctx, c, call{method: http.MethodDelete, path: "/v1/jobs/" + r.ID.String(), query: q})
}

// ScheduleNow is Backend's.
func (c *Client) ScheduleNow(ctx context.Context, id guest.JobID) error {
	return c.do(ctx, call{method: http.MethodPost, path: "/v1/jobs/" + id.String() + "/schedule-now"}, &nothing{})
}

// Runs is Backend's.
func (c *Client) Runs(ctx context.Context, id guest.JobID, n int) ([]Run, error) {
	q := url.Values{"n": {strconv.Itoa(n)}}
	return ask[[]Run](ctx, c, call{method: http.MethodGet, path: "/v1/jobs/" + id.String() + "/runs", query: q})
}

// call is one request; a nil body sends none.
type call struct {
	method, path string
	query        url.Values
	body         any
}

func ask[A any](ctx context.Context, c *Client, q call) (answer A, err error) {
	err = c.do(ctx, q, &answer)
	return answer, err
}

func (c *Client) do(ctx context.Context, q call, answer any) error {
	var body io.Reader
	if q.body != nil {
		b, err := json.Marshal(q.body)
		if err != nil {
			return &Error{Code: CodeInvalid, Message: fmt.Sprintf("request cannot be encoded: %v", err)}
		}
		body = bytes.NewReader(b)
	}
	u := url.URL{Scheme: "http", Host: "tandemd", Path: q.path, RawQuery: q.query.Encode()}
	req, err := http.NewRequestWithContext(ctx, q.method, u.String(), body)
	if err != nil {
		return &Error{Code: CodeInvalid, Message: fmt.Sprintf("request cannot be made: %v", err)}
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return c.lost(q, err)
	}
	defer resp.Body.Close() //nolint:errcheck // it was read to its end or is given up
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return c.lost(q, err)
	}
	return c.decode(resp.StatusCode, b, answer)
}

func (c *Client) decode(status int, body []byte, answer any) error {
	if status == http.StatusOK {
		if err := json.Unmarshal(body, answer); err != nil {
			return &Error{Code: CodeInternal, Message: fmt.Sprintf("the answer on %s cannot be read: %v", c.socket, err), Hint: differentVersions}
		}
		return nil
	}
	var e Error
	if err := json.Unmarshal(body, &e); err != nil || e.Code == "" {
		return &Error{Code: CodeInternal, Message: fmt.Sprintf("the answer on %s is not one of tandemd (HTTP status %d)", c.socket, status), Hint: differentVersions}
	}
	return &e
}

const differentVersions = "the client and the running tandemd may be of different versions: restart tandemd after an upgrade"

// lost explains why there is no answer. A call that changes something and was
// sent may have been done.
func (c *Client) lost(q call, err error) error {
	if e := c.dialError(err); e != nil {
		return e
	}
	reason := "the connection ended: " + err.Error()
	if u, ok := errors.AsType[*url.Error](err); ok {
		reason = "the connection ended: " + u.Err.Error()
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		reason = "interrupted"
	}
	if q.method == http.MethodGet {
		return &Error{Code: CodeUnavailable, Message: "no answer from tandemd: " + reason, Hint: "systemctl status tandemd; journalctl -u tandemd"}
	}
	return &Error{
		Code:    CodeUnknown,
		Message: "no answer from tandemd, the change may have been made: " + reason,
		Hint:    "look with `tandem status` and `tandem list` before trying again",
	}
}

// dialError is nil when there was a connection.
func (c *Client) dialError(err error) error {
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "dial" {
		return nil
	}
	e := &Error{Code: CodeUnavailable}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		e.Absent = true
		e.Message = fmt.Sprintf("tandemd is not running on this node (no socket %s): systemctl start tandemd", c.socket)
	case errors.Is(err, syscall.ECONNREFUSED):
		e.Absent = true
		e.Message = fmt.Sprintf("tandemd is not running on this node (nobody answers on %s): systemctl start tandemd", c.socket)
		e.Hint = "if it does not start: systemctl status tandemd; journalctl -u tandemd"
	case errors.Is(err, fs.ErrPermission):
		e.Message = fmt.Sprintf("permission denied on %s: run it as root, or add yourself to the group %s", c.socket, Group)
		e.Hint = fmt.Sprintf("sudo usermod -aG %s \"$USER\", then log in again; that group may do what root may", Group)
	default:
		e.Message = fmt.Sprintf("tandemd cannot be reached: %v", op)
	}
	return e
}
