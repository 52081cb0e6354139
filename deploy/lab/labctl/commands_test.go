package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

func TestCommand_SaysWhatIsWrong(t *testing.T) {
	for want, args := range map[string][]string{
		`lab "no-such-lab" is not up; ` + "`labctl up`": {"--name", "no-such-lab", "ssh", "n1", "true"},
		`lab name "Bad_Name"`:                           {"--name", "Bad_Name", "up"},
		"51 machines: want 1 to 50":                     {"--name", "no-such-lab", "up", "-n", "51"},
		`cache folder "relative"`:                       {"--cache", "relative", "down"},
		"requires at least 1 arg":                       {"cut"},
		"unknown command":                               {"cuts"},
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			var out bytes.Buffer
			cmd := command(os.Stdin, &out)
			cmd.SetArgs(args)
			if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want an error with %q", err, want)
			}
		})
	}
}
