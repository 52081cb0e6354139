package zerr

// Phrases are the texts of the table, each in its parts.
func Phrases() [][]string {
	var out [][]string
	for _, p := range phrases() {
		out = append(out, p.parts)
	}
	return out
}
