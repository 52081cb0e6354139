package gossip

import (
	"bytes"
	"strings"
	"sync"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/time/rate"
)

// lineLog gives memberlist's lines ("2026/01/02 03:04:05 [WARN] memberlist: …") real
// levels. What a stranger can cause by sending packets cannot fill the journal.
type lineLog struct {
	log *zap.Logger

	mu         sync.Mutex
	limit      *rate.Limiter
	suppressed int
}

func newLineLog(log *zap.Logger) *lineLog {
	return &lineLog{log: log, limit: rate.NewLimiter(0.1, 10)}
}

// Write takes one line; memberlist's logger calls it so.
func (l *lineLog) Write(b []byte) (int, error) {
	level, text := classify(string(bytes.TrimSpace(b)))
	if level < zapcore.WarnLevel {
		l.log.Log(level, "memberlist", zap.String("line", text))
		return len(b), nil
	}
	l.mu.Lock()
	allowed, suppressed := l.limit.Allow(), l.suppressed
	if allowed {
		l.suppressed = 0
	} else {
		l.suppressed++
	}
	l.mu.Unlock()
	if allowed {
		l.log.Log(level, "memberlist", zap.String("line", text), zap.Int("lines_left_out", suppressed))
	}
	return len(b), nil
}

// classify finds level and text of a line. memberlist's own level says little:
// errors in sending only mean that a node is away, which the member list tells
// better, and errors about what came in are the sender's.
func classify(line string) (zapcore.Level, string) {
	level := zapcore.InfoLevel
	for mark, l := range map[string]zapcore.Level{
		"[DEBUG]": zapcore.DebugLevel, "[INFO]": zapcore.InfoLevel, "[WARN]": zapcore.WarnLevel,
		"[ERR]": zapcore.ErrorLevel, "[ERROR]": zapcore.ErrorLevel, "Err:": zapcore.ErrorLevel,
	} {
		if _, text, found := strings.Cut(line, mark); found {
			level, line = l, text
			break
		}
	}
	text := strings.TrimPrefix(strings.TrimSpace(line), "memberlist: ")
	switch {
	case level <= zapcore.InfoLevel:
	case strings.HasPrefix(text, "Refuting"):
		level = zapcore.InfoLevel
	case strings.HasPrefix(text, "Failed to send"), strings.HasPrefix(text, "Push/Pull with"),
		strings.HasPrefix(text, "Failed fallback TCP ping"), strings.HasPrefix(text, "Could not set the deadline"):
		level = zapcore.DebugLevel
	case strings.Contains(text, "from="):
		level = zapcore.WarnLevel
	}
	return level, text
}
