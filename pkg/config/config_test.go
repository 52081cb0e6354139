package config_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tandemd/tandem/pkg/config"
)

const minimal = `
node_name = "n1"
peer = "10.0.0.1:7947"
gossip = "10.0.0.1:7946"
`

func TestParse_Defaults(t *testing.T) {
	got, err := config.Parse("tandemd.toml", []byte(minimal))
	if err != nil {
		t.Fatal(err)
	}
	want := config.Config{
		NodeName: "n1", Peer: "10.0.0.1:7947", Gossip: "10.0.0.1:7946",
		StateDir: "/var/lib/tandem", Socket: "/run/tandem/tandemd.sock", LogLevel: "info",
		Limits:      config.Limits{MaxJobs: 32, MaxJobsPerTarget: 24, StartSpread: config.Duration(2 * time.Second)},
		Retry:       []config.Duration{config.Duration(5 * time.Minute), config.Duration(10 * time.Minute), config.Duration(15 * time.Minute), config.Duration(30 * time.Minute)},
		HistoryRuns: 100, KeepBase: config.Duration(168 * time.Hour), FenceTimeout: config.Duration(time.Minute),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestParse_EveryKey(t *testing.T) {
	got, err := config.Parse("tandemd.toml", []byte(`
node_name = "n2"
peer = ":7000"
peer_advertise = "[2001:db8::1]:7000"
gossip = "0.0.0.0:7001"
gossip_advertise = "192.0.2.7:7001"
state_dir = "/srv/tandem"
socket = "/srv/tandem.sock"
log_level = "debug"
retry = ["30s", "1h"]
history_runs = 7
keep_base = "24h"
fence_command = "/srv/fence"
fence_timeout = "2m"
[storages]
local-zfs = "tank/guests"
fast = "nvme"
[limits]
max_jobs = 2
max_jobs_per_target = 1
rate_limit = 12.5
start_spread = "0s"
`))
	if err != nil {
		t.Fatal(err)
	}
	want := config.Config{
		NodeName: "n2", Peer: ":7000", PeerAdvertise: "[2001:db8::1]:7000", Gossip: "0.0.0.0:7001", GossipAdvertise: "192.0.2.7:7001",
		StateDir: "/srv/tandem", Socket: "/srv/tandem.sock", LogLevel: "debug",
		Storages: map[string]string{"local-zfs": "tank/guests", "fast": "nvme"},
		Limits:   config.Limits{MaxJobs: 2, MaxJobsPerTarget: 1, RateLimit: 12.5},
		Retry:    []config.Duration{config.Duration(30 * time.Second), config.Duration(time.Hour)}, HistoryRuns: 7, KeepBase: config.Duration(24 * time.Hour),
		FenceCommand: "/srv/fence", FenceTimeout: config.Duration(2 * time.Minute),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]time.Duration{30 * time.Second, time.Hour}, got.Retries()); diff != "" {
		t.Errorf("retries (-want +got):\n%s", diff)
	}
}

func TestParse_RefusesAndSaysWhere(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"unknown key", minimal + "loglevel = \"info\"\n", `tandemd.toml:5: unknown key "loglevel"`},
		{"unknown key in a table", minimal + "[limits]\nmax_job = 3\n", `tandemd.toml:6: unknown key "limits.max_job"`},
		{"all unknown keys", "a = 1\nb = 2\n" + minimal, `tandemd.toml:1: unknown key "a"; tandemd.toml:2: unknown key "b"`},
		{"unknown table", minimal + "[storage]\nx = \"tank\"\n", `unknown key "storage`},
		{"no TOML", "peer = \n", "tandemd.toml:1:"},
		{"key twice", minimal + "peer = \"10.0.0.2:1\"\n", "tandemd.toml:5:"},
		{"wrong type", minimal + "history_runs = \"many\"\n", "tandemd.toml:5:"},
		{"no time", minimal + "retry = [\"5 minutes\"]\n", `"5 minutes" is not a time like 30s, 5m or 1h30m`},
		{"no addresses", "node_name = \"n1\"\n", `peer: ":7947" listens everywhere; say where other nodes reach this one, like peer = "10.0.0.1:7947"`},
		{"no port", minimal[:0] + "node_name = \"n1\"\npeer = \"10.0.0.1\"\ngossip = \"10.0.0.1:7946\"\n", `peer: "10.0.0.1" must be IP:PORT`},
		{"port 0", "peer = \"10.0.0.1:0\"\n", `peer: "10.0.0.1:0" has port 0`},
		{"same port", "peer = \"10.0.0.1:7946\"\ngossip = \"10.0.0.1:7946\"\n", "they need two ports, both have 7946"},
		{"advertised nowhere", minimal + "peer_advertise = \"0.0.0.0:1\"\n", `peer_advertise: "0.0.0.0:1" is nowhere`},
		{"node name", "node_name = \"N 1\"\n", `node_name: node name "N 1"`},
		{"relative state folder", minimal + "state_dir = \"tandem\"\n", `state_dir: "tandem" must be an absolute path`},
		{"long socket", minimal + "socket = \"/" + strings.Repeat("x", 107) + "\"\n", "longer than 107 bytes"},
		{"log level", minimal + "log_level = \"loud\"\n", `log_level: "loud" must be one of debug, info, warn, error`},
		{"history", minimal + "history_runs = 0\n", "history_runs: 0 must be from 1 to 100000"},
		{"keep_base", minimal + "keep_base = \"1m\"\n", "keep_base: 1m0s must be from 1h to 87600h"},
		{"no retries", minimal + "retry = []\n", "retry: the list is empty"},
		{"short retry", minimal + "retry = [\"1ms\"]\n", "retry: 1ms must be from 1s to 168h"},
		{"no jobs", minimal + "[limits]\nmax_jobs = 0\n", "limits.max_jobs: 0 must be from 1 to 1000"},
		{"rate", minimal + "[limits]\nrate_limit = 0.5\n", "limits.rate_limit: 0.5 must be at least 1 MB/s, or 0 for none"},
		{"rate is no number", minimal + "[limits]\nrate_limit = nan\n", "limits.rate_limit"},
		{"spread", minimal + "[limits]\nstart_spread = \"1m\"\n", "limits.start_spread: 1m0s must be from 0s to less than 1m"},
		{"storage name", minimal + "[storages]\nLocal = \"tank\"\n", `storage "Local"`},
		{"dataset with a snapshot", minimal + "[storages]\na = \"tank@x\"\n", `storages.a: dataset "tank@x": '@' cannot stand in it`},
		{"dataset as a path", minimal + "[storages]\na = \"/tank\"\n", `must be POOL/NAME without a slash at the ends`},
		{"dataset as an option", minimal + "[storages]\na = \"-r\"\n", "must be POOL/NAME"},
		{"same dataset", minimal + "[storages]\na = \"tank/x\"\nb = \"tank/x\"\n", "storages: a (tank/x) and b (tank/x) overlap"},
		{"dataset in a dataset", minimal + "[storages]\na = \"tank/x\"\nb = \"tank\"\n", "overlap"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := config.Parse("tandemd.toml", []byte(c.text))
			if err == nil {
				t.Fatal("accepted")
			}
			if got := err.Error(); !strings.Contains(got, c.want) || !strings.HasPrefix(got, "configuration tandemd.toml") {
				t.Errorf("got %q, want it to contain %q", got, c.want)
			}
		})
	}
}

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tandemd.toml")
	if _, err := config.Load(path); err == nil || !strings.Contains(err.Error(), path+": there is no such file") {
		t.Errorf("missing: %v", err)
	}
	if err := os.WriteFile(path, []byte(minimal), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := config.Load(path); err != nil || got.NodeName != "n1" {
		t.Errorf("got %+v, %v", got, err)
	}
}

