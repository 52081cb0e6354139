package consensus

import "time"

// heraldTimeout bounds how long an entry of herald's waits for its place in the log.
const heraldTimeout = time.Second

// herald lets the followers learn at once what is confirmed. Raft tells them with the
// next entry, or else after Timing.Commit, for which whoever gave a command on another
// node would wait to see it there. So the leader adds an empty entry, unless one is on
// its way to them already.
func (r *run) herald() {
	for {
		select {
		case <-r.confirmed:
		case <-r.life.Done():
			return
		}
		if r.leads() && !r.lonely() && r.raft.LastIndex() == r.raft.CommitIndex() {
			_ = r.await(r.life, r.raft.Barrier(heraldTimeout), nil) // else they learn it later
		}
	}
}

// lonely says whether nobody follows.
func (r *run) lonely() bool {
	f := r.raft.GetConfiguration()
	return f.Error() == nil && len(f.Configuration().Servers) == 1
}
