package replicate_test

import "fmt"

// killAt makes the daemons of the given nodes die at the nth thing they do: from
// then on nothing that they try has an effect. It returns whether it came to that.
func (w *world) killAt(nth int, nodes ...string) (died func() bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	count := 0
	for _, n := range nodes {
		w.node(n).trap = func(what string) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			if count++; count >= nth {
				return fmt.Errorf("%w at %s", errKilled, what)
			}
			return nil
		}
	}
	return func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return count >= nth
	}
}
