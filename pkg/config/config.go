// Package config reads the daemon's configuration file: TOML, every key known
// or an error with its line, defaults for all that is left out.
//
// It is read by pkg/daemon alone, once, at the start; the other packages are
// given values. What concerns the cluster (guests, jobs, members) is not in this
// file but on the ledger.
package config

import (
	_ "embed" // for the sample
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/tandemd/tandem/pkg/guest"
)

// Path is where the daemon's configuration is by default.
const Path = "/etc/tandem/tandemd.toml"

//go:embed sample.toml
var sample string

// Sample is a configuration with a comment on every key, to start from.
func Sample() string { return sample }

// Config is the configuration of one node.
type Config struct {
	// NodeName is what people call this node; the host's name by default.
	NodeName guest.NodeName `toml:"node_name"`
	// Peer is where the daemon listens for other daemons, IP:PORT.
	Peer string `toml:"peer"`
	// PeerAdvertise is where others reach it; Peer if empty.
	PeerAdvertise string `toml:"peer_advertise"`
	// Gossip is where the daemon listens for gossip, TCP and UDP, IP:PORT.
	Gossip string `toml:"gossip"`
	// GossipAdvertise is where others reach it; Gossip if empty.
	GossipAdvertise string `toml:"gossip_advertise"`
	// StateDir is the daemon's own folder.
	StateDir string `toml:"state_dir"`
	// Socket is where the client reaches the daemon.
	Socket string `toml:"socket"`
	// LogLevel is debug, info, warn or error.
	LogLevel string `toml:"log_level"`
	// Storages map the name of a storage to this node's dataset for it.
	Storages map[string]string `toml:"storages"`
	Limits   Limits            `toml:"limits"`
	// Retry are the times from a failed sync to the next try; the last repeats.
	Retry []Duration `toml:"retry"`
	// HistoryRuns is how many runs are remembered of each job.
	HistoryRuns int `toml:"history_runs"`
	// KeepBase is for how long the base of a target that does not answer stays a
	// snapshot, of the time in which this node is quorate.
	KeepBase Duration `toml:"keep_base"`
	// FenceCommand is an executable that turns the node off whose name it is given;
	// empty: none. FenceTimeout is how long it may take.
	FenceCommand string   `toml:"fence_command"`
	FenceTimeout Duration `toml:"fence_timeout"`
}

// Limits bound what runs at the same time, and how fast.
type Limits struct {
	// MaxJobs is the number of syncs on this node, MaxJobsPerTarget that to one target.
	MaxJobs          int `toml:"max_jobs"`
	MaxJobsPerTarget int `toml:"max_jobs_per_target"`
	// RateLimit is for all syncs of this node together, in MB/s (10^6 bytes per second); 0 is none.
	RateLimit float64 `toml:"rate_limit"`
	// StartSpread is the time over which nodes spread what they start at the same minute.
	StartSpread Duration `toml:"start_spread"`
}

// Duration is a time like "5m" or "1h30m".
type Duration time.Duration

// UnmarshalText reads the form of time.ParseDuration.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf("%q is not a time like 30s, 5m or 1h30m", b)
	}
	*d = Duration(v)
	return nil
}

// MarshalText writes the form of time.Duration.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

func (d Duration) String() string { return time.Duration(d).String() }

// Retries is the list of pkg/job.
func (c Config) Retries() []time.Duration {
	out := make([]time.Duration, 0, len(c.Retry))
	for _, d := range c.Retry {
		out = append(out, time.Duration(d))
	}
	return out
}

// Default is the configuration where the file says nothing. It is not complete:
// the addresses have to be known to the other nodes.
func Default() Config {
	return Config{
		NodeName: hostName(),
		Peer:     ":7947", Gossip: ":7946",
		StateDir: "/var/lib/tandem", Socket: "/run/tandem/tandemd.sock", LogLevel: "info",
		Limits:      Limits{MaxJobs: 32, MaxJobsPerTarget: 24, StartSpread: Duration(2 * time.Second)},
		Retry:       []Duration{Duration(5 * time.Minute), Duration(10 * time.Minute), Duration(15 * time.Minute), Duration(30 * time.Minute)},
		HistoryRuns: 100, KeepBase: Duration(7 * 24 * time.Hour), FenceTimeout: Duration(time.Minute),
	}
}

// hostName is the first label of the host's name; Validate tells if it does not serve.
func hostName() guest.NodeName {
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	label, _, _ := strings.Cut(strings.ToLower(name), ".")
	return guest.NodeName(label)
}

// Load reads and validates the file.
func Load(path string) (Config, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return Config{}, fmt.Errorf("configuration %s: there is no such file; write one that says at least where this node is reached (peer, gossip)", path)
	}
	if err != nil {
		return Config{}, fmt.Errorf("configuration: %w", err)
	}
	return Parse(path, data)
}

// Parse reads and validates a configuration; name is that of the file, for errors.
func Parse(name string, data []byte) (Config, error) {
	c := Default()
	c.Retry = nil // an array in the file replaces the list
	d := toml.NewDecoder(strings.NewReader(string(data))).DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return Config{}, fmt.Errorf("configuration %w", located(name, err))
	}
	if c.Retry == nil {
		c.Retry = Default().Retry
	}
	if err := c.Validate(); err != nil {
		return Config{}, fmt.Errorf("configuration %s: %w", name, err)
	}
	return c, nil
}

// located tells file, line and key of what could not be read.
func located(name string, err error) error {
	if unknown := (*toml.StrictMissingError)(nil); errors.As(err, &unknown) {
		var all []string
		for _, e := range unknown.Errors {
			row, _ := e.Position()
			all = append(all, fmt.Sprintf("%s:%d: unknown key %q", name, row, strings.Join(e.Key(), ".")))
		}
		return errors.New(strings.Join(all, "; "))
	}
	if broken := (*toml.DecodeError)(nil); errors.As(err, &broken) {
		row, column := broken.Position()
		if key := strings.Join(broken.Key(), "."); key != "" {
			return fmt.Errorf("%s:%d:%d: %s: %w", name, row, column, key, broken)
		}
		return fmt.Errorf("%s:%d:%d: %w", name, row, column, broken)
	}
	return fmt.Errorf("%s: %w", name, err)
}
