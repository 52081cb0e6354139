package report

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/guest"
)

// ClusterName is what people call a cluster, else its ID.
func ClusterName(c api.Cluster) string {
	if c.Name != "" {
		return c.Name + " (" + c.ID + ")"
	}
	return c.ID
}

// NodeNames is a list of nodes for a sentence.
func NodeNames(nodes []guest.NodeName) string {
	var out []string
	for _, n := range nodes {
		out = append(out, string(n))
	}
	return strings.Join(out, ", ")
}

// Cluster is the text of `cluster status`: what pvecm status tells, and more.
func (p Printer) Cluster(c api.Cluster) []string {
	if c.ID == "" {
		return []string{"Cluster     " + ClusterLine(c)}
	}
	lines := append(p.clusterAlarms(c), p.clusterFacts(c)...)
	if broken := brokenStorages(c.Members); len(broken) > 0 {
		lines = append(append(lines, ""), broken...)
	}
	for _, a := range c.Aside {
		lines = append(lines, "", "Kept of an earlier generation: "+Printable(a))
	}
	return lines
}

// clusterFacts are the cluster, its votes and its members.
func (p Printer) clusterFacts(c api.Cluster) (lines []string) {
	quorate := "yes"
	if !c.Quorate {
		quorate = "NO"
	}
	if c.Voters == 0 {
		lines = append(lines, "Cluster     "+ClusterLine(c))
	}
	lines = append(lines,
		"Name        "+orDash(c.Name),
		"ID          "+c.ID,
		"Generation  "+c.Generation+p.forced(c))
	for _, f := range slices.Backward(c.Lineage) {
		lines = append(lines, fmt.Sprintf("  parent    %s, left at entry %d", f.Parent, f.Index))
	}
	lines = append(lines,
		"Nodes       "+fmt.Sprint(len(c.Members)),
		"Quorate     "+quorate,
		"Leader      "+orDash(string(c.Leader)),
		fmt.Sprintf("Votes       expected %d, total %d, quorum %d", c.Voters, c.Votes, c.Quorum),
		fmt.Sprintf("Applied     %d", c.Index),
		"")
	rows := [][]string{{"Node", "ID", "State", "Since", "Votes", "Address"}}
	for _, m := range c.Members {
		since := "-"
		if !m.Since.IsZero() {
			since = p.second(m.Since)
		}
		rows = append(rows, []string{string(m.Name), m.ID.Short(), orDash(m.State), since, votes(m), orDash(m.Peer)})
	}
	return append(lines, columns(2, rows)...)
}

func brokenStorages(members []api.Member) (lines []string) {
	for _, m := range members {
		for _, s := range m.Storages {
			if s.Error != "" {
				lines = append(lines, fmt.Sprintf("storage %s of %s: %s", s.Name, m.Name, Printable(s.Error)))
			}
		}
	}
	return lines
}

// votes are those of a member; a witness is one without storages.
func votes(m api.Member) string {
	n := "0"
	if m.Voter {
		n = "1"
	}
	if m.Witness {
		n += " (witness)"
	}
	return n
}

// notQuorate says what is missing.
func notQuorate(c api.Cluster) string {
	return "WARNING: not quorate: " + c.Tally() + ". Nothing can be changed; what is shown may be old."
}

// forced tells how the newest generation began.
func (p Printer) forced(c api.Cluster) string {
	if len(c.Lineage) == 0 {
		return ""
	}
	f := c.Lineage[len(c.Lineage)-1]
	return fmt.Sprintf("\n  forced    %s by %s on %s", p.second(f.At), f.By, f.Node)
}

// clusterAlarms is what stands above everything else about the cluster.
func (p Printer) clusterAlarms(c api.Cluster) []string {
	lines := p.standing(c)
	if !c.Quorate && c.Removed == nil && c.Voters > 0 {
		lines = append(lines, notQuorate(c))
	}
	for _, a := range c.Alarms {
		lines = append(lines, "WARNING: "+Printable(a))
	}
	if len(lines) > 0 {
		lines = append(lines, "")
	}
	return lines
}

// standing is the banner of a node that was removed, and of a cluster that is not
// as it should be.
func (p Printer) standing(c api.Cluster) (lines []string) {
	if c.Removed != nil {
		lines = append(lines,
			fmt.Sprintf("WARNING: this node was removed from the cluster on %s by %s.", p.second(c.Removed.At), c.Removed.By),
			"To join again, on a member: tandem cluster token; then here: tandem cluster join")
	}
	if c.Waiting != "" {
		lines = append(lines, "WARNING: "+Printable(c.Waiting))
	}
	if c.Yielding != "" {
		lines = append(lines, fmt.Sprintf("WARNING: this node goes over to generation %s.", c.Yielding))
	}
	if c.Forced {
		text := "WARNING: FORCED QUORUM"
		if n := len(c.Lineage); n > 0 {
			f := c.Lineage[n-1]
			text += fmt.Sprintf(" since %s, by %s on %s", p.second(f.At), f.By, f.Node)
		}
		lines = append(lines, text+".", "Avoid changes of nodes, storages and guests until the other members are back.")
	}
	for _, g := range c.Others {
		lines = append(lines, fmt.Sprintf("WARNING: %s %s another generation, %s.", NodeNames(g.Nodes), verb(len(g.Nodes), "follows", "follow"), g.ID))
	}
	if c.Meeting != "" {
		lines = append(lines, "Generations met: "+Printable(c.Meeting))
	}
	return lines
}

