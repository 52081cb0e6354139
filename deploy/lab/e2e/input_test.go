//go:build lab

package e2e_test

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tandemd/tandem/pkg/api"
)

// refuseBadInput checks that every mistake gets an error that names it, and changes nothing.
func refuseBadInput(t *testing.T) {
	t.Parallel()
	n("n1").sh(t, "zfs create -V 8M tank/guests/vm-190-disk-0 && zfs create -V 8M tank/guests/vm-191-disk-0")
	n("n1").sh(t, "tandem guest add 190 --type vm --name victim --volume local-zfs:vm-190-disk-0")
	n("n1").sh(t, "tandem create-local-job 190-0 n3 --schedule weekly --disable")
	before := n("n1").edited(t)

	const add = "tandem guest add 191 --type vm --name x "
	for _, mistake := range []struct {
		command string
		words   []string // what the error must name
	}{
		{add + "--volume local-zfs/vm-191-disk-0", []string{"local-zfs/vm-191-disk-0", "STORAGE:NAME"}},
		{add + "--volume local-zfs:../guests", []string{"local-zfs:../guests"}},
		{add + "--volume local-zfs:vm-191-disk-9", []string{"vm-191-disk-9"}},
		{add + "--volume nowhere:vm-191-disk-0", []string{"nowhere"}},
		{add + "--node n3 --volume absent:vm-191-disk-0", []string{"tank/absent"}},
		{add + "--node n9 --volume local-zfs:vm-191-disk-0", []string{"n9"}},
		{add + "--volume local-zfs:vm-190-disk-0", []string{"vm-190-disk-0", "190"}},
		{"tandem guest add 99 --type vm --name x --volume local-zfs:vm-191-disk-0", []string{"99"}},
		{"tandem guest add 190 --type vm --name x --volume local-zfs:vm-191-disk-0", []string{"190"}},
		{"tandem guest add 191 --type pod --name x --volume local-zfs:vm-191-disk-0", []string{"pod"}},
		{"tandem create-local-job 190-1 n1", []string{"190-1", "n1"}},
		{"tandem create-local-job 190-1 n3", []string{"190-1", "n3", "190-0"}},
		{"tandem create-local-job 190-0 n2", []string{"190-0"}},
		{"tandem create-local-job 190-1 n9", []string{"n9"}},
		{"tandem create-local-job 195-0 n2", []string{"195"}},
		{"tandem create-local-job 190 n2", []string{"190"}},
		{"tandem create-local-job 190-1 n2 --schedule 'every now and then'", []string{"every now and then"}},
		{"tandem create-local-job 190-1 n2 --rate -3", []string{"-3"}},
		{"tandem update 190-0 --schedule 25:00", []string{"25:00"}},
		{"tandem update 190-0 --schedule '*/30' --digest 0123", []string{"190-0"}},
		{"tandem delete 190-7", []string{"190-7"}},
		{"tandem schedule-now 190-7", []string{"190-7"}},
		{"tandem run 190-7", []string{"190-7"}},
		{"tandem explain 190-7", []string{"190-7"}},
		{"tandem cluster init", []string{"n1"}},
	} {
		n("n1").refuses(t, mistake.command, mistake.words...)
	}
	if diff := cmp.Diff(before, n("n1").edited(t)); diff != "" {
		t.Errorf("what was refused has changed the ledger (-before +after):\n%s", diff)
	}
	if got := n("n1").sh(t, "zfs get -Hp -s local,received all tank/guests/vm-191-disk-0 | grep tandem: || true"); got != "" {
		t.Errorf("a refused `guest add` has marked the volume: %s", got)
	}
	t.Run("configuration", refuseBadConfiguration)
}

// refuseBadConfiguration checks the file of a node that is not its own; nothing of it takes effect.
func refuseBadConfiguration(t *testing.T) {
	good := n("n3").config()
	for _, mistake := range []struct {
		text  string
		words []string
	}{
		{"nodename = \"n3\"\n" + good, []string{"nodename"}},
		{good + "\n[limits]\nmax_job = 3\n", []string{"max_job"}},
		{good + "bad_Storage! = \"tank/x\"\n", []string{"/tmp/bad.toml"}},
		{good + "other = \"tank/../x\"\n", []string{"tank/../x"}},
		{"node_name = \"n3\n", []string{"/tmp/bad.toml"}},
	} {
		n("n3").write(t, "/tmp/bad.toml", mistake.text)
		n("n3").refuses(t, "timeout 20 tandemd --config /tmp/bad.toml", mistake.words...)
	}
	n("n3").refuses(t, "timeout 20 tandemd --config /tmp/none.toml", "/tmp/none.toml")
	n("n3").sh(t, "tandemd --check")
}

// edited is what of the ledger the mistakes could have changed: the guests 190 to 199 and their jobs.
func (o node) edited(t *testing.T) string {
	t.Helper()
	var guests struct{ Guests []api.Guest }
	var jobs struct{ Jobs []api.Job }
	o.ask(t, &guests, "guest list")
	o.ask(t, &jobs, "list")
	guests.Guests = slices.DeleteFunc(guests.Guests, func(g api.Guest) bool { return g.ID < 190 || g.ID > 199 })
	jobs.Jobs = slices.DeleteFunc(jobs.Jobs, func(j api.Job) bool { return j.Guest < 190 || j.Guest > 199 })
	text, err := json.MarshalIndent(map[string]any{"guests": guests.Guests, "jobs": jobs.Jobs}, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
