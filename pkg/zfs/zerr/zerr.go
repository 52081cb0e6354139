// Package zerr knows what zfs means by what it prints on stderr: the table of texts, their classes, and what an operator can do.
// pkg/zfs shows it as its own Error and Class; the in-memory pool makes its errors from the same texts.
package zerr

import (
	"errors"
	"fmt"
	"strings"
)

// Class says what kind of failure an [Error] is. It is an error itself, so that errors.Is(err, zerr.Gone) works.
type Class string

// The classes. Texts that lead to each are in [Classify].
const (
	// Diverged: the target holds data that the stream does not build on.
	Diverged Class = "diverged"
	// Partial: an interrupted receive is in the way; resume or abort it.
	Partial Class = "partial"
	// Token: the resume token fits nothing any more; abort the receive and send an increment.
	Token Class = "token"
	// Gone: the dataset, snapshot or bookmark does not exist, and its pool does.
	Gone Class = "gone"
	// Exists: something of that name exists already.
	Exists Class = "exists"
	// Stream: the stream was cut or damaged.
	Stream Class = "stream"
	// Space: pool full or quota reached.
	Space Class = "space"
	// Busy: in use for now.
	Busy Class = "busy"
	// Held: a snapshot has a hold.
	Held Class = "held"
	// Clones: a clone depends on a snapshot, or names clash in a promote.
	Clones Class = "clones"
	// Feature: the two sides' ZFS cannot exchange this stream.
	Feature Class = "feature"
	// Key: an encryption key is not loaded or not the same.
	Key Class = "key"
	// Pool: the pool is suspended. What is wrong with a pool as a whole is a Pool too.
	Pool Class = "pool"
	// PoolReadOnly: the pool is imported read-only. It is also a Pool.
	PoolReadOnly Class = "pool readonly"
	// PoolAbsent: the pool is not imported. It is also a Pool, and never a Gone: nothing is known of the volumes.
	PoolAbsent Class = "pool absent"
	// BadArg: zfs refused the arguments or the fit of stream and target.
	BadArg Class = "bad argument"
	// Peer: the cause is at the other end of the stream.
	Peer Class = "peer"
	// Hung: no answer within the deadline; the child may still be there.
	Hung Class = "hung"
	// Canceled: the caller's context ended it.
	Canceled Class = "canceled"
	// Refused: refused here, before anything was run.
	Refused Class = "refused"
	// Unknown: a text that nobody classified: stop that volume, show the full text, keep the others going.
	Unknown Class = "unknown"
)

// Error makes a Class a target for errors.Is.
func (c Class) Error() string { return "zfs: " + string(c) }

// Outlook says what can follow a failure.
type Outlook string

// The outlooks.
const (
	// OutlookLater: the same call may work later.
	OutlookLater Outlook = "later"
	// OutlookReplan: look at the disks again and choose other steps.
	OutlookReplan Outlook = "replan"
	// OutlookPerson: it stays until a person acts.
	OutlookPerson Outlook = "person"
)

// Outlook of a failure of this class.
func (c Class) Outlook() Outlook {
	switch c {
	case Busy, Space, Peer, Hung, Canceled, Pool, PoolAbsent, PoolReadOnly:
		return OutlookLater
	case Partial, Token, Gone, Exists, Stream, Diverged, Held, Clones:
		return OutlookReplan
	case Feature, Key, BadArg, Refused, Unknown:
		return OutlookPerson
	}
	return OutlookPerson
}

// Error is a failed operation.
type Error struct {
	// Op is what was run: "receive", "list".
	Op string
	// Dataset is the first name it was about; empty if none.
	Dataset string
	Class   Class
	// Stderr is what zfs said, whitespace normalised, at most 4 KiB of it: the beginning, which says what is the matter, and the
	// end; may be empty.
	Stderr string
	// Exit is the exit code; -1 where no process ended with one.
	Exit int
	// Err is the cause where it is not zfs's own text: a context's cause, the error of the stream's reader, a refusal.
	Err error
}

