package api

import "fmt"

// Size is n bytes for people, in at most 5 columns, as zfs prints it: 1K is 1024.
func Size(n uint64) string {
	if n < 1024 {
		return fmt.Sprintf("%dB", n)
	}
	v, unit := float64(n), 0
	for ; v >= 1023.5 && unit < 6; unit++ {
		v /= 1024
	}
	if v < 9.95 {
		return fmt.Sprintf("%.1f%c", v, " KMGTPE"[unit])
	}
	return fmt.Sprintf("%.0f%c", v, " KMGTPE"[unit])
}
