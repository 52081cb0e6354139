package network_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tandemd/tandem/deploy/lab/network"
)

func TestAddresses_AreDistinct(t *testing.T) {
	if diff := cmp.Diff([]string{"10.89.0.11/24", "10.88.0.11/24"}, []string{network.ClusterAddress(1).String(), network.ToolAddress(1).String()}); diff != "" {
		t.Errorf("addresses of n1 (-want +got):\n%s", diff)
	}
	seen := map[string]bool{}
	for number := 1; number <= network.MaxNodes; number++ {
		name := network.NodeName(number)
		if got, err := network.NodeNumber(name); err != nil || got != number {
			t.Errorf("NodeNumber(%q) = %d, %v", name, got, err)
		}
		taps := []string{network.ClusterTap(name), network.ToolTap(name)}
		for _, word := range append(taps, network.ClusterMAC(number), network.ToolMAC(number),
			network.ClusterAddress(number).String(), network.ToolAddress(number).String()) {
			if seen[word] {
				t.Errorf("%s is given twice", word)
			}
			seen[word] = true
		}
		for _, tap := range taps {
			if len(tap) > 15 {
				t.Errorf("interface name %s is too long for Linux", tap)
			}
		}
	}
}

func TestNodeNumber_RefusesOtherNames(t *testing.T) {
	for _, name := range []string{"", "n", "n0", "n01", "n-1", "n51", "1", "m1", "n1 "} {
		if _, err := network.NodeNumber(name); err == nil || !strings.Contains(err.Error(), "want n1") {
			t.Errorf("NodeNumber(%q): %v", name, err)
		}
	}
}