// New classifies what a process said on stderr. The in-memory pool makes its errors by it too.
func New(op, dataset string, exit int, stderr string) *Error {
	return &Error{Op: op, Dataset: dataset, Class: Classify(stderr), Stderr: Normalise(stderr), Exit: exit}
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Dataset != "" {
		b.WriteString(" " + e.Dataset)
	}
	if e.Err != nil {
		b.WriteString(": " + e.Err.Error())
	}
	if e.Stderr != "" {
		b.WriteString(": " + e.Stderr)
	}
	if e.Err == nil && e.Stderr == "" {
		fmt.Fprintf(&b, ": exit code %d and no message", e.Exit)
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is matches the class; a pool that is absent is also a failure of the pool.
func (e *Error) Is(target error) bool {
	var class Class
	if !errors.As(target, &class) {
		return false
	}
	return e.Class == class || class == Pool && (e.Class == PoolAbsent || e.Class == PoolReadOnly)
}

// Of returns the class of err: empty for nil, Unknown for an error that is none of this package.
func Of(err error) Class {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Class
	}
	return Unknown
}

// Hint is what the operator can do, or empty.
func (e *Error) Hint() string {
	switch e.Class {
	case Diverged:
		return "the target was written to, or another tool changed its snapshots; nothing there was overwritten"
	case Partial, Token:
		return "an interrupted transfer is in the way; the next run resumes or replaces it"
	case Gone:
		return "check with `zfs list -t all` whether it was renamed or destroyed"
	case Exists:
		return "something else has that name; rename or destroy it if it is not needed"
	case Stream:
		return "the transfer was cut or damaged; it is resumed; if this repeats, check network, memory and `zpool status` on both nodes"
	case Space:
		return "free space on the pool, or raise the dataset's quota"
	case Busy:
		return "something uses it; see `fuser -m`, `zfs holds`, and running transfers"
	case Held:
		return "see `zfs holds`; release the hold if it is not needed"
	case Clones:
		return "a clone depends on it; see `zfs get origin,clones`"
	case Feature:
		return "the nodes' ZFS versions or pool features differ; compare `zfs version` and `zpool get all` on both"
	case Key:
		return "load the key with `zfs load-key`"
	case Pool:
		return "see `zpool status`; once the disks are back: `zpool clear`"
	case PoolReadOnly:
		return "export the pool and import it without readonly=on"
	case PoolAbsent:
		return "import the pool: `zpool import`; see `zpool status`"
	case BadArg:
		return "the stream does not fit the target, or a name is not allowed; an upgrade is hardly ever the cure, whatever the message says"
	case Peer:
		return "the cause is on the other node; see its log"
	case Hung:
		return "zfs does not answer: see `zpool status` and the kernel's log; a pool that hangs for good needs a reboot"
	case Canceled, Refused, Unknown:
		return ""
	}
	return ""
}

// Refuse makes the error of a check that failed before anything was run.
func Refuse(op, dataset string, err error) *Error {
	return &Error{Op: op, Dataset: dataset, Class: Refused, Exit: -1, Err: err}
}

// Suspended makes the error of a pool that answers nothing.
func Suspended(op, dataset, pool string) *Error {
	return &Error{Op: op, Dataset: dataset, Class: Pool, Exit: -1, Err: fmt.Errorf("pool %s is suspended: its disks do not answer", pool)}
}

// Absent makes the error of a pool that is not imported. Nothing is known of its datasets then.
func Absent(op, dataset, pool string) *Error {
	return &Error{Op: op, Dataset: dataset, Class: PoolAbsent, Exit: -1, Err: fmt.Errorf("pool %s is not imported", pool)}
}

// Normalise joins the lines and keeps at most 4 KiB: the first line says what is the matter, and a list of what is concerned
// or of how the command is used may follow it.
func Normalise(stderr string) string {
	const head, tail = 1 << 10, 3 << 10
	text := strings.Join(strings.Fields(strings.ToValidUTF8(stderr, "?")), " ")
	if len(text) > head+tail {
		text = strings.ToValidUTF8(text[:head], "") + " … " + strings.ToValidUTF8(text[len(text)-tail:], "")
	}
	return text
}

// phrase is a text of zfs and the class that it tells. All of its parts must be there.
type phrase struct {
	class Class
	parts []string
}

// phrases returns the table; the first that matches wins, so the more specific stand first.
// Every text was checked in the source of 2.1.11, 2.2.9, 2.3.9 and 2.4.4.
func phrases() []phrase {
	p := func(c Class, parts ...string) phrase { return phrase{c, parts} }
	return []phrase{
		p(Pool, "pool I/O is currently suspended"), p(PoolReadOnly, "pool is read-only"),
		p(PoolAbsent, "no such pool"), p(PoolAbsent, "modules are not loaded"),
		p(Partial, "contains partially-complete state"),
		p(Token, "used in the initial send no longer exists"), p(Token, "is no longer the same snapshot"),
		p(Token, "incremental source 0x"), p(Token, "resume token is corrupt ("), p(Token, "Resuming recv on existing"),
		// 2.3.9 says so of a resumed stream where nothing is to be resumed; the stream's features have no part in it.
		p(Token, "cannot receive resume stream: incompatible embedded data"),
		p(Diverged, "has been modified since most recent snapshot"), p(Diverged, "does not match incremental source"),
		p(Diverged, "IV set guid mismatch"),
		p(Feature, "pool must be upgraded to receive"), p(Feature, "unsupported feature"), p(Feature, "requires -L"),
		p(Feature, "incompatible embedded data stream"), p(Feature, "crypto parameters not compatible"),
		p(Feature, "cannot perform raw receive on top of"), p(Feature, "IV set guid missing"), p(Feature, "Spill block flag missing"),
		p(Key, "key must be loaded"), p(Key, "encryption key does not match"), p(Key, "failed to create encryption key"),
		p(Exists, "must specify -F to overwrite it"), p(Exists, "destination has snapshots (eg."),
		p(Exists, "is a clone must destroy it"), p(Exists, "destination already exists"), p(Exists, "dataset already exists"), p(Exists, "bookmark exists"),
		p(Exists, "tag already exists"),
		p(Space, "out of space"), p(Space, "space quota exceeded"),
		p(Held, "it's being held"),
		p(Clones, "has dependent clones"), p(Clones, "snapshot is cloned"), p(Clones, "conflicting snapshot"),
		p(Busy, "dataset is busy"), p(Busy, "pool or dataset is busy"),
		p(Peer, "signal received"), p(Peer, "Broken pipe"),
		p(Stream, "checksum mismatch"), p(Stream, "incomplete stream"), p(Stream, "failed to read from stream"),
		p(Stream, "bad magic number"), p(Stream, "invalid backup stream"),
		p(Gone, "dataset does not exist"), p(Gone, "parent does not exist"), p(Gone, "destination '", "' does not exist"),
		p(Gone, "incremental source (", ") does not exist"), p(Gone, "bookmark '", "' does not exist"),
		p(Gone, "could not find any snapshots to destroy"),
		p(BadArg, "kernel modules must be upgraded"), p(BadArg, "invalid name"), p(BadArg, "is not a filesystem"),
		p(BadArg, "multiple snapshots of same"), p(BadArg, "invalid parent dataset"), p(BadArg, "value too long"),
		p(BadArg, "invalid property '"),
		p(BadArg, "cannot be sent from a bookmark"), p(BadArg, "name is too long"), p(BadArg, "not an earlier snapshot"),
		p(BadArg, "is not earlier than it"),
		// A dry run where the base is gone: "Invalid cross-device link".
		p(Token, "cannot resume send:"),
	}
}

// Classify tells the class of what zfs printed on stderr (LC_ALL=C). Whitespace and line breaks do not matter.
func Classify(stderr string) Class {
	text := strings.Join(strings.Fields(stderr), " ")
	for _, p := range phrases() {
		if containsInOrder(text, p.parts) {
			return p.class
		}
	}
	return Unknown
}

func containsInOrder(text string, parts []string) bool {
	for _, part := range parts {
		_, rest, found := strings.Cut(text, part)
		if !found {
			return false
		}
		text = rest
	}
	return true
}
