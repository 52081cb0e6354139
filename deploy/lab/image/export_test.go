package image

// What the tests of the pure parts reach into.

// AptEntry shows an entry of apt's sources.
type AptEntry struct {
	URI, Suite string
	Components []string
}

func shown(entries []aptEntry) []AptEntry {
	var out []AptEntry
	for _, e := range entries {
		out = append(out, AptEntry{e.uri, e.suite, e.components})
	}
	return out
}

// ParseSourcesList shows what is read of the one-line format.
func ParseSourcesList(text string) []AptEntry { return shown(parseSourcesList(text)) }

// ParseDeb822 shows what is read of the stanza format.
func ParseDeb822(text string) []AptEntry { return shown(parseDeb822(text)) }

// ChooseMirror chooses among the entries of both formats.
func ChooseMirror(list, stanzas, release string) (string, bool) {
	return chooseMirror(append(parseSourcesList(list), parseDeb822(stanzas)...), release)
}

// Internals under test.
var (
	InputsKey   = inputsKey
	PackageList = packageList
	Prune       = prune
)
