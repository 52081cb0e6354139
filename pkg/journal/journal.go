// Package journal is a zap core that writes to systemd's journal, each field of
// a line as a field of the journal's entry, so that
// `journalctl -u tandemd JOB=100-0` finds what concerns one job.
//
// It is not a logger: cmd/tandemd makes one with it, everybody else is given a
// *zap.Logger.
package journal

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/coreos/go-systemd/v22/journal"
	"go.uber.org/zap/zapcore"
)

// Send is journal.Send of go-systemd, or a stand-in.
type Send func(message string, priority journal.Priority, fields map[string]string) error

// NewCore writes what level lets through to send.
func NewCore(level zapcore.LevelEnabler, send Send) zapcore.Core {
	return &core{LevelEnabler: level, send: send}
}

type core struct {
	zapcore.LevelEnabler
	send Send
	with []zapcore.Field
}

// With adds fields to every later line.
func (c *core) With(fields []zapcore.Field) zapcore.Core {
	n := *c
	n.with = slices.Concat(c.with, fields)
	return &n
}

// Check adds the core to an entry that its level lets through.
func (c *core) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

// Write sends one line. The fields also stand in the message, because most
// people read the journal in its short form.
func (c *core) Write(e zapcore.Entry, fields []zapcore.Field) error {
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range slices.Concat(c.with, fields) {
		f.AddTo(enc)
	}
	vars := map[string]string{}
	var msg strings.Builder
	msg.WriteString(e.Message)
	for _, k := range slices.Sorted(maps.Keys(enc.Fields)) {
		v := fmt.Sprint(enc.Fields[k])
		vars[Field(k)] = v
		if v != "" {
			fmt.Fprintf(&msg, " %s=%s", k, quoted(v))
		}
	}
	return c.send(msg.String(), priority(e.Level), vars)
}

// Sync has nothing to flush.
func (*core) Sync() error { return nil }

// Field is the name of a journal field for a key: upper case letters, digits
// and underscores, not beginning with an underscore (systemd.journal-fields(7)).
func Field(key string) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '_':
			return r
		default:
			return '_'
		}
	}, key)
	name = strings.TrimLeft(name, "_0123456789")
	if name == "" {
		return "FIELD"
	}
	return name
}

func quoted(v string) string {
	if strings.ContainsAny(v, " \t\n\"") {
		return fmt.Sprintf("%q", v)
	}
	return v
}

func priority(l zapcore.Level) journal.Priority {
	switch l {
	case zapcore.DebugLevel:
		return journal.PriDebug
	case zapcore.InfoLevel:
		return journal.PriInfo
	case zapcore.WarnLevel:
		return journal.PriWarning
	case zapcore.ErrorLevel:
		return journal.PriErr
	case zapcore.DPanicLevel, zapcore.PanicLevel, zapcore.FatalLevel, zapcore.InvalidLevel:
		return journal.PriCrit
	default:
		return journal.PriNotice
	}
}
