package gate

import (
	"fmt"
	"strings"
)

// active is the state of a feature that is in use; enabled and active pools take streams that use it.
const (
	active  = "active"
	enabled = "enabled"
)

// need is a feature without which a pool cannot take what `zfs send -L -c -e`, or -w, makes of a volume.
type need struct {
	feature string
	// asked says whether the volume's stream uses it, where the source's pool has it in use.
	asked func(Needs) bool
	// always: it is needed whatever the source's pool says.
	always bool
	// perhaps: the pool has it in use, but nothing tells whether the volume has.
	perhaps bool
}

func needs() []need {
	plain := func(n Needs) bool { return !n.Encrypted }
	every := func(Needs) bool { return true }
	encrypted := func(n Needs) bool { return n.Encrypted }
	return []need{
		{feature: "encryption", asked: encrypted, always: true},
		{feature: "bookmark_v2", asked: encrypted, always: true},
		{feature: "embedded_data", asked: plain},
		{feature: "lz4_compress", asked: every},
		{feature: "zstd_compress", asked: func(n Needs) bool { return strings.HasPrefix(n.Compression, "zstd") }},
		{feature: "large_blocks", asked: func(n Needs) bool { return n.RecordSize > 128<<10 }},
		{feature: "large_dnode", asked: func(n Needs) bool { return n.Filesystem && n.DNodeSize != "" && n.DNodeSize != "legacy" }},
		{feature: "longname", asked: func(n Needs) bool { return n.Filesystem }, perhaps: true},
		{feature: "large_microzap", asked: func(n Needs) bool { return n.Filesystem }, perhaps: true},
	}
}

// Relevant are the names of the features that a node tells another of its pools.
func Relevant() []string {
	var out []string
	for _, f := range needs() {
		out = append(out, f.feature)
	}
	return out
}

// features refuses by the feature's name what zfs refuses without one: "pool must be upgraded to receive this stream".
func features(source, target Side, n Needs) []Finding {
	if target.Features == nil {
		return nil
	}
	var out []Finding
	for _, f := range needs() {
		has := target.Features[f.feature]
		used := f.always || source.Features[f.feature] == active
		if !f.asked(n) || !used || has == active || has == enabled {
			continue
		}
		text := fmt.Sprintf("it needs the feature %s, which pool %s on %s does not have", f.feature, target.Pool, target.Node)
		if f.perhaps {
			text = fmt.Sprintf("pool %s on %s uses the feature %s, which pool %s on %s does not have: if the volume uses it, it cannot be received",
				source.Pool, source.Node, f.feature, target.Pool, target.Node)
		}
		out = append(out, Finding{
			Refuse: !f.perhaps, Feature: true, Text: text,
			Hint: fmt.Sprintf("on %s: `zpool set feature@%s=enabled %s`, or all of them with `zpool upgrade %s` (see the pool's property compatibility)",
				target.Node, f.feature, target.Pool, target.Pool),
		})
	}
	return out
}
