package journal_test

import (
	"errors"
	"testing"

	sd "github.com/coreos/go-systemd/v22/journal"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/journal"
)

type line struct {
	Message  string
	Priority sd.Priority
	Fields   map[string]string
}

func TestCore_FieldsCanBeSearched(t *testing.T) {
	var got []line
	log := zap.New(journal.NewCore(zap.InfoLevel, func(m string, p sd.Priority, f map[string]string) error {
		got = append(got, line{m, p, f})
		return nil
	})).With(zap.String("job", "100-0"), zap.String("target", "n2"))
	log.Debug("not at this level")
	log.Info("sync done", zap.Int64("bytes", 42))
	log.Warn("sync failed", zap.Error(errors.New("out of space")), zap.String("hint", ""))
	want := []line{
		{"sync done bytes=42 job=100-0 target=n2", sd.PriInfo, map[string]string{"JOB": "100-0", "TARGET": "n2", "BYTES": "42"}},
		{
			`sync failed error="out of space" job=100-0 target=n2`, sd.PriWarning,
			map[string]string{"JOB": "100-0", "TARGET": "n2", "ERROR": "out of space", "HINT": ""},
		},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestField_IsANameThatTheJournalTakes(t *testing.T) {
	for key, want := range map[string]string{
		"job": "JOB", "last-index": "LAST_INDEX", "_private": "PRIVATE", "9lives": "LIVES", "": "FIELD", "é": "FIELD", "a.b": "A_B",
	} {
		if got := journal.Field(key); got != want {
			t.Errorf("Field(%q) = %q, want %q", key, got, want)
		}
	}
}
