package zfs

import (
	"io"
	"sync"
)

// ParseForTest parses the output of a listing of tank/ct, given in pieces of n bytes.
func ParseForTest(out []byte, n int) Dataset {
	inv := newInventory([]string{"tank/ct"})
	for len(out) > 0 {
		k := min(n, len(out))
		_, _ = inv.Write(out[:k])
		out = out[k:]
	}
	return *inv.byName["tank/ct"]
}

// Pump carries r into w as Receive does, and returns when both ends are done.
func Pump(r io.Reader, w io.Writer) {
	p := newPump()
	var wg sync.WaitGroup
	wg.Go(func() { p.read(r) })
	p.write(w)
	wg.Wait()
}

// PumpHolds is how many bytes are read ahead at most.
const PumpHolds = pumpPieces * pumpPiece