// The sample is valid as it stands, and what it shows as defaults are the defaults.
func TestSample_ShowsTheDefaults(t *testing.T) {
	plain, err := config.Parse("sample.toml", []byte(config.Sample()))
	if err != nil {
		t.Fatal(err)
	}
	shown := regexp.MustCompile(`(?m)^#([a-z_]+ = )`).ReplaceAllString(config.Sample(), "$1")
	all, err := config.Parse("sample.toml", []byte(shown))
	if err != nil {
		t.Fatal(err)
	}
	if all.NodeName != "n1" || all.PeerAdvertise == "" || all.GossipAdvertise == "" || all.FenceCommand == "" {
		t.Errorf("the sample does not show all keys: %+v", all)
	}
	all.NodeName, all.PeerAdvertise, all.GossipAdvertise, all.FenceCommand = plain.NodeName, "", "", ""
	if diff := cmp.Diff(plain, all); diff != "" {
		t.Errorf("what the sample shows is not the default (-default +shown):\n%s", diff)
	}
	for _, key := range []string{"node_name", "peer", "peer_advertise", "gossip", "gossip_advertise", "state_dir", "socket", "log_level", "retry", "history_runs", "keep_base", "fence_command", "fence_timeout", "max_jobs", "max_jobs_per_target", "rate_limit", "start_spread"} {
		if !regexp.MustCompile(`(?m)^#?` + key + ` = `).MatchString(config.Sample()) {
			t.Errorf("the sample does not show %s", key)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(config.Sample())
	f.Add(minimal + "retry = [1]\n[storages]\na = \"tank\"\n")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := config.Parse("x", []byte(text))
		if err == nil && c.Validate() != nil {
			t.Error("what was parsed is not valid")
		}
	})
}
