package zvol

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

const disk = "tank/guests/vm-100-disk-0"

// machine has the devices that names tells the datasets of, without links.
func machine(t *testing.T, names map[string]string) Devices {
	t.Helper()
	dir := t.TempDir()
	d := Devices{Dev: filepath.Join(dir, "dev"), Sys: filepath.Join(dir, "sys")}
	for device := range names {
		if err := errors.Join(os.MkdirAll(d.Dev, 0o700), os.WriteFile(filepath.Join(d.Dev, device), nil, 0o600),
			os.MkdirAll(filepath.Join(d.Sys, "block", device), 0o700)); err != nil {
			t.Fatal(err)
		}
	}
	d.name = func(f *os.File) (string, error) { return names[filepath.Base(f.Name())], nil }
	return d
}

// link is what udev does.
func (d Devices) makeLink(t *testing.T, dataset, device string) {
	t.Helper()
	at := filepath.Join(d.Dev, "zvol", dataset)
	to := strings.Repeat("../", strings.Count(dataset, "/")+1) + device
	if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o700), os.Symlink(to, at)); err != nil {
		t.Error(err)
	}
}

func TestFind_ByTheLinkOrWithoutIt(t *testing.T) {
	t.Parallel()
	d := machine(t, map[string]string{"zd0": "tank/guests/vm-101-disk-0", "zd16": disk})
	d.makeLink(t, "tank/guests/vm-101-disk-0", "zd0")
	asked := map[string]bool{}
	d.open = func(device string) (*os.File, error) {
		asked[filepath.Base(device)] = true
		return os.Open(device)
	}
	if got, err := d.Find(disk); err != nil || got != filepath.Join(d.Dev, "zd16") {
		t.Errorf("without a link: %q, %v; want zd16", got, err)
	}
	// An open device is in the way of those who want to destroy it.
	if asked["zd0"] {
		t.Error("a device with a link was opened")
	}
	if _, err := d.Find("tank/guests/vm-102-disk-0"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a device: %v", err)
	}
	d.makeLink(t, disk, "zd16")
	if got, err := d.Find(disk); err != nil || got != filepath.Join(d.Dev, "zvol", disk) {
		t.Errorf("with a link: %q, %v; want that", got, err)
	}
}

func TestFind_SaysWhenItCannotTell(t *testing.T) {
	t.Parallel()
	d := machine(t, map[string]string{"zd0": disk})
	d.open = func(device string) (*os.File, error) {
		return nil, &os.PathError{Op: "open", Path: device, Err: errRestart}
	}
	if _, err := d.Find("tank/guests/vm-102-disk-0"); err == nil || errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "zd0") {
		t.Errorf("%v, want that zd0 may be it", err)
	}
}

func TestWait_UntilTheDeviceCanBeOpened(t *testing.T) {
	t.Parallel()
	d := machine(t, map[string]string{"zd0": ""})
	synctest.Test(t, func(t *testing.T) {
		tries, path := 0, ""
		d.open = func(device string) (*os.File, error) {
			if path = device; !strings.HasSuffix(device, disk) {
				return os.Open(device)
			}
			if tries++; tries < 5 {
				return nil, &os.PathError{Op: "open", Path: device, Err: errRestart}
			}
			return os.Open(device)
		}
		// udev takes its time.
		time.AfterFunc(time.Second, func() { d.makeLink(t, disk, "zd0") })
		got, err := d.Wait(t.Context(), disk)
		if err != nil || got != path || tries != 5 {
			t.Errorf("Wait: %q, %v after %d tries; want %s after 5", got, err, tries, path)
		}
	})
}

func TestWait_TellsWhyItCannot(t *testing.T) {
	t.Parallel()
	d := machine(t, map[string]string{"zd0": ""})
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := d.Wait(ctx, disk); !errors.Is(err, os.ErrNotExist) || ctx.Err() == nil {
			t.Errorf("without a device: %v, want that there is none after all the time", err)
		}
		d.makeLink(t, disk, "zd0")
		d.open = func(device string) (*os.File, error) {
			return nil, &os.PathError{Op: "open", Path: device, Err: syscall.EACCES}
		}
		start := time.Now()
		if _, err := d.Wait(t.Context(), disk); !errors.Is(err, syscall.EACCES) || time.Since(start) != 0 {
			t.Errorf("a device that may not be opened: %v after %s, want the reason at once", err, time.Since(start))
		}
	})
}