// banner is standing as it stands above a status.
func (p Printer) banner(c api.Cluster) []string {
	lines := p.standing(c)
	if len(lines) > 0 {
		lines = append(lines, "")
	}
	return lines
}

func verb(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

// ClusterLine tells in a line whether a cluster can decide.
func ClusterLine(c api.Cluster) string {
	if c.ID == "" {
		return "none. Start one: tandem cluster init; or join one: tandem cluster join"
	}
	votes := fmt.Sprintf("%d of %s (%d needed)", c.Votes, Count(c.Voters, "vote"), c.Quorum)
	switch {
	case c.Removed != nil:
		return "this node was removed from it"
	case c.Voters == 0: // It has just joined.
		return "its voters are not known here yet"
	case !c.Quorate:
		return "NOT QUORATE, " + votes
	case c.Forced:
		return fmt.Sprintf("FORCED QUORUM, leader %s, %s", orDash(string(c.Leader)), votes)
	}
	return fmt.Sprintf("quorate, leader %s, %s", orDash(string(c.Leader)), votes)
}

// Nodes is the text of `nodes`.
func (p Printer) Nodes(c api.Cluster) []string {
	rows := [][]string{{"ID", "Votes", "State", "Node"}}
	for _, m := range c.Members {
		name := string(m.Name)
		if m.State == "self" {
			name += " (local)"
		}
		rows = append(rows, []string{m.ID.Short(), votes(m), orDash(m.State), name})
	}
	return columns(2, rows)
}

// Expected is the text of `cluster expected`.
func (p Printer) Expected(e api.Expectation) []string {
	c := e.Cluster
	return []string{
		fmt.Sprintf("Quorum is forced: this node goes on as generation %s.", c.Generation),
		"Cluster  " + ClusterLine(c),
		"",
		"Until the other members are back:",
		"- Avoid changes that affect the cluster. Joining and removing nodes and adding",
		"  guests ask for --force; a change of [storages] is not taken over until then.",
		"  Get vital guests running, or resolve the quorum issue itself.",
		"- Do not do the same on another node: the two would not come together by",
		"  themselves once both have changed something.",
		"- Make sure that the nodes that are away do not still run guests that you start",
		"  here.",
		"Members that come back follow this node, and this notice ends, when enough do.",
	}
}

// Removal is the plan of `cluster remove`.
func (p Printer) Removal(r api.Removal) []string {
	lines := []string{fmt.Sprintf("To remove %s (%s):", r.Node, r.ID.Short())}
	for i, s := range r.Steps {
		lines = append(lines, fmt.Sprintf("  %d. %s", i+1, Printable(s)))
	}
	if len(r.Leaves) > 0 {
		lines = append(lines, "This stays behind:")
		for _, s := range r.Leaves {
			lines = append(lines, "  - "+Printable(s))
		}
	}
	return lines
}

// Changes is the text of `cluster log`, the newest last.
func (p Printer) Changes(changes []api.Change) []string {
	if len(changes) == 0 {
		return []string{"Nothing was changed yet."}
	}
	rows := [][]string{{"Time", "By", "What"}}
	for _, c := range slices.Backward(changes) {
		rows = append(rows, []string{p.second(c.Time), orDash(c.By), c.What})
	}
	return columns(2, rows)
}

// Storages is the text of `storage list`.
func (p Printer) Storages(nodes []api.NodeStorages) []string {
	rows := [][]string{{"Node", "Storage", "Dataset", "Pool", "Health", "Used", "Free"}}
	var notes []string
	for _, n := range nodes {
		for _, s := range n.Storages {
			row := []string{string(n.Node), s.Name, orDash(s.Dataset), orDash(s.Pool), orDash(s.Health), size(s.Used), size(s.Available)}
			if s.Used == 0 && s.Available == 0 {
				row[5], row[6] = "?", "?"
			}
			rows = append(rows, row)
			if s.Error != "" {
				notes = append(notes, fmt.Sprintf("storage %s of %s: %s", s.Name, n.Node, Printable(s.Error)))
			}
		}
		switch {
		case n.Silent:
			notes = append(notes, fmt.Sprintf("%s did not answer.", n.Node))
		case len(n.Storages) == 0:
			rows = append(rows, []string{string(n.Node), "-", "-", "-", "-", "-", "-"})
		}
	}
	lines := columns(2, rows)
	if len(notes) > 0 {
		lines = append(append(lines, ""), notes...)
	}
	return lines
}
