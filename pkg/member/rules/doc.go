// Package rules holds what decides in pkg/member: which generation of a cluster
// stays when several meet, when quorum may be forced and a node may start on its
// own disk, who votes, how the gossip key is changed, how a member is removed.
//
// It is pure: facts in, verdicts with their reasons out. It asks nobody and does
// nothing; pkg/member's loops collect the facts and carry out the verdicts.
package rules
