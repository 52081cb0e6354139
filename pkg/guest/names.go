package guest

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// GenerationLen is how many hex digits name a generation of the ledger.
const GenerationLen = 16

const (
	nodeIDLen = 32
	maxLabel  = 63
)

// NodeID identifies a node for ever: 128 random bits in hex.
type NodeID string

// Validate refuses what is not 32 lower-case hex digits.
func (n NodeID) Validate() error {
	if !isHex(string(n), nodeIDLen) {
		return fmt.Errorf("node ID %q: must be %d hex digits", string(n), nodeIDLen)
	}
	return nil
}

// Short is the beginning of the ID, for people.
func (n NodeID) Short() string { return string(n[:min(8, len(n))]) }

// NodeName is the name of a node as people write it: one label of a host name.
type NodeName string

// ParseNodeName reads a name of letters, digits and inner hyphens (RFC 1123), at most 63 long.
func ParseNodeName(s string) (NodeName, error) {
	if !isLabel(s) {
		return "", fmt.Errorf("node name %q: must be 1 to %d of a-z, 0-9 and inner hyphens", s, maxLabel)
	}
	return NodeName(s), nil
}

// Volume is a disk or a filesystem of a guest, `STORAGE:NAME`; every node maps
// the storage to a dataset of its own.
type Volume struct {
	Storage string
	Name    string
}

// maxVolumeName leaves room in ZFS's limit of 255 bytes for the storage's
// dataset and the name of a snapshot.
const maxVolumeName = 80

// ParseVolume reads a volume like "local-zfs:vm-100-disk-0".
func ParseVolume(s string) (Volume, error) {
	storage, name, ok := strings.Cut(s, ":")
	if !ok {
		return Volume{}, fmt.Errorf("volume %q: must be STORAGE:NAME, like local-zfs:vm-100-disk-0", s)
	}
	v := Volume{Storage: storage, Name: name}
	return v, v.Validate()
}

// Validate refuses a volume that could not be one component of a dataset's name.
func (v Volume) Validate() error {
	if err := ValidateStorage(v.Storage); err != nil {
		return fmt.Errorf("volume %q: %w", v.String(), err)
	}
	if len(v.Name) > maxVolumeName {
		return fmt.Errorf("volume %q: the name is longer than %d bytes", v.String(), maxVolumeName)
	}
	if !isComponent(v.Name) {
		return fmt.Errorf("volume %q: the name must begin with a letter or digit and hold only letters, digits, '-', '_' and '.'",
			v.String())
	}
	return nil
}

// String is the form "local-zfs:vm-100-disk-0".
func (v Volume) String() string { return v.Storage + ":" + v.Name }

// Compare orders volumes by storage, then by name.
func (v Volume) Compare(o Volume) int { return strings.Compare(v.String(), o.String()) }

// MarshalText writes the form STORAGE:NAME, also as a key of JSON objects.
func (v Volume) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText reads the form STORAGE:NAME.
func (v *Volume) UnmarshalText(b []byte) (err error) {
	*v, err = ParseVolume(string(b))
	return err
}

// ValidateStorage refuses a malformed name of a storage.
func ValidateStorage(s string) error {
	if !isLabel(s) {
		return fmt.Errorf("storage %q: must be 1 to %d of a-z, 0-9 and inner hyphens", s, maxLabel)
	}
	return nil
}

// ValidateUnit refuses what cannot be the name of a service unit; empty means none.
func ValidateUnit(s string) error {
	if s == "" {
		return nil
	}
	stem, ok := strings.CutSuffix(s, ".service")
	if !ok || stem == "" || len(s) > 255 || strings.HasPrefix(s, "-") {
		return fmt.Errorf("unit %q: must be the name of a service, like tandem-vm@100.service", s)
	}
	for _, r := range stem {
		if !isAlnum(r) && !strings.ContainsRune(`:-_.\@`, r) {
			return fmt.Errorf("unit %q: %q cannot stand in the name of a unit", s, r)
		}
	}
	return nil
}

func validateGuestName(s string) error {
	if s == "" {
		return errors.New("name: it is empty")
	}
	return validateText("name", s, 255)
}

// validateText keeps out what would break a terminal or a table.
func validateText(what, s string, limit int) error {
	if len(s) > limit {
		return fmt.Errorf("%s: longer than %d bytes", what, limit)
	}
	if !utf8.ValidString(s) {
		return fmt.Errorf("%s %q: not valid UTF-8", what, s)
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return fmt.Errorf("%s %q: %q cannot be printed", what, s, r)
		}
	}
	return nil
}

// SnapshotPrefix begins the name of every snapshot that Tandem makes.
const SnapshotPrefix = "tandem_"

const snapshotTime = "20060102T150405Z"

// SnapshotName is the name of a point's snapshots:
// tandem_<term>_<node>_<seq>_<UTC time>. It is for people; nothing is decided
// by it: identity is the GUID, order is createtxg.
type SnapshotName struct {
	Term Term
	Node NodeName
	Seq  uint64
	Time time.Time
}

// String is the name as ZFS knows it, without the dataset and the @.
func (n SnapshotName) String() string {
	return SnapshotPrefix + n.Term.String() + "_" + string(n.Node) + "_" +
		strconv.FormatUint(n.Seq, 10) + "_" + n.Time.UTC().Format(snapshotTime)
}

// After says that a point was taken after another one of the same guest: terms only grow, and in each the owner counts its points.
// It is false where the names do not tell.
func (n SnapshotName) After(other SnapshotName) bool {
	if n.Term != other.Term {
		return n.Term.N > other.Term.N
	}
	return n.Node == other.Node && n.Seq > other.Seq
}

// ParseSnapshotName reads a name that String wrote; any other name is somebody
// else's snapshot.
func ParseSnapshotName(s string) (SnapshotName, error) {
	bad := fmt.Errorf("snapshot %q: not a name of Tandem's", s)
	rest, ok := strings.CutPrefix(s, SnapshotPrefix)
	if !ok {
		return SnapshotName{}, bad
	}
	f := strings.Split(rest, "_")
	if len(f) != 4 {
		return SnapshotName{}, bad
	}
	term, err := ParseTerm(f[0])
	if err != nil {
		return SnapshotName{}, bad
	}
	node, err := ParseNodeName(f[1])
	if err != nil {
		return SnapshotName{}, bad
	}
	seq, err := strconv.ParseUint(f[2], 10, 64)
	if err != nil {
		return SnapshotName{}, bad
	}
	at, err := time.Parse(snapshotTime, f[3])
	if err != nil {
		return SnapshotName{}, bad
	}
	n := SnapshotName{Term: term, Node: node, Seq: seq, Time: at}
	if n.String() != s {
		return SnapshotName{}, bad
	}
	return n, nil
}

func isLabel(s string) bool {
	if s == "" || len(s) > maxLabel || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for _, r := range s {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' {
			return false
		}
	}
	return true
}

func isComponent(s string) bool {
	if s == "" || !isAlnum(rune(s[0])) {
		return false
	}
	for _, r := range s {
		if !isAlnum(r) && r != '-' && r != '_' && r != '.' {
			return false
		}
	}
	return true
}

func isAlnum(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
}

func isHex(s string, n int) bool {
	if len(s) != n {
		return false
	}
	for _, r := range s {
		if (r < '0' || r > '9') && (r < 'a' || r > 'f') {
			return false
		}
	}
	return true
}
