// Package network is a lab's own network, which nothing outside sees: a network namespace with a bridge for the cluster,
// whose cables can be cut, and one for the tool. It has the plan of names and addresses. Packages lab and qemu call it.
package network

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/tandemd/tandem/deploy/lab/host"
)

// netnsDir is where ip-netns(8) keeps the names of network namespaces, as mounts.
const netnsDir = "/run/netns"

// Namespace is the network namespace of one lab.
type Namespace string

// Of is the namespace of the lab with this name.
func Of(labName string) Namespace { return Namespace("tandem-" + labName) }

// path is the file that nsenter joins.
func (n Namespace) path() string { return filepath.Join(netnsDir, string(n)) }

// ip runs ip(8) in the namespace.
func (n Namespace) ip(ctx context.Context, args ...string) error {
	_, err := host.Run(ctx, "ip", append([]string{"-n", string(n)}, args...)...)
	return err
}

// Enter returns the words that run a program in the namespace. nsenter, not `ip netns exec`: that would give the
// program a mount namespace as well.
func (n Namespace) Enter(name string, args ...string) []string {
	return append([]string{"--net=" + n.path(), "--", host.Tool(name)}, args...)
}

// exists reports whether the namespace is there.
func (n Namespace) exists() bool {
	_, err := os.Lstat(n.path())
	return err == nil
}

// Build makes the namespace with its two bridges; a machine's taps come with AddCables.
func (n Namespace) Build(ctx context.Context) error {
	if _, err := host.Run(ctx, "ip", "netns", "add", string(n)); err != nil {
		return fmt.Errorf("make the lab's network namespace: %w", err)
	}
	steps := []string{
		"link set lo up",
		"link add " + clusterBridge + " address " + ClusterMAC(0xfe) + " type bridge forward_delay 0 mcast_snooping 0",
		"link set " + clusterBridge + " up",
		"link add " + toolBridge + " address " + ToolMAC(0xfe) + " type bridge forward_delay 0 mcast_snooping 0",
		"address add " + address(toolNet, toolHost).String() + " dev " + toolBridge,
		"link set " + toolBridge + " up",
	}
	for _, step := range steps {
		if err := n.ip(ctx, strings.Fields(step)...); err != nil {
			return fmt.Errorf("make the lab's network: %w", err)
		}
	}
	return nil
}

// AddCables makes the taps of a machine.
func (n Namespace) AddCables(ctx context.Context, name string) error {
	steps := []string{
		"tuntap add " + ClusterTap(name) + " mode tap",
		"link set " + ClusterTap(name) + " master " + clusterBridge + " up",
		"tuntap add " + ToolTap(name) + " mode tap",
		"link set " + ToolTap(name) + " master " + toolBridge + " up",
		"link set " + ToolTap(name) + " type bridge_slave isolated on",
	}
	for _, step := range steps {
		if err := n.ip(ctx, strings.Fields(step)...); err != nil {
			return fmt.Errorf("make the cables of %s: %w", name, err)
		}
	}
	return nil
}

// Cut pulls the machine's cluster cable; what is connected to it is not told.
func (n Namespace) Cut(ctx context.Context, name string) error {
	if err := n.ip(ctx, "link", "set", ClusterTap(name), "down"); err != nil {
		return fmt.Errorf("cut the cable of %s: %w", name, err)
	}
	return nil
}

// Mend puts the machine's cluster cable back.
func (n Namespace) Mend(ctx context.Context, name string) error {
	if err := n.ip(ctx, "link", "set", ClusterTap(name), "up"); err != nil {
		return fmt.Errorf("mend the cable of %s: %w", name, err)
	}
	return nil
}

// IsCut reports whether the machine's cluster cable is cut.
func (n Namespace) IsCut(ctx context.Context, name string) (bool, error) {
	link, err := host.Run(ctx, "ip", "-n", string(n), "-o", "link", "show", "dev", ClusterTap(name))
	if err != nil {
		return false, fmt.Errorf("look at the cable of %s: %w", name, err)
	}
	_, flags, _ := strings.Cut(link, "<")
	flags, _, _ = strings.Cut(flags, ">")
	for flag := range strings.SplitSeq(flags, ",") {
		if flag == "UP" {
			return false, nil
		}
	}
	return true, nil
}

// Remove deletes the namespace and with it the bridges and taps. ip-netns(8) keeps a mount of its own folder for
// ever once it was used; where no name is left in it, that goes as well.
func (n Namespace) Remove(ctx context.Context) error {
	if n.exists() {
		if _, err := host.Run(ctx, "ip", "netns", "del", string(n)); err != nil {
			return fmt.Errorf("remove the lab's network namespace: %w", err)
		}
	}
	names, err := os.ReadDir(netnsDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at %s: %w", netnsDir, err)
	}
	if len(names) > 0 {
		return nil
	}
	return unmountEmpty(netnsDir)
}
