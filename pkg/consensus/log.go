package consensus

import (
	"fmt"
	"io"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// raftLogger gives raft a logger whose lines go to zap. Raft logs at error
// level what is routine for us (a peer that is down); only its own faults would
// be errors, so the highest level that passes is warn.
func raftLogger(l *zap.Logger) hclog.Logger {
	il := hclog.NewInterceptLogger(&hclog.LoggerOptions{Name: "raft", Level: hclog.Debug, Output: io.Discard})
	il.RegisterSink(sink{l.WithOptions(zap.WrapCore(seldom))})
	return il
}

const (
	// sayAgain and sayFirst: raft says twice a second that a peer is down, for each
	// peer and as long as it is. Of the lines with one text so many pass in that time.
	sayAgain = 10 * time.Minute
	sayFirst = 5
)

// seldom thins out the lines that raft repeats, unless somebody looks for all of them.
func seldom(c zapcore.Core) zapcore.Core {
	if c.Enabled(zapcore.DebugLevel) {
		return c
	}
	return zapcore.NewSamplerWithOptions(c, sayAgain, sayFirst, 0)
}

type sink struct{ zap *zap.Logger }

// Accept takes one line from hclog.
func (s sink) Accept(_ string, level hclog.Level, msg string, args ...any) {
	lvl := zapcore.WarnLevel
	switch level {
	case hclog.Trace, hclog.Debug, hclog.NoLevel:
		lvl = zapcore.DebugLevel
	case hclog.Info:
		lvl = zapcore.InfoLevel
	case hclog.Warn, hclog.Error, hclog.Off:
	}
	ce := s.zap.Check(lvl, "raft: "+msg)
	if ce == nil {
		return
	}
	var fields []zap.Field
	for i := 0; i+1 < len(args); i += 2 {
		fields = append(fields, zap.String(fmt.Sprint(args[i]), value(args[i+1])))
	}
	ce.Write(fields...)
}

// value is what raft gives a field; some carry their own format.
func value(v any) string {
	if f, ok := v.(hclog.Format); ok && len(f) > 0 {
		return fmt.Sprintf(fmt.Sprint(f[0]), f[1:]...)
	}
	return fmt.Sprint(v)
}
