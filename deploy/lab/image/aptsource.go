package image

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// aptEntry is one place that apt takes packages from.
type aptEntry struct {
	uri        string
	suite      string
	components []string
}

// parseSourcesList reads the one-line format of sources.list(5).
func parseSourcesList(text string) []aptEntry {
	var entries []aptEntry
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		if open := strings.IndexByte(line, '['); open >= 0 {
			if end := strings.IndexByte(line, ']'); end > open {
				line = line[:open] + line[end+1:]
			}
		}
		words := strings.Fields(line)
		if len(words) < 4 || words[0] != "deb" {
			continue
		}
		entries = append(entries, aptEntry{uri: words[1], suite: words[2], components: words[3:]})
	}
	return entries
}

// parseDeb822 reads the stanza format of sources.list(5).
func parseDeb822(text string) []aptEntry {
	var entries []aptEntry
	fields := map[string][]string{}
	last := ""
	flush := func() {
		if slices.Contains(fields["types"], "deb") && !slices.Contains([]string{"no", "false", "0"}, strings.Join(fields["enabled"], "")) {
			for _, uri := range fields["uris"] {
				for _, suite := range fields["suites"] {
					entries = append(entries, aptEntry{uri: uri, suite: suite, components: fields["components"]})
				}
			}
		}
		fields, last = map[string][]string{}, ""
	}
	for line := range strings.Lines(text) {
		switch name, value, isField := strings.Cut(line, ":"); {
		case strings.HasPrefix(line, "#"):
		case strings.TrimSpace(line) == "":
			flush()
		case strings.HasPrefix(line, " ") || strings.HasPrefix(line, "\t"):
			fields[last] = append(fields[last], strings.Fields(line)...)
		case isField:
			last = strings.ToLower(name)
			fields[last] = strings.Fields(value)
		}
	}
	flush()
	return entries
}

// chooseMirror picks the Debian mirror among a host's package sources: the one that serves the component main of the
// host's own release, or of another Debian release.
func chooseMirror(entries []aptEntry, release string) (string, bool) {
	suites := []string{
		release, "stable", "trixie", "bookworm", "bullseye", "forky", "sid", "unstable", "testing", "oldstable",
	}
	for _, suite := range suites {
		for _, e := range entries {
			usable := strings.HasPrefix(e.uri, "http://") || strings.HasPrefix(e.uri, "https://") || strings.HasPrefix(e.uri, "file:/")
			if suite != "" && e.suite == suite && usable && slices.Contains(e.components, "main") {
				return strings.TrimSuffix(e.uri, "/"), true
			}
		}
	}
	return "", false
}

// hostMirror returns the Debian mirror that this host uses.
func hostMirror() (string, error) {
	var entries []aptEntry
	paths := []string{"/etc/apt/sources.list"}
	for _, pattern := range []string{"/etc/apt/sources.list.d/*.sources", "/etc/apt/sources.list.d/*.list"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return "", fmt.Errorf("look for apt's sources: %w", err)
		}
		paths = append(paths, found...)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		switch {
		case os.IsNotExist(err):
		case err != nil:
			return "", fmt.Errorf("read apt's sources: %w", err)
		case strings.HasSuffix(path, ".sources"):
			entries = append(entries, parseDeb822(string(text))...)
		default:
			entries = append(entries, parseSourcesList(string(text))...)
		}
	}
	mirror, found := chooseMirror(entries, hostRelease())
	if !found {
		return "", fmt.Errorf("no Debian mirror in %s: name one with --mirror", strings.Join(paths, ", "))
	}
	return mirror, nil
}

// hostRelease returns the host's Debian codename, or nothing where it has none.
func hostRelease() string {
	text, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "VERSION_CODENAME="); ok {
			return strings.Trim(strings.TrimSpace(value), `"`)
		}
	}
	return ""
}
