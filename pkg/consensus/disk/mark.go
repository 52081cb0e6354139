package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// mark remembers up to which index the log was acknowledged, so that an end of the
// log that became unreadable is not taken for a write that was cut. It is raised
// without a sync: what it says after a power cut may be old, which is still true.
// It is lowered with one, before entries are removed.
type mark struct {
	file   *os.File
	index  uint64
	raised bool // since it was synced
}

func markLine(index uint64) string {
	digits := fmt.Sprintf("%020d", index)
	return fmt.Sprintf("%s %08x\n", digits, checksum(nil, []byte(digits)))
}

// openMark opens the file; one that is missing or cannot be believed says nothing.
func openMark(path string) (*mark, error) {
	m := &mark{}
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var index uint64
	if _, err := fmt.Sscanf(string(b), "%d", &index); err == nil && string(b) == markLine(index) {
		m.index = index
	}
	if m.file, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, err
	}
	if m.index == 0 {
		err = m.file.Truncate(0)
	}
	return m, err
}

// raise is called after index was acknowledged. That it fails makes the mark say
// less, never something wrong.
func (m *mark) raise(index uint64) {
	if _, err := m.file.WriteAt([]byte(markLine(index)), 0); err == nil {
		m.index, m.raised = index, true
	}
}

// lower makes the mark say no more than index, durably.
func (m *mark) lower(index uint64) error {
	if err := writeSynced(m.file, []byte(markLine(index)), 0); err != nil {
		return err
	}
	m.index, m.raised = index, false
	return nil
}

func (m *mark) close() error {
	var err error
	if m.raised {
		err = m.file.Sync()
	}
	return errors.Join(err, m.file.Close())
}
