// Package identity keeps who this node is: its permanent random ID, its key with
// the certificate that carries it, and the join tokens that it has given out.
//
// There is no certificate authority and nothing expires: a member is known by the
// fingerprint of its key, which the ledger lists. This package opens no connection
// and knows no member but itself; the daemon calls it and hands the values on.
package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
	"github.com/tandemd/tandem/pkg/statefile"
)

// fileName holds ID, key and certificate together, so that they are made and
// replaced in one step and no file of theirs can be missing alone.
const fileName = "node.json"

// Identity is what makes this node itself. The private key is in Certificate.
type Identity struct {
	Node        guest.NodeID
	Certificate tls.Certificate
	// Fingerprint is the SHA-256 of the key's SubjectPublicKeyInfo, 64 hex digits.
	Fingerprint string
}

type stored struct {
	Node        guest.NodeID `json:"node"`
	Fingerprint string       `json:"fingerprint"`
	Certificate string       `json:"certificate"`
	Key         string       `json:"key"`
}

// Load reads the identity in the folder dir. Where there is none the error matches
// fs.ErrNotExist; a damaged one gives a *statefile.BrokenError.
func Load(dir string) (Identity, error) {
	path := filepath.Join(dir, fileName)
	var s stored
	err := statefile.Read(path, &s)
	if err == nil {
		var id Identity
		if id, err = s.identity(); err == nil {
			return id, nil
		}
		err = &statefile.BrokenError{Path: path, Reason: err.Error()}
	}
	if broken, ok := errors.AsType[*statefile.BrokenError](err); ok {
		broken.Advice = lostAdvice(dir)
	}
	return Identity{}, fmt.Errorf("node identity: %w", err)
}

// lostAdvice is for who has lost the key, and with it this node's place in the
// cluster: nobody else has it.
func lostAdvice(dir string) string {
	return fmt.Sprintf("restore %s, which holds this node's ID and key, from a backup; without one move all of %s away,"+
		" which makes this a new node, remove the old one on a member with `tandem cluster remove`, and join again",
		fileName, dir)
}

// LostError says that a folder holds a node's state and not its identity.
type LostError struct {
	Dir string
	// Found is what is there, that only a node with an identity writes.
	Found string
}

// Error names both files.
func (e *LostError) Error() string {
	return fmt.Sprintf("node identity: %s is missing, while %s is there: a new identity would not fit to it", filepath.Join(e.Dir, fileName), e.Found)
}

// Hint tells the operator what to do about it.
func (e *LostError) Hint() string { return lostAdvice(e.Dir) }

// LoadOrCreate reads the identity in dir, or makes a new one where there is none. A
// broken file is an error and stays as it is; so is a missing one (*LostError) where
// one of the files named by others, which are in dir too, tells that there was one.
func LoadOrCreate(dir string, others ...string) (Identity, error) {
	id, err := Load(dir)
	if !errors.Is(err, fs.ErrNotExist) {
		return id, err
	}
	for _, other := range others {
		path := filepath.Join(dir, other)
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return Identity{}, &LostError{Dir: dir, Found: path}
		}
	}
	s, err := create()
	if err != nil {
		return Identity{}, fmt.Errorf("make a node identity: %w", err)
	}
	if err := statefile.Write(filepath.Join(dir, fileName), s); err != nil {
		return Identity{}, fmt.Errorf("keep the node identity: %w", err)
	}
	return Load(dir)
}

func (s stored) identity() (Identity, error) {
	if err := s.Node.Validate(); err != nil {
		return Identity{}, err
	}
	cert, err := tls.X509KeyPair([]byte(s.Certificate), []byte(s.Key))
	if err != nil {
		return Identity{}, fmt.Errorf("key and certificate: %w", err)
	}
	if got := fingerprint(cert.Leaf); got != s.Fingerprint {
		return Identity{}, fmt.Errorf("its key has the fingerprint %s, not %s", got, s.Fingerprint)
	}
	return Identity{Node: s.Node, Certificate: cert, Fingerprint: s.Fingerprint}, nil
}

func create() (stored, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return stored{}, err
	}
	node := guest.NodeID(randomHex(16))
	// The dates mean nothing: nobody looks at them, and clocks may be years off.
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "tandem node " + string(node)},
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Date(9999, time.December, 31, 23, 59, 59, 0, time.UTC),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return stored{}, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return stored{}, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return stored{}, err
	}
	return stored{
		Node:        node,
		Fingerprint: fingerprint(cert),
		Certificate: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		Key:         string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})),
	}, nil
}

func fingerprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// randomHex is n random bytes; crypto/rand never fails on Linux.
func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}
