package identity_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tandemd/tandem/pkg/identity"
	"github.com/tandemd/tandem/pkg/statefile"
)

const joiner = "the joiner's fingerprint"

func issuer() identity.Issuer {
	return identity.Issuer{
		Addresses:   []string{"192.0.2.1:7947", "[2001:db8::1]:7947", "n1.example.org:7947"},
		Fingerprint: strings.Repeat("0123456789abcdef", 4),
	}
}

func start() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

func open(t *testing.T, path string) *identity.Tokens {
	t.Helper()
	tokens, err := identity.OpenTokens(path)
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}

func mint(t *testing.T, tokens *identity.Tokens, ttl time.Duration) identity.Token {
	t.Helper()
	token, err := tokens.Mint(start(), ttl, issuer())
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestToken_TextCarriesWhereAndWhom(t *testing.T) {
	token := mint(t, open(t, filepath.Join(t.TempDir(), "tokens.json")), time.Hour)
	got, err := identity.ParseToken("  " + token.String() + "\n")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(token, got, cmpopts.IgnoreUnexported(identity.Token{})); diff != "" {
		t.Errorf("parsed token differs (-want +got):\n%s", diff)
	}
	if got.String() != token.String() {
		t.Error("the text of the parsed token is another one")
	}
	if !got.Expires.Equal(start().Add(time.Hour)) {
		t.Errorf("expires %v, want an hour after %v", got.Expires, start())
	}
}

func TestParseToken_EveryMistypedTokenIsNoticed(t *testing.T) {
	text := mint(t, open(t, filepath.Join(t.TempDir(), "tokens.json")), time.Hour).String()
	for i := range text {
		other := byte('A')
		if text[i] == other {
			other = 'B'
		}
		wrong := text[:i] + string(other) + text[i+1:]
		if _, err := identity.ParseToken(wrong); err == nil {
			t.Errorf("character %d changed: not noticed", i)
		} else if strings.Contains(err.Error(), wrong) {
			t.Errorf("the error repeats the secret: %v", err)
		}
		if _, err := identity.ParseToken(text[:i]); err == nil {
			t.Errorf("cut at %d: not noticed", i)
		}
	}
}

func TestTokens_RedeemedOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens.json")
	tokens := open(t, path)
	text := mint(t, tokens, time.Hour).String()
	other := mint(t, tokens, time.Hour).String()
	if err := tokens.Redeem(start().Add(time.Minute), text, joiner); err != nil {
		t.Fatal(err)
	}
	err := tokens.Redeem(start().Add(time.Minute), text, joiner)
	if !errors.Is(err, identity.ErrTokenUsed) || !strings.Contains(err.Error(), joiner) {
		t.Errorf("second use: got %v, want ErrTokenUsed that names the first user", err)
	}
	// It was burnt on disk, not only in memory.
	if err := open(t, path).Redeem(start().Add(time.Minute), text, joiner); !errors.Is(err, identity.ErrTokenUsed) {
		t.Errorf("use after a restart: got %v, want ErrTokenUsed", err)
	}
	if err := open(t, path).Redeem(start().Add(time.Minute), other, joiner); err != nil {
		t.Errorf("the other token, after a restart: %v", err)
	}
}

func TestTokens_OnlyOneOfManyWins(t *testing.T) {
	tokens := open(t, filepath.Join(t.TempDir(), "tokens.json"))
	text := mint(t, tokens, time.Hour).String()
	var won atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if tokens.Redeem(start(), text, joiner) == nil {
				won.Add(1)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d of 8 redeemed the token, want 1", won.Load())
	}
}

func TestTokens_Refusals(t *testing.T) {
	dir := t.TempDir()
	tokens := open(t, filepath.Join(dir, "tokens.json"))
	token := mint(t, tokens, time.Hour)
	elsewhere := mint(t, open(t, filepath.Join(dir, "elsewhere.json")), time.Hour)
	for name, tc := range map[string]struct {
		at   time.Time
		text string
		want error
	}{
		"expired":        {start().Add(time.Hour), token.String(), identity.ErrTokenExpired},
		"of another":     {start(), elsewhere.String(), identity.ErrTokenUnknown},
		"not a token":    {start(), "tandem1-????", identity.ErrTokenUnknown},
		"empty":          {start(), "", identity.ErrTokenUnknown},
		"of another age": {start(), "tandem9-AAAA", identity.ErrTokenUnknown},
	} {
		if err := tokens.Redeem(tc.at, tc.text, joiner); !errors.Is(err, tc.want) {
			t.Errorf("%s: got %v, want %v", name, err, tc.want)
		}
	}
	if err := tokens.Redeem(start().Add(59*time.Minute), token.String(), joiner); err != nil {
		t.Errorf("the good one, afterwards: %v", err)
	}
}

