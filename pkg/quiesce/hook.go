package quiesce

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/hook"
)

// maxSaid is how much of what a hook said goes into an error.
const maxSaid = 500

// runHook calls an operator's hook with what to do and the guest's ID. Its output is in
// the error.
func runHook(ctx context.Context, path, verb string, id guest.ID) error {
	if err := hook.Check(path); err != nil {
		return fmt.Errorf("%w: hook %s: %w", errUntouched, path, err)
	}
	said, err := hook.Run(ctx, hook.Call{Path: path, Args: []string{verb, id.String()}})
	if err == nil {
		return nil
	}
	text := fmt.Sprintf("hook %s %s %s: %v", path, verb, id, err)
	if said = strings.ToValidUTF8(said[max(0, len(said)-maxSaid):], ""); said != "" {
		text += "; it said: " + strings.ReplaceAll(said, "\n", " ")
	}
	return errors.New(text)
}
