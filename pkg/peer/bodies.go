package peer

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"

	"golang.org/x/sync/semaphore"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/peer/stream"
)

// bodies bounds the memory that the requests of one member take up while they come
// in, so that a member gone wild is alone in waiting for its turn.
type bodies struct {
	each int64

	mu     sync.Mutex
	byNode map[guest.NodeID]*semaphore.Weighted
}

func (b *bodies) of(node guest.NodeID) *semaphore.Weighted {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.byNode[node] == nil {
		b.byNode[node] = semaphore.NewWeighted(b.each)
	}
	return b.byNode[node]
}

// bounded lets a request in when there is memory for a body of its size, which is at
// most so many bytes.
func (b *bodies) bounded(next http.Handler, most int64) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		size := r.ContentLength
		if size < 0 || size > most {
			size = most
		}
		memory := b.of(Caller(r.Context()))
		wait, cancel := context.WithTimeout(r.Context(), slowestBody)
		err := memory.Acquire(wait, size)
		cancel()
		if err != nil {
			writeError(w, http.StatusServiceUnavailable, stream.Coded(CodeBusy, "too many large requests of this node at a time"))
			return
		}
		read := &readBody{ReadCloser: r.Body, done: sync.OnceFunc(func() { memory.Release(size) })}
		defer read.done()
		r.Body = read
		next.ServeHTTP(w, r)
	})
}

// readBody tells when nothing more comes.
type readBody struct {
	io.ReadCloser
	done func()
}

// Read reads on.
func (b *readBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.done()
	}
	return n, err
}

var errTooMany = errors.New("too many connections")