// Who knows a token's ID (it is in logs) but not its secret gets nothing, and does not learn
// whether it was used.
func TestTokens_SecretOfAnotherToken(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "tokens.json")
	tokens := open(t, path)
	token := mint(t, tokens, time.Hour)
	stolen := mint(t, open(t, filepath.Join(dir, "elsewhere.json")), time.Hour)
	stolen.ID = token.ID
	if err := tokens.Redeem(start(), stolen.String(), joiner); !errors.Is(err, identity.ErrTokenUnknown) {
		t.Errorf("got %v, want ErrTokenUnknown", err)
	}
}

func TestTokens_NoSecretOnDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens.json")
	text := mint(t, open(t, path), time.Hour).String()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := len("tandem1-"); n+20 <= len(text); n += 20 {
		if strings.Contains(string(data), text[n:n+20]) {
			t.Error("the file holds a part of the token's text")
		}
	}
}

func TestTokens_NotBurntIsNotRedeemed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens.json")
	tokens := open(t, path)
	text := mint(t, tokens, time.Hour).String()
	if err := os.MkdirAll(filepath.Join(path+".new", "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := tokens.Redeem(start(), text, joiner); err == nil {
		t.Fatal("redeemed without writing it down")
	}
	if err := os.RemoveAll(path + ".new"); err != nil {
		t.Fatal(err)
	}
	if err := tokens.Redeem(start(), text, joiner); err != nil {
		t.Errorf("once the disk works again: %v", err)
	}
}

// A broken file blocks tokens, and nothing else, until somebody has looked after it.
func TestTokens_BrokenFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens.json")
	text := mint(t, open(t, path), time.Hour).String()
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, good[1:], 0o600); err != nil {
		t.Fatal(err)
	}
	tokens, err := identity.OpenTokens(path)
	_, mintErr := tokens.Mint(start(), time.Hour, issuer())
	_, listErr := tokens.List(start())
	for what, err := range map[string]error{
		"open": err, "mint": mintErr, "redeem": tokens.Redeem(start(), text, joiner), "list": listErr, "revoke": tokens.Revoke(start(), "x"),
	} {
		broken, _ := errors.AsType[*statefile.BrokenError](err)
		if broken == nil || broken.Path != path || !strings.Contains(broken.Hint(), "move "+path+" away") {
			t.Errorf("%s: got %v, want a BrokenError that says what to do with %s", what, err, path)
		}
	}
	if after, _ := os.ReadFile(path); !cmp.Equal(after, good[1:]) {
		t.Error("the broken file was changed")
	}
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := tokens.Redeem(start(), text, joiner); err != nil {
		t.Errorf("after the repair: %v", err)
	}
}

func TestTokens_ListedAndRevoked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens.json")
	tokens := open(t, path)
	long, short, used, expired := mint(t, tokens, 3*time.Hour), mint(t, tokens, 2*time.Hour), mint(t, tokens, time.Hour), mint(t, tokens, time.Minute)
	now := start().Add(2 * time.Minute)
	if err := tokens.Redeem(now, used.String(), joiner); err != nil {
		t.Fatal(err)
	}
	want := []identity.Outstanding{{ID: short.ID, Expires: short.Expires}, {ID: long.ID, Expires: long.Expires}}
	got, err := tokens.List(now)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("listed (-want +got):\n%s%v", diff, err)
	}
	if err := tokens.Revoke(now, short.ID); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]error{
		short.ID: identity.ErrTokenRevoked, used.ID: identity.ErrTokenUsed, expired.ID: identity.ErrTokenExpired, "none": identity.ErrTokenUnknown,
	} {
		if err := tokens.Revoke(now, id); !errors.Is(err, want) || !strings.Contains(err.Error(), id) {
			t.Errorf("revoke %s: got %v, want %v", id, err, want)
		}
	}
	// It was revoked on disk, not only in memory.
	tokens = open(t, path)
	if err := tokens.Redeem(now, short.String(), joiner); !errors.Is(err, identity.ErrTokenRevoked) {
		t.Errorf("a revoked token: got %v, want ErrTokenRevoked", err)
	}
	if got, err := tokens.List(now); err != nil || len(got) != 1 || got[0].ID != long.ID {
		t.Errorf("listed afterwards: %+v, %v", got, err)
	}
}

// Who shows the secret of a token that cannot be used any more may know why; of who used
// it, and to all others, nothing is told.
func TestTokens_WhatTheOneWhoAsksMayKnow(t *testing.T) {
	dir := t.TempDir()
	tokens := open(t, filepath.Join(dir, "tokens.json"))
	used, expired, good := mint(t, tokens, time.Hour), mint(t, tokens, time.Minute), mint(t, tokens, time.Hour)
	elsewhere := mint(t, open(t, filepath.Join(dir, "elsewhere.json")), time.Hour)
	now := start().Add(2 * time.Minute)
	if err := tokens.Redeem(now, used.String(), joiner); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "tokens.json.new", "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct{ text, tells string }{
		"used":         {used.String(), "the token was used before, on 2026-03-01T12:02:00Z"},
		"expired":      {expired.String(), "the token has expired, on 2026-03-01T12:01:00Z"},
		"of another":   {elsewhere.String(), ""},
		"disk is full": {good.String(), "cannot write down"},
	} {
		err := tokens.Redeem(now, tc.text, joiner)
		public, _ := errors.AsType[*identity.PublicError](err)
		switch {
		case err == nil:
			t.Errorf("%s: redeemed", name)
		case tc.tells == "" && public != nil:
			t.Errorf("%s: a stranger is told %q", name, public.Public())
		case tc.tells != "" && (public == nil || !strings.Contains(public.Public(), tc.tells) || strings.Contains(public.Public(), joiner)):
			t.Errorf("%s: got %v, want %q to be told", name, err, tc.tells)
		}
	}
}

