package zfs

// ParseForTest parses the output of a listing of tank/ct, given in pieces of n bytes.
func ParseForTest(out []byte, n int) Dataset {
	inv := newInventory([]string{"tank/ct"})
	for len(out) > 0 {
		k := min(n, len(out))
		_, _ = inv.Write(out[:k])
		out = out[k:]
	}
	return *inv.byName["tank/ct"]
}
