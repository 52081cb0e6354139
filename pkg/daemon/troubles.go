package daemon

import (
	"maps"
	"slices"
	"sync"

	"go.uber.org/zap"

	"github.com/tandemd/tandem/pkg/replicate"
)

// troubles are the files of the state folder that cannot be read or written, the
// ledger among them, as long as that lasts. The daemon goes on without them; the log says it once, and status as
// long as it is so.
type troubles struct {
	log *zap.Logger

	mu     sync.Mutex
	byPath map[string]string
}

func newTroubles(log *zap.Logger) *troubles {
	return &troubles{log: log, byPath: map[string]string{}}
}

// note takes how the last attempt at a file went; nil: well.
func (t *troubles) note(path string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	was := t.byPath[path]
	switch {
	case err == nil && was != "":
		delete(t.byPath, path)
		t.log.Info("a state file is in order again", zap.String("file", path))
	case err != nil && err.Error() != was:
		t.byPath[path] = err.Error()
		t.log.Error("a state file is in trouble; tandemd goes on without it", zap.String("file", path), zap.Error(err),
			zap.String("hint", replicate.HintOf(err)))
	}
}

// lost tells of a file that was broken and set aside; what it held is gathered anew.
func (t *troubles) lost(path string, err error) {
	t.log.Warn("a state file was broken and begins anew; it was set aside", zap.String("file", path), zap.Error(err))
}

// list is one sentence for each file in trouble.
func (t *troubles) list() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Sorted(maps.Values(t.byPath))
}
