package zfs

import (
	"io"
	"sync"
)

const (
	// pumpPiece is what is written to a pipe at once, pumpLeast what is worth it while the reader at its other end waits:
	// TLS hands out 16 KiB at a time.
	pumpPiece, pumpLeast = 256 << 10, 64 << 10
	// pumpPieces bounds what a stream has in memory: 4 MiB, and only while zfs receive is behind. It reads in bursts, and not at
	// all while its pool writes a transaction group; what the network brings meanwhile is decrypted already when it goes on.
	pumpPieces = 16
	// pumpSmall is how many of them are no larger than pumpLeast: most streams bring little, and many run side by side.
	pumpSmall = 3
)

// pump carries a stream into a pipe, reading ahead by up to its pieces. Each end goes at its own pace.
type pump struct {
	full chan []byte // to be written
	free chan []byte // to be filled again
	// stopped is closed when the pipe takes no more.
	stopped chan struct{}
	stop    sync.Once
	made    int
}

func newPump() *pump {
	return &pump{full: make(chan []byte, pumpPieces), free: make(chan []byte, pumpPieces), stopped: make(chan struct{})}
}

// read fills pieces until r ends or fails, or the pipe takes no more. What was read before a failure is written.
func (p *pump) read(r io.Reader) {
	defer close(p.full)
	for {
		piece, ok := p.piece()
		if !ok {
			return
		}
		n := 0
		for n < len(piece) {
			m, err := r.Read(piece[n:])
			n += m
			if err != nil {
				p.pass(piece[:n])
				return
			}
			if n >= pumpLeast && len(p.full) == 0 {
				break
			}
		}
		if !p.pass(piece[:n]) {
			return
		}
	}
}

func (p *pump) pass(piece []byte) bool {
	if len(piece) == 0 {
		return true
	}
	select {
	case p.full <- piece:
		return true
	case <-p.stopped:
		return false
	}
}

// piece is room to read into.
func (p *pump) piece() ([]byte, bool) {
	select {
	case piece := <-p.free:
		return piece, true
	default:
	}
	if p.made < pumpPieces {
		p.made++
		if p.made <= pumpSmall {
			return make([]byte, pumpLeast), true
		}
		return make([]byte, pumpPiece), true
	}
	select {
	case piece := <-p.free:
		return piece, true
	case <-p.stopped:
		return nil, false
	}
}

// write empties pieces into w until there are no more, or w takes none.
func (p *pump) write(w io.Writer) {
	defer p.stop.Do(func() { close(p.stopped) })
	for piece := range p.full {
		if _, err := w.Write(piece); err != nil {
			return
		}
		p.free <- piece[:cap(piece)]
	}
}
