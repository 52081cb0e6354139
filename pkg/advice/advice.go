// Package advice finds what an operator can do about an error, whichever part of
// Tandem it comes from: an error that knows has a method for it. It is not about
// codes and classes, which belong to those who decide by them.
package advice

import "errors"

// Of is the advice of the first error in the chain that tells one, or empty. Errors
// with a field Hint tell it by ErrorHint, the others by Hint.
func Of(err error) string {
	if e, ok := errors.AsType[interface {
		error
		ErrorHint() string
	}](err); ok && e.ErrorHint() != "" {
		return e.ErrorHint()
	}
	if e, ok := errors.AsType[interface {
		error
		Hint() string
	}](err); ok {
		return e.Hint()
	}
	return ""
}
