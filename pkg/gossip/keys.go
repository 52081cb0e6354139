package gossip

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/hashicorp/memberlist"
)

const keySize = 32 // AES-256

// Keys are the cluster's gossip keys, 32 bytes each.
type Keys struct {
	Primary []byte   // to send with
	Others  [][]byte // understood too, while the key is being changed
}

// list is the keys without repetitions, the one to send with first.
func (k Keys) list() ([][]byte, error) {
	if len(k.Primary) == 0 {
		return nil, errors.New("no key given, and without one it does not start")
	}
	var out [][]byte
	for _, key := range append([][]byte{k.Primary}, k.Others...) {
		if len(key) != keySize {
			return nil, fmt.Errorf("a key of %d bytes, must have %d", len(key), keySize)
		}
		if !contains(out, key) {
			out = append(out, bytes.Clone(key))
		}
	}
	return out, nil
}

func contains(keys [][]byte, key []byte) bool {
	return slices.ContainsFunc(keys, func(k []byte) bool { return bytes.Equal(k, key) })
}

// SetKeys changes the keys, without a moment in which a message under one that is
// in the old set and in the new one is lost. To change the cluster's key each node
// is first given the new one among the others, then as the one to send with, then
// alone, each once all nodes have taken the step before.
func (g *Gossip) SetKeys(k Keys) error {
	want, err := k.list()
	if err != nil {
		return fmt.Errorf("gossip: %w", err)
	}
	g.keysMu.Lock()
	defer g.keysMu.Unlock()
	if slices.EqualFunc(want, g.keys.GetKeys(), bytes.Equal) {
		return nil
	}
	if err := arrange(g.keys, want); err != nil {
		return fmt.Errorf("gossip: change the keys: %w", err)
	}
	if err := g.guard.SetKeys(want); err != nil {
		return fmt.Errorf("gossip: change the keys: %w", err)
	}
	g.Rejoin() // who had missed the change can be heard again
	return nil
}

// arrange makes a keyring hold these keys in this order. A Keyring hands its
// slice to readers who hold no lock, and RemoveKey moves the rest of that slice down
// in place: a reader would skip a key that is there. The last one it removes
// without moving anything, so those that go are brought to the end first.
func arrange(ring *memberlist.Keyring, want [][]byte) error {
	for _, key := range want {
		if err := ring.AddKey(key); err != nil {
			return err
		}
	}
	if have := ring.GetKeys(); !slices.EqualFunc(want, have[:len(want)], bytes.Equal) {
		for _, key := range slices.Backward(want) { // UseKey puts a key before the others
			if err := ring.UseKey(key); err != nil {
				return err
			}
		}
	}
	for have := ring.GetKeys(); len(have) > len(want); have = ring.GetKeys() {
		if err := ring.RemoveKey(have[len(have)-1]); err != nil {
			return err
		}
	}
	return nil
}