// Terminals break long lines, and mails indent them.
func TestParseToken_WhiteSpaceDoesNotMatter(t *testing.T) {
	token := mint(t, open(t, filepath.Join(t.TempDir(), "tokens.json")), time.Hour)
	text := token.String()
	for _, spaced := range []string{
		"\t " + text + "\r\n", text[:50] + "\n" + text[50:], text[:8] + " \r\n    " + text[8:90] + "\n" + text[90:],
	} {
		got, err := identity.ParseToken(spaced)
		if err != nil || got.String() != text {
			t.Errorf("%q: %v", spaced, err)
		}
	}
	if _, err := identity.ParseToken(text + strings.Repeat(" ", 1<<20)); err == nil {
		t.Error("a megabyte was looked at")
	}
}

// FuzzTokenRecord: whatever a file with a good checksum holds, nothing in it makes a
// token of somebody else's good.
func FuzzTokenRecord(f *testing.F) {
	dir := f.TempDir()
	tokens, err := identity.OpenTokens(filepath.Join(dir, "mine.json"))
	if err != nil {
		f.Fatal(err)
	}
	mine, err := tokens.Mint(start(), time.Hour, issuer())
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(`{"` + mine.ID + `":{"hash":"","expires":1772370000}}`))
	f.Add([]byte(`{"` + mine.ID + `":{"expires":9e18,"used":-1,"revoked":1}}`))
	f.Add([]byte(`null`))
	path := filepath.Join(dir, "tokens.json")
	f.Fuzz(func(t *testing.T, body []byte) {
		if !json.Valid(body) {
			return
		}
		if err := statefile.Write(path, json.RawMessage(body)); err != nil {
			t.Fatal(err)
		}
		tokens, _ := identity.OpenTokens(path)
		if _, err := tokens.List(start()); err != nil {
			if _, ok := errors.AsType[*statefile.BrokenError](err); !ok {
				t.Errorf("got %v, want a BrokenError", err)
			}
		}
		_ = tokens.Revoke(start(), mine.ID)
		if tokens.Redeem(start(), mine.String(), joiner) == nil {
			t.Error("redeemed a token whose hash the file cannot hold")
		}
	})
}

func TestTokens_MintRefusesNonsense(t *testing.T) {
	tokens := open(t, filepath.Join(t.TempDir(), "tokens.json"))
	good := issuer()
	for name, tc := range map[string]struct {
		ttl    time.Duration
		issuer identity.Issuer
		says   string
	}{
		"no lifetime":   {0, good, "lifetime"},
		"for ever":      {10 * 365 * 24 * time.Hour, good, "lifetime"},
		"no address":    {time.Hour, identity.Issuer{Fingerprint: good.Fingerprint}, "address"},
		"no port":       {time.Hour, identity.Issuer{Addresses: []string{"n1"}, Fingerprint: good.Fingerprint}, `"n1"`},
		"port 0":        {time.Hour, identity.Issuer{Addresses: []string{"n1:0"}, Fingerprint: good.Fingerprint}, `"n1:0"`},
		"no key":        {time.Hour, identity.Issuer{Addresses: good.Addresses}, "fingerprint"},
		"key too short": {time.Hour, identity.Issuer{Addresses: good.Addresses, Fingerprint: "abcd"}, `"abcd"`},
	} {
		if _, err := tokens.Mint(start(), tc.ttl, tc.issuer); err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: got %v, want an error about %s", name, err, tc.says)
		}
	}
}

func FuzzParseToken(f *testing.F) {
	tokens, err := identity.OpenTokens(filepath.Join(f.TempDir(), "tokens.json"))
	if err != nil {
		f.Fatal(err)
	}
	token, err := tokens.Mint(start(), time.Hour, issuer())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(token.String())
	f.Add("tandem1-")
	f.Fuzz(func(t *testing.T, text string) {
		token, err := identity.ParseToken(text)
		if err != nil {
			return
		}
		again, err := identity.ParseToken(token.String())
		if err != nil || !cmp.Equal(token, again, cmpopts.IgnoreUnexported(identity.Token{})) {
			t.Errorf("%q parses but does not come back: %v", text, err)
		}
	})
}
