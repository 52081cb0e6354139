package identity

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"net"
	"strconv"
	"strings"
	"time"
)

const (
	tokenPrefix  = "tandem1-"
	tokenIDSize  = 8
	secretSize   = 16
	sumSize      = 4
	maxAddresses = 8
	maxAddress   = 255
	// maxToken is longer than any token that Mint can make.
	maxToken = 4096
)

// Issuer is where a token can be redeemed and the key that must answer there.
type Issuer struct {
	// Addresses are of the peer port, HOST:PORT, tried in this order.
	Addresses []string
	// Fingerprint of the issuer's key, 64 hex digits.
	Fingerprint string
}

// Token lets one node join once. Whoever has its text can use it.
type Token struct {
	Issuer
	// ID names the token in logs and lists; it is no secret.
	ID      string
	Expires time.Time // whole seconds, UTC, by the issuer's clock
	secret  [secretSize]byte
}

// String is the text to hand over, secret included.
func (t Token) String() string {
	id, _ := hex.DecodeString(t.ID)
	key, _ := hex.DecodeString(t.Fingerprint)
	var b []byte
	b = append(b, id...)
	b = append(b, t.secret[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(t.Expires.Unix())) //nolint:gosec // checked to be positive
	b = append(b, key...)
	b = append(b, byte(len(t.Addresses)))
	for _, a := range t.Addresses {
		b = append(b, byte(len(a)))
		b = append(b, a...)
	}
	sum := sha256.Sum256(b)
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(append(b, sum[:sumSize]...))
}

// ParseToken reads what String made; white space, which a terminal or a mail put
// around or into it, does not matter. Its errors are for the person who typed it and
// never repeat the text.
func ParseToken(text string) (Token, error) {
	if len(text) > 2*maxToken {
		return Token{}, errors.New("join token: it is too long to be one")
	}
	text = strings.Join(strings.Fields(text), "")
	payload, found := strings.CutPrefix(text, tokenPrefix)
	switch {
	case text == "":
		return Token{}, errors.New("join token: it is empty; make one with `tandem cluster token` on a member")
	case len(text) > maxToken:
		return Token{}, errors.New("join token: it is too long to be one")
	case !found:
		return Token{}, fmt.Errorf("join token: it does not start with %q; copy the whole line that `tandem cluster token` printed", tokenPrefix)
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(payload)
	if err != nil || len(raw) < sumSize {
		return Token{}, errTokenDamaged()
	}
	body, sum := raw[:len(raw)-sumSize], raw[len(raw)-sumSize:]
	if want := sha256.Sum256(body); !bytes.Equal(sum, want[:sumSize]) {
		return Token{}, errTokenDamaged()
	}
	t, err := decodeToken(body)
	if err != nil {
		return Token{}, fmt.Errorf("join token: %w", err)
	}
	return t, nil
}

func errTokenDamaged() error {
	return errors.New("join token: it was cut or mistyped; copy the whole line that `tandem cluster token` printed")
}

func decodeToken(b []byte) (Token, error) {
	const fixed = tokenIDSize + secretSize + 8 + sha256.Size + 1
	if len(b) < fixed {
		return Token{}, errors.New("it is too short to be one")
	}
	var t Token
	t.ID, b = hex.EncodeToString(b[:tokenIDSize]), b[tokenIDSize:]
	copy(t.secret[:], b)
	b = b[secretSize:]
	expires := binary.BigEndian.Uint64(b)
	if expires > math.MaxInt32*1000 {
		return Token{}, errors.New("its time of expiry makes no sense")
	}
	t.Expires, b = time.Unix(int64(expires), 0).UTC(), b[8:] //nolint:gosec // checked above
	t.Fingerprint, b = hex.EncodeToString(b[:sha256.Size]), b[sha256.Size:]
	count, b := int(b[0]), b[1:]
	for range count {
		if len(b) < 1 || len(b) < 1+int(b[0]) {
			return Token{}, errors.New("its addresses are cut")
		}
		t.Addresses, b = append(t.Addresses, string(b[1:1+int(b[0])])), b[1+int(b[0]):]
	}
	if len(b) != 0 {
		return Token{}, errors.New("it has something after its end")
	}
	return t, t.validate()
}

func (i Issuer) validate() error {
	if b, err := hex.DecodeString(i.Fingerprint); err != nil || len(b) != sha256.Size || strings.ToLower(i.Fingerprint) != i.Fingerprint {
		return fmt.Errorf("fingerprint %q: not %d hex digits", i.Fingerprint, 2*sha256.Size)
	}
	if len(i.Addresses) == 0 || len(i.Addresses) > maxAddresses {
		return fmt.Errorf("%d addresses of the issuer: must be 1 to %d", len(i.Addresses), maxAddresses)
	}
	for _, a := range i.Addresses {
		host, port, err := net.SplitHostPort(a)
		if err != nil || host == "" || len(a) > maxAddress {
			return fmt.Errorf("address %q of the issuer: not HOST:PORT", a)
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return fmt.Errorf("address %q of the issuer: the port must be 1 to 65535", a)
		}
	}
	return nil
}
