package disk

// OpenLog opens a log whose segments are small.
func OpenLog(dir string, limit int64) (*Log, error) { return openLog(dir, limit) }
