package guard

import (
	"fmt"
	"io"

	"github.com/hashicorp/raft"
)

// Raft is what the guard asks the raft that it guards.
type Raft interface {
	CurrentTerm() uint64
	AppliedIndex() uint64
	LastIndex() uint64
	LeaderWithID() (raft.ServerAddress, raft.ServerID)
}

// covered is where the newest snapshot ends, once raft has applied all of it: up to
// there the log is confirmed, and the same everywhere. Zero: there is none.
func (g *Guard) covered() Entry {
	r := g.raft.Load()
	g.mu.Lock()
	newest := g.newest
	g.mu.Unlock()
	if r == nil || (*r).AppliedIndex() < newest.Index {
		return Entry{}
	}
	return newest
}

// madeSnapshot notes where a snapshot ends that is on disk.
func (g *Guard) madeSnapshot(end Entry) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if end.Index > g.newest.Index {
		g.newest = end
	}
}

// append hands raft the entries that a leader sends, as far as they are no part of
// this node's snapshot. Raft 1.8 looks for the entry before them in its log, from
// which it may be gone, and would be sent a snapshot that is older than its own.
//
// It also takes all entries in its log for confirmed that the leader says are, even
// those that the leader has not compared yet. The leader vouches up to the last
// entry that it sends (Raft, figure 2: "set commitIndex = min(leaderCommit, index of
// last new entry)").
func (w *Wire) append(rpc raft.RPC, c *raft.AppendEntriesRequest) {
	narrowed, covered := *c, w.log.guard.covered()
	if c.PrevLogEntry < covered.Index {
		known := min(covered.Index-c.PrevLogEntry, uint64(len(c.Entries)))
		if last := c.PrevLogEntry + known; last == covered.Index && known > 0 && c.Entries[known-1].Term != covered.Term {
			w.contradicts(rpc, covered, Entry{c.Entries[known-1].Term, last})
			return
		}
		narrowed.Entries = c.Entries[known:]
		narrowed.PrevLogEntry, narrowed.PrevLogTerm = covered.Index, covered.Term
	}
	narrowed.LeaderCommitIndex = min(c.LeaderCommitIndex, narrowed.PrevLogEntry+uint64(len(narrowed.Entries)))
	rpc.Command = &narrowed
	w.hand(rpc)
}

// vote hands raft a candidate. One whose log is beyond this node's may know of voters
// that this node has not heard of: raft 1.8 refuses those that do not vote by its own
// configuration, unless they do not say who they are ("servers … grant votes to
// candidates that are not part of the server's current configuration", Ongaro's
// dissertation, 4.1).
func (w *Wire) vote(rpc raft.RPC, c *raft.RequestVoteRequest) {
	if w.log.behind(Entry{c.LastLogTerm, c.LastLogIndex}) {
		unnamed := *c
		unnamed.ID = nil
		rpc.Command = &unnamed
	}
	w.hand(rpc)
}

// wouldVote answers for raft whether it would vote for such a candidate; raft has no
// way to be asked that.
func (w *Wire) wouldVote(rpc raft.RPC, c *raft.RequestPreVoteRequest) {
	leads, _ := w.raft.LeaderWithID()
	if leads != "" || c.Term < w.raft.CurrentTerm() || !w.log.behind(Entry{c.LastLogTerm, c.LastLogIndex}) {
		w.hand(rpc)
		return
	}
	if err := w.check(); err != nil {
		refuse(rpc, err)
		return
	}
	rpc.Respond(&raft.RequestPreVoteResponse{RPCHeader: raft.RPCHeader{ProtocolVersion: c.ProtocolVersion}, Term: c.Term, Granted: true}, nil)
}

// behind says whether this node's log ends before another one's last entry.
func (l *Log) behind(last Entry) bool {
	index, err := l.LastIndex()
	if err != nil {
		return false
	}
	l.guard.mu.Lock()
	ours := l.guard.newest
	l.guard.mu.Unlock()
	if index > ours.Index {
		var e raft.Log
		if err := l.GetLog(index, &e); err != nil {
			return false
		}
		ours = Entry{e.Term, index}
	}
	return last.Term > ours.Term || last.Term == ours.Term && last.Index > ours.Index
}

// contradicts refuses a leader that has another entry where this node's snapshot
// ends; one that was deposed is told so by raft.
func (w *Wire) contradicts(rpc raft.RPC, ours, theirs Entry) {
	if c, ok := rpc.Command.(*raft.AppendEntriesRequest); ok && c.Term < w.raft.CurrentTerm() {
		w.hand(rpc)
		return
	}
	refuse(rpc, fmt.Errorf("entry %d is of term %d here, where it is confirmed, and of term %d there: this node's ledger and the leader's have parted",
		ours.Index, ours.Term, theirs.Term))
}

// install hands raft a snapshot that a leader sends, if it brings something. Raft 1.8
// takes any: it would go back to one that is long past, and empty the log, which
// others count on.
func (w *Wire) install(rpc raft.RPC, c *raft.InstallSnapshotRequest) {
	if err := w.quiet(c.RPCHeader); err != nil {
		refuse(rpc, err)
		return
	}
	end := Entry{c.LastLogTerm, c.LastLogIndex}
	covered := w.log.guard.covered()
	if covered.Index == end.Index && covered.Term != end.Term {
		w.contradicts(rpc, covered, end)
		return
	}
	has, err := w.log.has(end)
	switch {
	case err != nil:
		refuse(rpc, err)
	case has || covered.Index >= end.Index:
		read(rpc, func() { rpc.Respond(&raft.InstallSnapshotResponse{Term: c.Term, Success: true}, nil) })
	default:
		w.replace(rpc, end.Index)
	}
}

// quiet returns once raft has done all that it was told: a call of no term is refused
// by raft at once, and changes nothing.
func (w *Wire) quiet(header raft.RPCHeader) error {
	if err := w.check(); err != nil || w.raft.CurrentTerm() == 0 { // It was never told anything.
		return err
	}
	answered := make(chan raft.RPCResponse, 1)
	w.hand(raft.RPC{Command: &raft.AppendEntriesRequest{RPCHeader: header}, RespChan: answered})
	for {
		muted, changed := w.state()
		if muted {
			return errMute
		}
		select {
		case a := <-answered:
			return a.Error
		case <-changed:
		case <-w.done:
			return errMute
		}
	}
}

// replace lets raft take a snapshot. Where the log reached beyond its end raft must be
// started anew before it is told anything else: raft 1.8 empties the log and still
// believes that it ends where it did, so that it asks for the snapshot again and
// again, or panics (https://github.com/hashicorp/raft/issues/697).
func (w *Wire) replace(rpc raft.RPC, end uint64) {
	last, err := w.log.LastIndex()
	if err != nil {
		refuse(rpc, err)
		return
	}
	answered := make(chan raft.RPCResponse, 1)
	inner := rpc
	inner.RespChan = answered
	w.hand(inner)
	select {
	case a := <-answered:
		r, ok := a.Response.(*raft.InstallSnapshotResponse)
		if a.Error == nil && ok && r.Success && (last >= end || w.raft.LastIndex() > end) {
			w.Finish()
			w.anew()
		}
		rpc.Respond(a.Response, a.Error)
	case <-w.done:
		refuse(rpc, errMute)
	}
}

// read reads what comes with a snapshot to its end, and then calls then: it must be
// read before the next call can be. This ends with the connection.
func read(rpc raft.RPC, then func()) {
	go func() {
		_, _ = io.Copy(io.Discard, rpc.Reader)
		then()
	}()
}
