package peer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/peer/stream"
)

// timeoutHeader carries how long the caller still waits, in milliseconds: a length
// and not a time, because clocks differ.
const timeoutHeader = "Tandem-Timeout-Ms"

// longestCall bounds what a caller may ask a handler to wait.
const longestCall = time.Hour

// Call sends req to the handler at path on a node and decodes its answer into resp,
// which may be nil. The context's deadline travels along.
func (p *Peer) Call(ctx context.Context, node guest.NodeID, path string, req, resp any) error {
	err := p.post(ctx, route{p.calls, node, path}, req, resp)
	if _, said := errors.AsType[*RemoteError](err); err == nil || said {
		return err // Its own words name the node.
	}
	return fmt.Errorf("call %s of node %s: %w", path, node.Short(), err)
}

// JoinCall is a call on the join exchange: the other side is known by the
// fingerprint in the token only, and does not know us.
func (p *Peer) JoinCall(ctx context.Context, at Target, path string, req, resp any) error {
	once := &http.Transport{
		DisableKeepAlives:  true,
		DisableCompression: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return p.dial(ctx, "", at, protocolJoin)
		},
	}
	if err := p.post(ctx, route{via: once, path: path}, req, resp); err != nil {
		return fmt.Errorf("join exchange with %s: %w", at.Address, err)
	}
	return nil
}

// dialCall is the dialler of the calls' transport, where host names are node IDs.
func (p *Peer) dialCall(ctx context.Context, _, addr string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	node := guest.NodeID(host)
	release, err := p.turns.take(ctx, node, protocolCall)
	if err != nil {
		return nil, err
	}
	defer release()
	return p.dialNode(ctx, node, protocolCall)
}

// route is where a request goes; node is empty on the join exchange.
type route struct {
	via  *http.Transport
	node guest.NodeID
	path string
}

// post makes one request. The scheme is plain http because the transport's dialler
// hands out connections that are encrypted already.
func (p *Peer) post(ctx context.Context, to route, req, resp any) error {
	host := "issuer"
	if to.node != "" {
		host = string(to.node)
		if err := to.node.Validate(); err != nil {
			return err
		}
	}
	body, err := json.Marshal(req)
	if err != nil {
		return fmt.Errorf("encode the request: %w", err)
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, p.opts.Timing.Call)
		defer cancel()
	}
	var used *link
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { used, _ = info.Conn.(*link) },
	})
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+host+to.path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	if deadline, ok := ctx.Deadline(); ok {
		r.Header.Set(timeoutHeader, strconv.FormatInt(max(1, time.Until(deadline).Milliseconds()), 10))
	}
	answer, err := to.via.RoundTrip(r)
	if err != nil {
		return callError(ctx, used, err)
	}
	defer func() { _ = answer.Body.Close() }() // what matters of it was read
	err = p.readAnswer(to.node, answer, resp)
	if err != nil && ctx.Err() != nil { // The handler may only have seen us go.
		return fmt.Errorf("%w: %w", ErrUnknownOutcome, context.Cause(ctx))
	}
	return err
}

// callError says whether something was sent. A key that is refused is told of in
// place of the answer, before anything of the request was looked at.
func callError(ctx context.Context, used *link, err error) error {
	switch {
	case used != nil && used.refused.Load():
		return fmt.Errorf("%w: %w", ErrRefused, err)
	case errors.Is(err, ErrRefused) || errors.Is(err, ErrUnreachable):
		return err
	case used == nil:
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	case ctx.Err() != nil:
		return fmt.Errorf("%w: %w", ErrUnknownOutcome, context.Cause(ctx))
	}
	return fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
}

func (p *Peer) readAnswer(node guest.NodeID, answer *http.Response, resp any) error {
	body, err := io.ReadAll(io.LimitReader(answer.Body, p.opts.Limits.CallBody+1))
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
	case int64(len(body)) > p.opts.Limits.CallBody:
		return fmt.Errorf("the answer is larger than %d bytes", p.opts.Limits.CallBody)
	}
	if answer.StatusCode != http.StatusOK {
		var w stream.WireError
		if json.Unmarshal(body, &w) != nil || w.Message == "" {
			w = stream.WireError{Code: CodeUnknownCall, Message: "it answers " + answer.Status + ", so it may run another version of tandemd"}
		}
		return w.Remote(node)
	}
	if resp == nil {
		return nil
	}
	if err := json.Unmarshal(body, resp); err != nil {
		return fmt.Errorf("the answer cannot be read: %w", err)
	}
	return nil
}

// Handle registers fn for calls to path. Its error travels to the caller with the
// code and hint that it carries; its context ends with the caller's deadline, or
// when the caller goes away.
func Handle[Req, Resp any](mux *http.ServeMux, path string, fn func(context.Context, Req) (Resp, error)) {
	mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), callerWaits(r))
		defer cancel()
		var req Req
		if err := readRequest(w, r, &req); err != nil {
			writeError(w, http.StatusBadRequest, err)
			return
		}
		resp, err := fn(ctx, req)
		switch {
		case err != nil && ctx.Err() == context.DeadlineExceeded:
			writeError(w, http.StatusUnprocessableEntity, stream.Coded(CodeTimeout, "%w", err))
		case err != nil:
			writeError(w, http.StatusUnprocessableEntity, err)
		default:
			writeJSON(w, http.StatusOK, resp)
		}
	})
}

func callerWaits(r *http.Request) time.Duration {
	ms, err := strconv.ParseInt(r.Header.Get(timeoutHeader), 10, 64)
	if err != nil || ms <= 0 || ms > longestCall.Milliseconds() {
		return longestCall
	}
	return time.Duration(ms) * time.Millisecond
}

// slowestBody is how long a request's body may take to arrive, and slowestJoin that
// of a stranger.
const (
	slowestBody = 30 * time.Second
	slowestJoin = 5 * time.Second
)

func readRequest(w http.ResponseWriter, r *http.Request, req any) error {
	// A deadline for the body alone: one for the connection would end the context of
	// a handler that takes longer.
	c := http.NewResponseController(w)
	patience := slowestBody
	if l := linkOf(r.Context()); l != nil && l.protocol == protocolJoin {
		patience = slowestJoin
	}
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return stream.Coded(CodeBadRequest, "read the request: %w", err)
	}
	if err := json.Unmarshal(body, req); err != nil {
		return stream.Coded(CodeBadRequest, "decode the request: %w", err)
	}
	return c.SetReadDeadline(time.Time{})
}

func writeError(w http.ResponseWriter, status int, err error) {
	writeJSON(w, status, stream.ToWire(err))
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		status = http.StatusUnprocessableEntity
		body, _ = json.Marshal(stream.ToWire(fmt.Errorf("encode the answer: %w", err)))
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body) // the caller has gone if this fails, and it will notice
}
