// Package fault is how a sync fails: every error is classified once, says what
// was attempted and what an operator can do, and keeps its class over the wire.
// pkg/replicate and the packages below it return these errors.
package fault

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/tandemd/tandem/pkg/advice"
	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/plan"
	"github.com/tandemd/tandem/pkg/zfs"
	"github.com/tandemd/tandem/pkg/zfs/zerr"
)

// Class says what can follow a failed sync. It travels between nodes.
type Class string

// The classes.
const (
	// ClassRetry: a later run may succeed by itself.
	ClassRetry Class = "retry"
	// ClassPerson: it stays until somebody does what the hint says.
	ClassPerson Class = "person"
	// ClassNever: the request itself is wrong: no owner, another term, no such job.
	ClassNever Class = "never"
	// ClassBusy: it could not begin, which is no failure and passes soon: the guest
	// is locked (it is migrating), or the target's ledger is behind.
	ClassBusy Class = "busy"
	// ClassAgain: what the target has is not what the plan was made for: the same run
	// looks and plans again. It does not leave a run.
	ClassAgain Class = "again"
)

// Error is a failed sync or request.
type Error struct {
	Class Class
	// Volume is the one that it is about; zero where it is about all.
	Volume guest.Volume
	// Text says what failed; empty where Err says it.
	Text string
	// Hint says what an operator can do, or is empty.
	Hint string
	Err  error
}

func (e *Error) Error() string {
	text := e.Text
	switch {
	case e.Err != nil && text != "":
		text += ": " + e.Err.Error()
	case e.Err != nil:
		text = e.Err.Error()
	}
	if e.Volume != (guest.Volume{}) {
		return "volume " + e.Volume.String() + ": " + text
	}
	return text
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// ErrorCode is the class, for the wire.
func (e *Error) ErrorCode() string { return string(e.Class) }

// ErrorHint is the hint, for the wire.
func (e *Error) ErrorHint() string { return e.Hint }

// ClassOf is the class of any error. What nobody classified may pass by itself.
func ClassOf(err error) Class {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Class
	}
	if r, ok := errors.AsType[plan.Refusal](err); ok {
		switch {
		case r.Kind == plan.Former:
			return ClassBusy
		case r.Passing():
			return ClassRetry
		}
		return ClassPerson
	}
	if z, ok := errors.AsType[*zfs.Error](err); ok && (z.Class == zfs.ClassPool || z.Class == zfs.ClassPoolAbsent) {
		return ClassBusy // It is told as the pool's trouble, and what waits for the pool has not failed.
	}
	if z, ok := errors.AsType[*zfs.Error](err); ok && z.Class.Outlook() == zerr.OutlookPerson {
		return ClassPerson
	}
	var coded interface{ ErrorCode() string }
	if errors.As(err, &coded) {
		switch c := Class(coded.ErrorCode()); c {
		case ClassPerson, ClassNever, ClassRetry, ClassBusy, ClassAgain:
			return c
		}
	}
	return ClassRetry
}

// HintOf is what an operator can do about any error, or empty.
func HintOf(err error) string {
	if e, ok := errors.AsType[*Error](err); ok && e.Hint != "" {
		return e.Hint
	}
	if r, ok := errors.AsType[plan.Refusal](err); ok {
		return r.Hint
	}
	return advice.Of(err)
}

// Wrap says what was attempted and classifies; nil stays nil. An *Error that
// says all keeps its class, hint and volume.
func Wrap(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return &Error{Class: ClassOf(err), Text: fmt.Sprintf(format, args...), Hint: HintOf(err), Err: err}
}

// WrapVolume is Wrap for one volume.
func WrapVolume(v guest.Volume, err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return &Error{Class: ClassOf(err), Volume: v, Text: fmt.Sprintf(format, args...), Hint: HintOf(err), Err: err}
}

// Final makes any error an *Error, as Run promises.
func Final(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return &Error{Class: ClassRetry, Text: "the run was ended", Err: context.Cause(ctx)}
	}
	if e, ok := err.(*Error); ok { //nolint:errorlint // only the outermost will do
		return e
	}
	return &Error{Class: ClassOf(err), Hint: HintOf(err), Err: err}
}

// Retry makes an error that may pass by itself.
func Retry(hint, format string, args ...any) error {
	return &Error{Class: ClassRetry, Text: fmt.Sprintf(format, args...), Hint: hint}
}

// Busy makes the error of what could not begin, without a failure.
func Busy(hint, format string, args ...any) error {
	return &Error{Class: ClassBusy, Text: fmt.Sprintf(format, args...), Hint: hint}
}

// Again makes the error of a target that is not as the plan saw it.
func Again(format string, args ...any) error {
	return &Error{Class: ClassAgain, Text: fmt.Sprintf(format, args...)}
}

// Never makes the error of a request that is wrong.
func Never(hint, format string, args ...any) error {
	return &Error{Class: ClassNever, Text: fmt.Sprintf(format, args...), Hint: hint}
}

// Person makes the error of a volume that needs somebody.
func Person(v guest.Volume, hint, format string, args ...any) error {
	return &Error{Class: ClassPerson, Volume: v, Text: fmt.Sprintf(format, args...), Hint: hint}
}

// Worst is the error to report: one that needs a person before one that may pass,
// and that before one that is no failure. The others are told with it.
func Worst(errs []error) error {
	errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	if len(errs) < 2 {
		return errors.Join(errs...)
	}
	first := errs[0]
	for _, err := range errs {
		if ClassOf(err).severity() > ClassOf(first).severity() {
			first = err
		}
	}
	return &Error{Class: ClassOf(first), Hint: HintOf(first), Err: errors.Join(errs...)}
}

func (c Class) severity() int {
	switch c {
	case ClassPerson, ClassNever:
		return 2
	case ClassRetry:
		return 1
	case ClassBusy, ClassAgain:
	}
	return 0
}
