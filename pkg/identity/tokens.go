package identity

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"sync"
	"time"

	"github.com/tandemd/tandem/pkg/statefile"
)

// Why a token is refused. These are for the issuer's log: the one who asks gets the
// same answer for all of them.
var (
	ErrTokenUnknown = errors.New("no such token was issued here")
	ErrTokenUsed    = errors.New("the token was used before")
	ErrTokenExpired = errors.New("the token has expired")
)

const (
	// maxOpen bounds the file; tokens are made by people.
	maxOpen = 1000
	// keepClosed is how long used and expired tokens are told from unknown ones.
	keepClosed = 30 * 24 * time.Hour
	maxTTL     = 365 * 24 * time.Hour
)

// Tokens is the issuer's record of the tokens it has given out. It holds no secret,
// only hashes. Its methods may be called concurrently.
type Tokens struct {
	path string

	mu      sync.Mutex
	records map[string]record // by token ID; what the file holds
}

type record struct {
	// Hash is the SHA-256 of the secret, hex: 128 random bits need no slow hash.
	Hash    string `json:"hash"`
	Expires int64  `json:"expires"` // seconds since 1970
	Used    int64  `json:"used,omitempty"`
	UsedBy  string `json:"used_by,omitempty"`
}

// OpenTokens reads the record at path, or starts an empty one where there is no file.
func OpenTokens(path string) (*Tokens, error) {
	t := &Tokens{path: path, records: map[string]record{}}
	if err := statefile.Read(path, &t.records); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("join tokens: %w", err)
	}
	if t.records == nil {
		return nil, fmt.Errorf("join tokens: %w", &statefile.BrokenError{Path: path, Reason: "it holds no list of tokens"})
	}
	return t, nil
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
	next := maps.Clone(t.records)
	maps.DeleteFunc(next, func(_ string, r record) bool {
		return now.Unix() > r.Expires+int64(keepClosed/time.Second)
	})
	if len(next) >= maxOpen {
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
// ErrTokenUnknown (also for text that is no token), ErrTokenUsed, ErrTokenExpired,
// or what went wrong on disk; then nothing was given away.
func (t *Tokens) Redeem(now time.Time, text, by string) error {
	token, err := ParseToken(text)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrTokenUnknown, err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	r, found := t.records[token.ID]
	// The secret comes first: who does not have it learns nothing of the rest.
	if subtle.ConstantTimeCompare([]byte(r.Hash), []byte(token.hash())) != 1 || !found {
		return ErrTokenUnknown
	}
	switch {
	case r.Used != 0:
		return fmt.Errorf("token %s: %w, on %s by the key %s", token.ID, ErrTokenUsed, time.Unix(r.Used, 0).UTC().Format(time.RFC3339), r.UsedBy)
	case now.Unix() >= r.Expires:
		return fmt.Errorf("token %s: %w, on %s", token.ID, ErrTokenExpired, time.Unix(r.Expires, 0).UTC().Format(time.RFC3339))
	}
	r.Used, r.UsedBy = max(1, now.Unix()), by
	next := maps.Clone(t.records)
	next[token.ID] = r
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
