package failure_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/consensus"
	"github.com/tandemd/tandem/pkg/daemon/failure"
	"github.com/tandemd/tandem/pkg/peer"
)

// Why a leader did not take a command is told, whether it is this node or another one.
func TestNotQuorate_TellsTheLeadersReason(t *testing.T) {
	const (
		look  = "see with `tandem cluster status` which members are away, and bring them back"
		plain = "not quorate: 2 of 3 votes, 2 needed, and none of them leads yet; nothing was changed"
		vote  = "not quorate: the vote of node 0badcafe has to go first; nothing was changed (2 of 3 votes, 2 needed)"
	)
	notTaken := func(why error) error { return fmt.Errorf("%w: %w", consensus.ErrNotQuorate, why) }
	here := fmt.Errorf("%w: the vote of node 0badcafe has to go first", consensus.ErrNotLeader)
	there := func(message string) error {
		return fmt.Errorf("%w: %w", consensus.ErrNotLeader, &peer.RemoteError{Node: "0123456789abcdef0123456789abcdef", Code: "x", Message: message})
	}
	if got, want := failure.NotQuorate(api.Cluster{Quorum: 1}, consensus.ErrNotQuorate).Message, "not quorate: its voters are not known here yet; nothing was changed"; got != want {
		t.Errorf("after a boot of a part of the cluster: %q, want %q", got, want)
	}
	for _, tc := range []struct {
		name         string
		err          error
		text, advice string
	}{
		{"no leader", consensus.ErrNotQuorate, plain, look},
		{"the other node leads no more", notTaken(there("not the leader")), plain, look},
		{"this node leads", notTaken(here), vote, "try again; if it stays so, " + look},
		{"another node leads", notTaken(there(here.Error())), vote, "try again; if it stays so, " + look},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := failure.NotQuorate(api.Cluster{Votes: 2, Voters: 3, Quorum: 2, Quorate: tc.text == vote}, tc.err)
			if d := cmp.Diff(&api.Error{Code: api.CodeNotQuorate, Message: tc.text, Hint: tc.advice}, got); d != "" {
				t.Error(d)
			}
		})
	}
}
