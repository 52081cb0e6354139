package identity

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/tandemd/tandem/pkg/statefile"
)

// Why a token is refused. The whole error is for the issuer's log; the one who asks
// is told what PublicError says, and nothing where there is none.
var (
	ErrTokenUnknown = errors.New("no such token was issued here")
	ErrTokenUsed    = errors.New("the token was used before")
	ErrTokenExpired = errors.New("the token has expired")
	ErrTokenRevoked = errors.New("the token was revoked")
)

// PublicError is an error of which a part may be told to the one who asks: it has
// shown the secret, or the fault is here.
type PublicError struct {
	Err  error
	Tell string
}

// Error is all of it, for the log.
func (e *PublicError) Error() string { return e.Err.Error() }

// Unwrap gives the error that the log gets.
func (e *PublicError) Unwrap() error { return e.Err }

// Public is what may be told.
func (e *PublicError) Public() string { return e.Tell }

const (
	// maxRecords bounds the file; tokens are made by people.
	maxRecords = 1000
	// keepClosed is how long tokens that cannot be used any more are told from
	// unknown ones.
	keepClosed = 30 * 24 * time.Hour
	maxTTL     = 365 * 24 * time.Hour
)

// Tokens is the issuer's record of the tokens it has given out. It holds no secret,
// only hashes. Its methods may be called concurrently.
type Tokens struct {
	path string

	mu      sync.Mutex
	records map[string]record // by token ID; what the file holds; nil: it could not be read
}

type record struct {
	// Hash is the SHA-256 of the secret, hex: 128 random bits need no slow hash.
	Hash string `json:"hash"`
	// Expires, Used and Revoked are in seconds since 1970, by the issuer's clock;
	// zero: not used, not revoked.
	Expires int64  `json:"expires"`
	Used    int64  `json:"used,omitempty"`
	UsedBy  string `json:"used_by,omitempty"`
	Revoked int64  `json:"revoked,omitempty"`
}

// outstanding says whether the token could still be redeemed.
func (r record) outstanding(now time.Time) bool {
	return r.Used == 0 && r.Revoked == 0 && now.Unix() < r.Expires
}

// Outstanding is a token that was given out and can still be redeemed.
type Outstanding struct {
	ID      string
	Expires time.Time
}

// OpenTokens reads the record at path, or starts an empty one where there is no file.
// Where the file is broken it returns the error and the Tokens too: no token can be
// made or used then, and every method tries the file again and says the same, until
// somebody has repaired it or moved it away.
func OpenTokens(path string) (*Tokens, error) {
	t := &Tokens{path: path}
	return t, t.load()
}

// load reads the file unless that was done. The caller holds the lock.
func (t *Tokens) load() error {
	if t.records != nil {
		return nil
	}
	records := map[string]record{}
	err := statefile.Read(t.path, &records)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = nil
	case err == nil && records == nil:
		err = &statefile.BrokenError{Path: t.path, Reason: "it holds no list of tokens"}
	}
	if err == nil {
		t.records = records
		return nil
	}
	if broken, ok := errors.AsType[*statefile.BrokenError](err); ok {
		broken.Advice = "move " + t.path + " away and make new tokens: what is lost with it are the tokens that were made here and not used yet"
	}
	return fmt.Errorf("join tokens: %w", err)
}

// Mint makes a token that can be redeemed once, here, until ttl has passed.
func (t *Tokens) Mint(now time.Time, ttl time.Duration, issuer Issuer) (Token, error) {
	if ttl < time.Second || ttl > maxTTL {
		return Token{}, fmt.Errorf("join token: %v is no lifetime for it: must be from 1s to %v", ttl, maxTTL)
	}
	token := Token{Issuer: issuer, ID: randomHex(tokenIDSize), Expires: now.Add(ttl).UTC().Truncate(time.Second)}
	if err := issuer.validate(); err != nil {
		return Token{}, fmt.Errorf("join token: %w", err)
	}
	if token.Expires.Unix() < 0 {
		return Token{}, fmt.Errorf("join token: the clock says %v; set it first", now)
	}
	_, _ = rand.Read(token.secret[:])

	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.load(); err != nil {
		return Token{}, err
	}
	next := maps.Clone(t.records)
	maps.DeleteFunc(next, func(_ string, r record) bool {
		return now.Unix() > r.Expires+int64(keepClosed/time.Second)
	})
	if len(next) >= maxRecords {
		return Token{}, fmt.Errorf("join token: %d were issued here in the last weeks, which is the limit; use one of them, or another member", len(next))
	}
	next[token.ID] = record{Hash: token.hash(), Expires: token.Expires.Unix()}
	if err := t.save(next); err != nil {
		return Token{}, err
	}
	return token, nil
}

