package disk

import "github.com/tandemd/tandem/pkg/zfs"

// standard is what a native property is where nobody has set it, by type; empty: it does not apply.
type standard struct {
	filesystem, zvol string
	// alone: children do not inherit it.
	alone bool
}

func standards() map[string]standard {
	both := func(value string) standard { return standard{filesystem: value, zvol: value} }
	size := standard{filesystem: "0", zvol: "0", alone: true}
	return map[string]standard{
		"readonly": both("off"), "compression": both("off"), "encryption": both("off"), "logbias": both("latency"),
		"primarycache": both("all"), "secondarycache": both("all"), "sync": both("standard"),
		"acltype": {filesystem: "off"}, "aclinherit": {filesystem: "restricted"}, "aclmode": {filesystem: "discard"},
		"atime": {filesystem: "on"}, "relatime": {filesystem: "on"}, "devices": {filesystem: "on"}, "exec": {filesystem: "on"},
		"setuid": {filesystem: "on"}, "dnodesize": {filesystem: "legacy"}, "recordsize": {filesystem: "131072"},
		"snapdir": {filesystem: "hidden"}, "xattr": {filesystem: "on"}, "canmount": {filesystem: "on", alone: true},
		"quota": {filesystem: "0", alone: true}, "refquota": {filesystem: "0", alone: true},
		"reservation": size, "refreservation": size,
		"snapdev": {zvol: "hidden"}, "volmode": {zvol: "default"}, "volblocksize": {zvol: "4096", alone: true},
	}
}

// standardOf is the value of a property that nobody has set.
func (d *Dataset) standardOf(prop string) (value, source string) {
	s := standards()[prop]
	value = s.filesystem
	if d.Type == zfs.TypeVolume {
		value = s.zvol
	}
	if prop == "mountpoint" && d.Type == zfs.TypeFilesystem {
		value = "/" + d.Name
	}
	if value == "" {
		return "-", "-"
	}
	return value, "default"
}
