package report

import (
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestSpan(t *testing.T) {
	got := map[time.Duration]string{}
	want := map[time.Duration]string{
		-time.Second:            "0.0s",
		0:                       "0.0s",
		1234 * time.Millisecond: "1.2s",
		9999 * time.Millisecond: "9.9s",
		10 * time.Second:        "10s",
		59 * time.Second:        "59s",
		time.Minute:             "1m00s",
		599 * time.Second:       "9m59s",
		10 * time.Minute:        "10m",
		61 * time.Minute:        "1h01m",
		23 * time.Hour:          "23h",
		25 * time.Hour:          "1d01h",
		400 * 24 * time.Hour:    "400d",
	}
	for d := range want {
		got[d] = span(d)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestSize(t *testing.T) {
	got := map[int64]string{}
	want := map[int64]string{
		0: "0B", 1023: "1023B", 1024: "1.0K", 1536: "1.5K", 10 << 10: "10K", 1023 << 10: "1023K",
		1<<20 - 1: "1.0M", 1 << 20: "1.0M", 5 << 30: "5.0G", 3 << 40: "3.0T", math.MaxInt64: "8.0E",
	}
	for n := range want {
		got[n] = size(n)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// The status table fits a terminal because its cells are never wider than this.
func TestCells_StayNarrow(t *testing.T) {
	p := Printer{Zone: time.UTC}
	rapid.Check(t, func(t *rapid.T) {
		if s := size(rapid.Uint64().Draw(t, "bytes")); len(s) > 5 {
			t.Errorf("size %q is wider than 5", s)
		}
		if s := span(time.Duration(rapid.Int64Range(0, int64(9999*24*time.Hour)).Draw(t, "span"))); len(s) > 5 {
			t.Errorf("span %q is wider than 5", s)
		}
		a, b := rapid.Int64Range(0, 1<<33).Draw(t, "time"), rapid.Int64Range(0, 1<<33).Draw(t, "now")
		if s := p.at(time.Unix(a, 0), time.Unix(b, 0)); len(s) > 8 {
			t.Errorf("time %q is wider than 8", s)
		}
	})
}
