package advice_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/tandemd/tandem/pkg/advice"
)

type hinted string

func (hinted) Error() string  { return "failed" }
func (h hinted) Hint() string { return string(h) }

type field struct{ Hint string }

func (field) Error() string       { return "failed" }
func (f field) ErrorHint() string { return f.Hint }

func TestOf_FindsItWhoeverTellsIt(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want string
	}{
		{nil, ""},
		{errors.New("plain"), ""},
		{hinted("replace it"), "replace it"},
		{fmt.Errorf("wrapped: %w", field{"stop it"}), "stop it"},
		{errors.Join(field{}, hinted("replace it")), "replace it"},
		{errors.Join(hinted("replace it"), field{"stop it"}), "stop it"},
	} {
		if got := advice.Of(tc.err); got != tc.want {
			t.Errorf("%v: %q, want %q", tc.err, got, tc.want)
		}
	}
}