// Redeem burns the token: when it returns nil, that is on disk and no other call
// has or will. by is the key that used it, for the record. It returns
// ErrTokenUnknown (also for text that is no token), ErrTokenUsed, ErrTokenRevoked,
// ErrTokenExpired, or what went wrong on disk; then nothing was given away.
func (t *Tokens) Redeem(now time.Time, text, by string) error {
	token, err := ParseToken(text)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrTokenUnknown, err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.load(); err != nil {
		return &PublicError{err, "that member cannot look at its tokens, and its log tells why; use another member"}
	}
	r, found := t.records[token.ID]
	// The secret comes first: who does not have it learns nothing of the rest.
	if subtle.ConstantTimeCompare([]byte(r.Hash), []byte(token.hash())) != 1 || !found {
		return ErrTokenUnknown
	}
	if err := r.closed(now); err != nil {
		return fmt.Errorf("token %s: %w", token.ID, err)
	}
	r.Used, r.UsedBy = max(1, now.Unix()), by
	if err := t.put(token.ID, r); err != nil {
		return &PublicError{err, "that member cannot write down that it is used, and its log tells why; until then it can be used again"}
	}
	return nil
}

// closed is why a token cannot be redeemed; nil where it can.
func (r record) closed(now time.Time) error {
	var cause error
	var at int64
	var by string
	switch {
	case r.Used != 0:
		cause, at, by = ErrTokenUsed, r.Used, " by the key "+r.UsedBy
	case r.Revoked != 0:
		cause, at = ErrTokenRevoked, r.Revoked
	case !r.outstanding(now):
		cause, at = ErrTokenExpired, r.Expires
	default:
		return nil
	}
	date := time.Unix(at, 0).UTC().Format(time.RFC3339)
	return &PublicError{
		Err:  fmt.Errorf("%w, on %s%s", cause, date, by),
		Tell: fmt.Sprintf("%v, on %s by the clock of the member that made it; make a new one with `tandem cluster token`", cause, date),
	}
}

// List is the tokens that could be redeemed at the time now, the one that expires
// first being first.
func (t *Tokens) List(now time.Time) ([]Outstanding, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.load(); err != nil {
		return nil, err
	}
	var out []Outstanding
	for id, r := range t.records {
		if r.outstanding(now) {
			out = append(out, Outstanding{ID: id, Expires: time.Unix(r.Expires, 0).UTC()})
		}
	}
	slices.SortFunc(out, func(a, b Outstanding) int {
		return cmp.Or(a.Expires.Compare(b.Expires), cmp.Compare(a.ID, b.ID))
	})
	return out, nil
}

// Revoke makes an outstanding token useless: when it returns nil, that is on disk.
// It returns ErrTokenUnknown, ErrTokenUsed, ErrTokenRevoked or ErrTokenExpired where
// there is nothing to revoke.
func (t *Tokens) Revoke(now time.Time, id string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.load(); err != nil {
		return err
	}
	r, found := t.records[id]
	if !found {
		return fmt.Errorf("token %q: %w; tokens are listed and revoked at the node that made them", id, ErrTokenUnknown)
	}
	if err := r.closed(now); err != nil {
		return fmt.Errorf("token %s: %w", id, err)
	}
	r.Revoked = max(1, now.Unix())
	return t.put(id, r)
}

// put changes one record, on disk before it returns.
func (t *Tokens) put(id string, r record) error {
	next := maps.Clone(t.records)
	next[id] = r
	return t.save(next)
}

// save makes next the record; on failure the old one stays.
func (t *Tokens) save(next map[string]record) error {
	if err := statefile.Write(t.path, next); err != nil {
		return fmt.Errorf("join tokens: %w", err)
	}
	t.records = next
	return nil
}

func (t Token) hash() string {
	sum := sha256.Sum256(t.secret[:])
	return hex.EncodeToString(sum[:])
}
