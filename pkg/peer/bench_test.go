package peer_test

import (
	"crypto/tls"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// cost is what moving some data took.
type cost struct {
	wall time.Duration
	cpu  time.Duration // of this process, both ends together
}

// BenchmarkTransport moves data between two members over loopback, and the same data through a bare copy loop over TLS with the
// same keys and settings, in turns. It reports
//
//	MB/s       what a stream moves
//	of-bare    the median of the pairs' ratios: a stream's speed by the bare loop's
//	of-bare-cpu  the same for the data moved in a second of processor time
//
// Frames and heartbeats are to cost at most a tenth: 0.9 or more for both.
func BenchmarkTransport(b *testing.B) {
	const size, pairs = 256 << 20, 9
	for b.Loop() {
		stream, bare := streamMover(b), bareMover(b)
		stream(size) // connections are there and buffers grown
		bare(size)
		var speed, thrift, rates []float64
		for i := range pairs {
			// Who comes second profits from what the first has left, so they take turns.
			var s, t cost
			if i%2 == 0 {
				s, t = stream(size), bare(size)
			} else {
				t, s = bare(size), stream(size)
			}
			speed = append(speed, t.wall.Seconds()/s.wall.Seconds())
			thrift = append(thrift, t.cpu.Seconds()/s.cpu.Seconds())
			rates = append(rates, size/1e6/s.wall.Seconds())
		}
		b.ReportMetric(median(rates), "MB/s")
		b.ReportMetric(median(speed), "of-bare")
		b.ReportMetric(median(thrift), "of-bare-cpu")
	}
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// measured turns what moves so many bytes into what tells the cost of it.
func measured(b *testing.B, move func(size int64) error) func(size int64) cost {
	b.Helper()
	return func(size int64) cost {
		before, start := processorTime(b), time.Now()
		if err := move(size); err != nil {
			b.Fatal(err)
		}
		return cost{time.Since(start), processorTime(b) - before}
	}
}

// streamMover moves data as a sync does, from a reader to a writer that know no shortcuts.
func streamMover(b *testing.B) func(int64) cost {
	b.Helper()
	from, to := two(b)
	return measured(b, func(size int64) error {
		s, err := from.OpenStream(b.Context(), to.id, nil, nil)
		if err != nil {
			return err
		}
		defer s.Close()
		if _, err := io.Copy(s, io.LimitReader(zeros{}, size)); err != nil {
			return err
		}
		if err := s.CloseWrite(); err != nil {
			return err
		}
		return s.Result(nil)
	})
}

// bareMover is a connection with the settings of a data stream's and nothing on it but the data. Both ends copy with buffers as large
// as a frame.
func bareMover(b *testing.B) func(int64) cost {
	b.Helper()
	cert := newCert(b)
	config := &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAnyClientCert,
		InsecureSkipVerify: true, DynamicRecordSizingDisabled: true, SessionTicketsDisabled: true,
	}
	ln, err := (&net.ListenConfig{}).Listen(b.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	raw, err := (&net.Dialer{}).DialContext(b.Context(), "tcp", ln.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	accepted, err := ln.Accept()
	if err != nil {
		b.Fatal(err)
	}
	far, near := tls.Server(accepted, config), tls.Client(raw, config)
	b.Cleanup(func() {
		near.Close()
		far.Close()
	})
	in, out := make([]byte, 256<<10), make([]byte, 256<<10)
	return measured(b, func(size int64) error {
		done := make(chan error, 1)
		go func() {
			_, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, io.LimitReader(far, size), in)
			done <- err
		}()
		if _, err := io.CopyBuffer(near, io.LimitReader(zeros{}, size), out); err != nil {
			return err
		}
		return <-done
	})
}
