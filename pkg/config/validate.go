package config

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tandemd/tandem/pkg/guest"
)

const (
	// maxSocket is the room that Linux has for the path of a Unix socket.
	maxSocket = 107
	// maxDataset leaves room in ZFS's 255 bytes for a volume and a snapshot.
	maxDataset = 80
)

// Validate tells all that is wrong, each with its key and what to do.
func (c Config) Validate() error {
	_, nameErr := guest.ParseNodeName(string(c.NodeName))
	if nameErr != nil {
		nameErr = fmt.Errorf("node_name: %w (the default is the host's name)", nameErr)
	}
	return errors.Join(
		nameErr, c.addresses(),
		absolute("state_dir", c.StateDir), absolute("socket", c.Socket), c.others(),
		c.storages(), c.limits(), c.retries(),
	)
}

func (c Config) addresses() error {
	peer, err1 := listen("peer", c.Peer, c.PeerAdvertise)
	gossip, err2 := listen("gossip", c.Gossip, c.GossipAdvertise)
	err := errors.Join(err1, err2)
	if err == nil && peer.Port() == gossip.Port() {
		err = fmt.Errorf("peer and gossip: they need two ports, both have %d", peer.Port())
	}
	return err
}

// listen reads an address to listen on, and the one that others are told.
func listen(key, addr, advertise string) (netip.AddrPort, error) {
	at := addr
	if strings.HasPrefix(at, ":") {
		at = "0.0.0.0" + at
	}
	on, err := address(key, at)
	if err != nil {
		return on, err
	}
	if advertise == "" {
		if on.Addr().IsUnspecified() {
			return on, fmt.Errorf("%s: %q listens everywhere; say where other nodes reach this one, like %s = \"10.0.0.1:%d\"",
				key, addr, key, on.Port())
		}
		return on, nil
	}
	told, err := address(key+"_advertise", advertise)
	if err == nil && told.Addr().IsUnspecified() {
		err = fmt.Errorf("%s_advertise: %q is nowhere; it must be the address at which other nodes reach this one", key, advertise)
	}
	return on, err
}

func address(key, s string) (netip.AddrPort, error) {
	a, err := netip.ParseAddrPort(s)
	if err != nil {
		return a, fmt.Errorf("%s: %q must be IP:PORT, like 10.0.0.1:7947 or [2001:db8::1]:7947", key, s)
	}
	if a.Port() == 0 {
		return a, fmt.Errorf("%s: %q has port 0; other nodes need to know the port", key, s)
	}
	return a, nil
}

func absolute(key, path string) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("%s: %q must be an absolute path", key, path)
	}
	return nil
}

func (c Config) others() error {
	var errs []error
	if len(c.Socket) > maxSocket {
		errs = append(errs, fmt.Errorf("socket: %q is longer than %d bytes, which Linux does not allow", c.Socket, maxSocket))
	}
	if levels := []string{"debug", "info", "warn", "error"}; !slices.Contains(levels, c.LogLevel) {
		errs = append(errs, fmt.Errorf("log_level: %q must be one of %s", c.LogLevel, strings.Join(levels, ", ")))
	}
	if d := time.Duration(c.KeepBase); d < time.Hour || d > 10*365*24*time.Hour {
		errs = append(errs, fmt.Errorf("keep_base: %v must be from 1h to 87600h", d))
	}
	if c.FenceCommand != "" {
		errs = append(errs, absolute("fence_command", c.FenceCommand))
	}
	if d := time.Duration(c.FenceTimeout); d < time.Second || d > time.Hour {
		errs = append(errs, fmt.Errorf("fence_timeout: %v must be from 1s to 1h", d))
	}
	return errors.Join(append(errs, between("history_runs", c.HistoryRuns, 1, 100_000))...)
}

func (c Config) limits() error {
	errs := []error{
		between("limits.max_jobs", c.Limits.MaxJobs, 1, 1000),
		between("limits.max_jobs_per_target", c.Limits.MaxJobsPerTarget, 1, 1000),
	}
	if r := c.Limits.RateLimit; r != 0 && !(r >= guest.MinRate && r <= 1e6) {
		errs = append(errs, fmt.Errorf("limits.rate_limit: %v must be at least %v MB/s, or 0 for none", r, guest.MinRate))
	}
	if d := time.Duration(c.Limits.StartSpread); d < 0 || d >= time.Minute {
		errs = append(errs, fmt.Errorf("limits.start_spread: %v must be from 0s to less than 1m, or jobs would miss their minute", d))
	}
	return errors.Join(errs...)
}

func (c Config) retries() error {
	if len(c.Retry) == 0 {
		return errors.New(`retry: the list is empty; the default is ["5m", "10m", "15m", "30m"]`)
	}
	for _, d := range c.Retry {
		if time.Duration(d) < time.Second || time.Duration(d) > 7*24*time.Hour {
			return fmt.Errorf("retry: %v must be from 1s to 168h", d)
		}
	}
	return nil
}

func between(key string, v, from, to int) error {
	if v < from || v > to {
		return fmt.Errorf("%s: %d must be from %d to %d", key, v, from, to)
	}
	return nil
}

// storages refuses what cannot be a dataset, and two storages of which one
// holds the other: their volumes would be mistaken for each other.
func (c Config) storages() error {
	var errs []error
	names := slices.Sorted(maps.Keys(c.Storages))
	for i, name := range names {
		if err := guest.ValidateStorage(name); err != nil {
			errs = append(errs, fmt.Errorf("storages: %w", err))
		}
		if err := dataset(c.Storages[name]); err != nil {
			errs = append(errs, fmt.Errorf("storages.%s: %w", name, err))
		}
		for _, other := range names[:i] {
			a, b := c.Storages[other], c.Storages[name]
			if a == b || strings.HasPrefix(a, b+"/") || strings.HasPrefix(b, a+"/") {
				errs = append(errs, fmt.Errorf("storages: %s (%s) and %s (%s) overlap; give each a dataset of its own", other, a, name, b))
			}
		}
	}
	return errors.Join(errs...)
}

// dataset refuses what zfs(8) would not take as the name of a filesystem.
func dataset(s string) error {
	if len(s) > maxDataset {
		return fmt.Errorf("dataset %q: longer than %d bytes, which leaves too little room for snapshots' names", s, maxDataset)
	}
	for part := range strings.SplitSeq(s, "/") {
		if part == "" || strings.HasPrefix(part, "-") || part == "." || part == ".." {
			return fmt.Errorf("dataset %q: must be POOL/NAME without a slash at the ends, like tank/guests", s)
		}
		for _, r := range part {
			if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-_.:", r) {
				return fmt.Errorf("dataset %q: %q cannot stand in it (only letters, digits, '-', '_', '.' and ':')", s, r)
			}
		}
	}
	return nil
}
