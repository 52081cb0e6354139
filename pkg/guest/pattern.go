package guest

import (
	"fmt"
	"regexp"
	"strings"
)

// Pattern is what the name of a guest's volume looks like.
type Pattern struct {
	text string
	re   *regexp.Regexp
}

// patternID stands in a pattern for the guest's ID.
const patternID = "{id}"

// ParsePattern reads a pattern: `*` stands for any characters, `?` for one, {id}
// for the ID of the guest; the rest stands for itself.
func ParsePattern(s string) (Pattern, error) {
	if s == "" || len(s) > maxVolumeName {
		return Pattern{}, fmt.Errorf("pattern %q: must be 1 to %d bytes long, like vm-{id}-disk-*", s, maxVolumeName)
	}
	before, after, _ := strings.Cut(s, patternID)
	if strings.Contains(after, patternID) {
		return Pattern{}, fmt.Errorf("pattern %q: {id} can stand in it once", s)
	}
	for _, r := range before + after {
		if !isAlnum(r) && !strings.ContainsRune("-_.*?", r) {
			return Pattern{}, fmt.Errorf("pattern %q: %q cannot stand in the name of a volume; * ? and {id} stand for others", s, r)
		}
	}
	text := regexp.QuoteMeta(s)
	for from, to := range map[string]string{`\{id\}`: `([1-9][0-9]*)`, `\*`: `.*`, `\?`: `.`} {
		text = strings.ReplaceAll(text, from, to)
	}
	re, err := regexp.Compile(`\A` + text + `\z`)
	if err != nil {
		return Pattern{}, fmt.Errorf("pattern %q: %w", s, err)
	}
	return Pattern{text: s, re: re}, nil
}

// ProxmoxPatterns are the names that Proxmox VE gives to the volumes of virtual
// machines and containers; base images and saved memory are none of them.
func ProxmoxPatterns() []Pattern {
	var out []Pattern
	for _, s := range []string{"vm-{id}-disk-*", "vm-{id}-cloudinit", "subvol-{id}-disk-*"} {
		p, _ := ParsePattern(s) // they are well-formed
		out = append(out, p)
	}
	return out
}

// String is the pattern as it was read.
func (p Pattern) String() string { return p.text }

// HasID says whether names that match tell the guest's ID.
func (p Pattern) HasID() bool { return strings.Contains(p.text, patternID) }

// Match says whether a volume may have that name, and of which guest it is; 0
// where the pattern does not tell.
func (p Pattern) Match(name string) (id ID, ok bool) {
	m := p.re.FindStringSubmatch(name)
	switch {
	case m == nil || !isComponent(name):
		return 0, false
	case !p.HasID():
		return 0, true
	}
	id, err := ParseID(m[1])
	if err != nil {
		return 0, false
	}
	return id, true
}
