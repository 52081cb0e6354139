package bench

import (
	"fmt"
	"math"
	"strings"
)

// Setting is where and on what a report was made.
type Setting struct {
	Date     string
	Commit   string
	Machine  string   // processors, memory, how it runs
	Versions []string // of kernel, ZFS and the contestants
}

type chapter struct{ id, title string }

func chapters() []chapter {
	return []chapter{
		{Delta64, "One guest, 64 KiB since the last sync"},
		{Nothing, "One guest, nothing since the last sync"},
		{Delta16, "One guest, 16 MiB at random places since the last sync"},
		{Many, "20 guests due at the same minute, 64 KiB each"},
		{AtOnce, "20 guests asked for by hand at the same moment, 64 KiB each"},
		{First, "First sync of 512 MiB that do not compress"},
		{Eight, "Eight first syncs of 32 MiB side by side"},
	}
}

// Page writes the report as a page of Markdown.
func (r Report) Page(s Setting) string {
	var page strings.Builder
	fmt.Fprintf(&page, "# Benchmark\n\n%s, %s. %s. Made by `make bench`, which [says how](../operate/bench.md).\n\n", s.Date, s.Commit, s.Machine)
	fmt.Fprintf(&page, "%s.\n\n", strings.Join(s.Versions, "; "))
	page.WriteString(`Two pools in one machine; contestants take turns in each round. Times are medians, in seconds; ratios are medians of the rounds' own ratios to the
plain pipe of the same round: only they say something, for the machine may be emulated and busy. *zfs* are the processes of zfs and zpool on both sides
together, *processes* all that were started, *CPU* the processor seconds of a contestant's processes, *machine* those of the whole machine in the meantime,
kernel included. *Record* is the time from start to end in Tandem's own records.

## Aims

| | aim | here | |
| --- | --- | --- | --- |
`)
	for _, a := range r.aims() {
		sign, verdict := "≥", "**not met**"
		if a.most {
			sign = "≤"
		}
		switch {
		case math.IsNaN(a.got):
			verdict = "not measured"
		case a.met():
			verdict = "met"
		}
		fmt.Fprintf(&page, "| %s | %s %s | %s | %s |\n", a.what, sign, figure(a.want), figure(a.got), verdict)
	}
	for _, c := range chapters() {
		r.chapter(&page, c)
	}
	if r.Idle.Seconds > 0 {
		perMinute := 60 / r.Idle.Seconds
		fmt.Fprintf(&page, "\n## Idle\n\nWith nothing to do both daemons together start %s zfs processes and use %s s of processor time in a minute; they have %s and %s MiB in memory.\n",
			figure(float64(r.Idle.ZFS)*perMinute), figure(r.Idle.CPU*perMinute), figure(r.Idle.Resident[0]), figure(r.Idle.Resident[1]))
	}
	return page.String()
}

func (r Report) chapter(page *strings.Builder, c chapter) {
	plain := r.of(c.id, Pipe)
	var rows []string
	for _, who := range []string{Pipe, SSH, Syncoid, Tandem} {
		samples := r.of(c.id, who)
		if len(samples) == 0 {
			continue
		}
		all := values(samples, seconds)
		row := []string{who, fmt.Sprint(len(samples)), figure(median(all)), spread(all), figure(r.ratio(samples, plain, seconds))}
		if who == Tandem {
			row = append(row, figure(median(values(samples, record))), figure(r.ratio(samples, plain, record)))
		} else {
			row = append(row, "", "")
		}
		for _, value := range []func(Sample) float64{zfs, processes, cpu, machine} {
			row = append(row, figure(median(values(samples, value))))
		}
		memory := ""
		if who == Tandem {
			memory = figure(median(values(samples, resident)))
		}
		rows = append(rows, "| "+strings.Join(append(row, memory), " | ")+" |\n")
	}
	if len(rows) == 0 {
		return
	}
	fmt.Fprintf(page, "\n## %s\n\n| | n | time | from, to | ratio | record | ratio | zfs | processes | CPU | machine | MiB |\n%s\n%s",
		c.title, "| --- "+strings.Repeat("| ---: ", 11)+"|", strings.Join(rows, ""))
}

// figure writes a number with about three digits.
func figure(v float64) string {
	switch {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return "–"
	case v == math.Trunc(v):
		return fmt.Sprintf("%.0f", v)
	case math.Abs(v) < 10:
		return fmt.Sprintf("%.2f", v)
	case math.Abs(v) < 100:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

func spread(all []float64) string {
	low, high := math.Inf(1), math.Inf(-1)
	for _, v := range all {
		low, high = min(low, v), max(high, v)
	}
	return figure(low) + ", " + figure(high)
}
