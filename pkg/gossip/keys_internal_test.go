package gossip

import (
	"bytes"
	"slices"
	"testing"

	"github.com/hashicorp/memberlist"
	"pgregory.net/rapid"
)

// A reader of the keyring never misses a key that is in the old set and in the new
// one, whatever is changed: readers hold no lock while they try the keys.
func TestArrange_ReadersMissNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		some := rapid.SliceOfNDistinct(rapid.IntRange(0, 5), 1, 5, rapid.ID[int])
		keys := func(numbers []int) (out [][]byte) {
			for _, n := range numbers {
				out = append(out, bytes.Repeat([]byte{byte(n)}, keySize))
			}
			return out
		}
		before, after := keys(some.Draw(t, "before")), keys(some.Draw(t, "after"))
		ring, err := memberlist.NewKeyring(before, before[0])
		if err != nil {
			t.Fatal(err)
		}
		reader := ring.GetKeys()
		if err := arrange(ring, after); err != nil {
			t.Fatal(err)
		}
		if !slices.EqualFunc(reader, before, bytes.Equal) {
			t.Fatal("what a reader holds was changed under its hands")
		}
		if !slices.EqualFunc(ring.GetKeys(), after, bytes.Equal) {
			t.Fatalf("the keys are %v, want %v", ring.GetKeys(), after)
		}
	})
}
