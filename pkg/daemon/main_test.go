package daemon_test

import (
	"flag"
	"os"
	"testing"
)

// The tests wait for clusters more than for processors.
func TestMain(m *testing.M) {
	flag.Parse()
	if flag.Lookup("test.parallel").Value.String() == flag.Lookup("test.parallel").DefValue {
		if err := flag.Set("test.parallel", "6"); err != nil {
			panic(err) // the flag's name is wrong
		}
	}
	os.Exit(m.Run())
}
