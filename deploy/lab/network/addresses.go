package network

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// The lab has two networks, both in its own network namespace only. The machines form their cluster on the first;
// its cables can be cut. The second leads from the tool to each machine and not between machines.
const (
	clusterNet = "10.89.0.0/24"
	toolNet    = "10.88.0.0/24"
	firstHost  = 10 // the machine n1 has the host number 11
	toolHost   = 1  // the namespace's own host number on the second network
)

// MaxNodes bounds the address plan.
const MaxNodes = 50

// NodeName is the name of the machine with this number, which counts from 1.
func NodeName(number int) string {
	return "n" + strconv.Itoa(number)
}

// NodeNumber is the reverse of nodeName.
func NodeNumber(name string) (int, error) {
	number, err := strconv.Atoi(strings.TrimPrefix(name, "n"))
	if err != nil || number < 1 || number > MaxNodes || NodeName(number) != name {
		return 0, fmt.Errorf("machine name %q: want n1 to n%d", name, MaxNodes)
	}
	return number, nil
}

// address returns the host's address in one of the lab's networks, with the prefix length.
func address(network string, host int) netip.Prefix {
	prefix := netip.MustParsePrefix(network)
	bytes := prefix.Addr().As4()
	bytes[3] = byte(host)
	return netip.PrefixFrom(netip.AddrFrom4(bytes), prefix.Bits())
}

// ClusterAddress is the machine's address on the cluster's network.
func ClusterAddress(number int) netip.Prefix { return address(clusterNet, firstHost+number) }

// ToolAddress is the machine's address on the tool's network.
func ToolAddress(number int) netip.Prefix { return address(toolNet, firstHost+number) }

// ClusterMAC is the hardware address of the machine's cluster interface. It is fixed, so that what machines remember of
// each other stays true after they are restored.
func ClusterMAC(number int) string { return fmt.Sprintf("52:54:00:7a:00:%02x", number) }

// ToolMAC is the hardware address of the machine's interface to the tool.
func ToolMAC(number int) string { return fmt.Sprintf("52:54:00:7a:01:%02x", number) }

// Names of bridges in the lab's namespace.
const (
	clusterBridge = "cluster"
	toolBridge    = "tool"
)

// ClusterTap is the interface in the lab's namespace that is the other end of the machine's cluster cable.
func ClusterTap(name string) string { return name }

// ToolTap is the other end of the machine's cable to the tool.
func ToolTap(name string) string { return name + "-tool" }
