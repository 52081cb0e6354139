package gossip

import (
	"bytes"
	"log" //nolint:depguard // memberlist's transport wants this type
	"strings"
	"sync"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/time/rate"
)

// quiet warns of what a stranger can cause by sending packets, so that it cannot
// fill the journal.
type quiet struct {
	log *zap.Logger

	mu      sync.Mutex
	limit   *rate.Limiter
	leftOut int
}

func newQuiet(to *zap.Logger) *quiet {
	return &quiet{log: to, limit: rate.NewLimiter(0.1, 10)}
}

func (q *quiet) warn(message string, fields ...zap.Field) {
	q.say(zapcore.WarnLevel, message, fields...)
}

func (q *quiet) say(level zapcore.Level, message string, fields ...zap.Field) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.limit.Allow() {
		q.leftOut++
		return
	}
	q.log.Log(level, message, append(fields, zap.Int("lines_left_out", q.leftOut))...)
	q.leftOut = 0
}

// lineLog gives memberlist's lines ("2026/01/02 03:04:05 [WARN] memberlist: …") real
// levels.
type lineLog struct {
	log   *zap.Logger
	quiet *quiet
}

func newLineLog(to *zap.Logger) *lineLog { return &lineLog{log: to, quiet: newQuiet(to)} }

// logger is for the transport, which takes no writer.
func (l *lineLog) logger() *log.Logger { return log.New(l, "", 0) }

// Write takes one line; memberlist's logger calls it so.
func (l *lineLog) Write(b []byte) (int, error) {
	level, text := classify(string(bytes.TrimSpace(b)))
	if level < zapcore.WarnLevel {
		l.log.Log(level, "memberlist", zap.String("line", text))
	} else {
		l.quiet.say(level, "memberlist", zap.String("line", text))
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
		strings.HasPrefix(text, "Failed fallback TCP ping"), strings.HasPrefix(text, "Could not set the deadline"),
		strings.HasPrefix(text, "ignoring alive message"), strings.HasPrefix(text, "failed to receive and remove the stream label"),
		strings.HasPrefix(text, `discarding stream with unacceptable label ""`):
		// The last three are of nodes that are not members yet; of streams that the guard has told of; and of those that
		// ended without a byte, because a busy member gave up: another label, or none, the guard does not let through.
		level = zapcore.DebugLevel
	case strings.Contains(text, "from="):
		level = zapcore.WarnLevel
	}
	return level, text
}
