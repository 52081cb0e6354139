package zfs_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/tandemd/tandem/pkg/zfs"
)

// pieces hands out data as a network does: a little at a time.
type pieces struct {
	data []byte
	read atomic.Int64
	end  error
}

func (p *pieces) Read(b []byte) (int, error) {
	at := int(p.read.Load())
	if at == len(p.data) {
		return 0, p.end
	}
	n := copy(b, p.data[at:min(len(p.data), at+1+at%16384)])
	p.read.Add(int64(n))
	return n, nil
}

func noise(n int) []byte {
	data := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(data)
	return data
}

func TestPump_CarriesEverythingAlsoWhatCameBeforeAFailure(t *testing.T) {
	for _, end := range []error{io.EOF, errors.New("cable cut")} {
		for _, size := range []int{0, 1, 64 << 10, 3<<20 + 5, 3 * zfs.PumpHolds} {
			r := &pieces{data: noise(size), end: end}
			var got bytes.Buffer
			zfs.Pump(r, &got)
			if !bytes.Equal(got.Bytes(), r.data) {
				t.Errorf("%v: of %d bytes %d arrived, or others", end, size, got.Len())
			}
		}
	}
}

func TestPump_ReadsAheadAndNoFurther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &pieces{data: noise(3 * zfs.PumpHolds), end: io.EOF}
		out, in := io.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			zfs.Pump(r, in)
		}()
		synctest.Wait() // Nobody reads from the pipe.
		if ahead := r.read.Load(); ahead < zfs.PumpHolds/2 || ahead > zfs.PumpHolds {
			t.Errorf("%d bytes were read ahead, the bound is %d", ahead, zfs.PumpHolds)
		}
		time.Sleep(time.Second)
		_ = out.Close() // zfs has ended.
		<-done
		if read := r.read.Load(); read > zfs.PumpHolds+1<<20 {
			t.Errorf("%d bytes were read for nobody", read)
		}
	})
}

func TestPump_HandsOverWhatIsThereToAReaderThatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		var got atomic.Int64
		done := make(chan struct{})
		go func() {
			defer close(done)
			zfs.Pump(iotest.HalfReader(r), writer(func(p []byte) (int, error) { got.Add(int64(len(p))); return len(p), nil }))
		}()
		_, _ = w.Write(make([]byte, 100<<10)) // The network stalls then.
		synctest.Wait()
		if got.Load() < 64<<10 {
			t.Errorf("%d bytes were handed over", got.Load())
		}
		_ = w.Close()
		<-done
		if got.Load() != 100<<10 {
			t.Errorf("%d bytes were handed over", got.Load())
		}
	})
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }
