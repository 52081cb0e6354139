package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/tandemd/tandem/deploy/lab/folder"
)

// recordsDir has a folder for each lab that is up, or was when its tool died.
const recordsDir = "/run/tandem-lab"

const recordFile = "lab.json"

// Phases of a lab.
const (
	phaseStarting = "starting" // being made or changed as a whole; whoever finds this without the lock cleans up
	phaseUp       = "up"
)

// record is what other calls need to know of a lab.
type record struct {
	Phase     string `json:"phase"`
	Nodes     int    `json:"nodes"`
	MemoryMiB int    `json:"memory_mib"`
	CPUs      int    `json:"cpus"`
	DiskGiB   int    `json:"disk_gib"`
	CacheDir  string `json:"cache_dir"`
	ImageDir  string `json:"image_dir"`
	Accel     string `json:"accel"`
}

// DownError says that there is no lab of this name.
type DownError struct {
	Name   string
	Broken bool // it is there, but whoever made or changed it did not finish
}

// Error names the lab and what to do.
func (e *DownError) Error() string {
	if e.Broken {
		return fmt.Sprintf("lab %q is not complete: its start was interrupted, or goes on at this moment; `labctl up` starts afresh", e.Name)
	}
	return fmt.Sprintf("lab %q is not up; `labctl up` starts it", e.Name)
}

// UpError says that a lab of this name is there already.
type UpError struct {
	Name  string
	Nodes int
}

// Error names the lab and what to do.
func (e *UpError) Error() string {
	return fmt.Sprintf("lab %q is up already, with %d machines; `labctl down` ends it", e.Name, e.Nodes)
}

func labRunDir(name string) string { return filepath.Join(recordsDir, name) }

// readRecord returns what is known of a lab.
func readRecord(name string) (record, error) {
	var rec record
	err := folder.ReadJSON(filepath.Join(labRunDir(name), recordFile), &rec)
	if errors.Is(err, os.ErrNotExist) {
		return rec, &DownError{Name: name}
	}
	return rec, err
}

// writeRecord tells others what is known of the lab from now on.
func (l *Lab) writeRecord(phase string) error {
	l.rec.Phase = phase
	return folder.WriteJSON(filepath.Join(l.runDir(), recordFile), l.rec)
}

// imageInUse reports whether a lab runs on the image.
func imageInUse(dir string) bool {
	found, err := filepath.Glob(filepath.Join(recordsDir, "*", recordFile))
	if err != nil {
		return true
	}
	for _, path := range found {
		var rec record
		if folder.ReadJSON(path, &rec) == nil && rec.ImageDir == dir {
			return true
		}
	}
	return false
}
