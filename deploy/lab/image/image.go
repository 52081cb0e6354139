// Package image makes the disk that all machines of the lab start from, once, and keeps it in a cache under a hash of
// everything that decides what is on it: Debian with OpenZFS, systemd and sshd, and a first stage that boots quickly
// under emulation. It starts no machine. Package lab calls it.
package image

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tandemd/tandem/deploy/lab/folder"
	"github.com/tandemd/tandem/deploy/lab/host"
)

// imageFormat is part of the image's key: raise it when the builder itself changes what comes out.
const imageFormat = "1"

// imageSuite is the Debian release of the machines.
const imageSuite = "trixie"

// imageInputs is everything that decides what is in the image, but for the packages of the mirror's day.
//
//go:embed base.sh customize.sh init.sh packages.txt all:rootfs
var imageInputs embed.FS

// Options say where images are and where they come from.
type Options struct {
	CacheDir string                // CacheDir has the folders images, bases and templates
	Mirror   string                // Mirror is the Debian mirror; taken from the host's apt sources where it is empty
	InUse    func(dir string) bool // InUse tells whether a lab runs on the image in this folder
}

// Image is a finished image in the cache.
type Image struct {
	dir string
}

// At is the image in a folder of the cache.
func At(dir string) Image { return Image{dir: dir} }

// Dir is the image's folder.
func (i Image) Dir() string { return i.dir }

// Key is the hash of what the image was made of.
func (i Image) Key() string { return filepath.Base(i.dir) }

// Templates is the folder for what is saved of machines that ran the image; it goes with the image.
func (i Image) Templates() string {
	return filepath.Join(filepath.Dir(filepath.Dir(i.dir)), "templates", i.Key())
}

// Root is the disk that machines put their own on.
func (i Image) Root() string { return filepath.Join(i.dir, "root.qcow2") }

// Kernel is what QEMU boots.
func (i Image) Kernel() string { return filepath.Join(i.dir, "vmlinuz") }

// Initrd is the first stage, which finds the root disk.
func (i Image) Initrd() string { return filepath.Join(i.dir, "initrd.img") }

// SSHKey is the private key that machines let in.
func (i Image) SSHKey() string { return filepath.Join(i.dir, "id_ed25519") }

// KnownHosts has the key that machines have.
func (i Image) KnownHosts() string { return filepath.Join(i.dir, "known_hosts") }

// Versions tells what the machines run, one program and version a line.
func (i Image) Versions() string {
	text, err := os.ReadFile(filepath.Join(i.dir, "versions"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// inputsKey hashes the inputs of an image, names and contents, and further words.
func inputsKey(inputs fs.FS, words ...string) (string, error) {
	err := fs.WalkDir(inputs, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := fs.ReadFile(inputs, path)
		if err != nil {
			return err
		}
		words = append(words, path, string(content))
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("hash the image's inputs: %w", err)
	}
	return folder.Key(words...), nil
}

// packageList reads a list of Debian packages, one a line, with comments.
func packageList(text string) []string {
	var packages []string
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		packages = append(packages, strings.Fields(line)...)
	}
	return packages
}

// Ensure returns the image of today's inputs, building it where the cache does not have it.
func Ensure(ctx context.Context, opts Options, p *host.Progress) (Image, error) {
	key, err := inputsKey(imageInputs, imageFormat, imageSuite)
	if err != nil {
		return Image{}, err
	}
	images := filepath.Join(opts.CacheDir, "images")
	img := Image{dir: filepath.Join(images, key)}
	if touch(img.dir) == nil {
		return img, nil
	}
	lock, err := folder.WaitLock(ctx, images, func() { p.Say("another process builds an image; waiting for it") })
	if err != nil {
		return Image{}, fmt.Errorf("lock the images in %s: %w", images, err)
	}
	defer lock.Release()
	if touch(img.dir) == nil {
		return img, nil
	}
	if err := folder.Sweep(images); err != nil {
		return Image{}, err
	}
	if err := buildImage(ctx, opts, img, p); err != nil {
		return Image{}, fmt.Errorf("build the image: %w", err)
	}
	return img, prune(images, img.dir, opts.InUse)
}

// touch marks something in the cache as used now; it fails where that is not there.
func touch(path string) error {
	t := host.Now()
	return os.Chtimes(path, t, t)
}

// keepOthers is how much of each kind stays in the cache that is not today's: going back to another branch should be quick.
const keepOthers = 1

// prune removes the images in a folder, with what was saved of machines that ran them, but for today's, the others used last,
// and those in use.
func prune(images, today string, inUse func(dir string) bool) error {
	old, err := unused(images, today)
	if err != nil {
		return err
	}
	for _, dir := range old {
		if inUse(dir) {
			continue
		}
		if err := errors.Join(os.RemoveAll(At(dir).Templates()), os.RemoveAll(dir)); err != nil {
			return fmt.Errorf("clean the cache: %w", err)
		}
	}
	return nil
}

// unused returns the folders of a cache that are neither today's nor among the others used last.
func unused(parent, today string) ([]string, error) {
	found, err := filepath.Glob(filepath.Join(parent, "[0-9a-f]*"))
	if err != nil {
		return nil, fmt.Errorf("look through the cache: %w", err)
	}
	used := map[string]time.Time{}
	for _, path := range found {
		info, err := os.Stat(path)
		if err != nil {
			return nil, fmt.Errorf("look through the cache: %w", err)
		}
		used[path] = info.ModTime()
	}
	slices.SortFunc(found, func(a, b string) int { return used[b].Compare(used[a]) })
	found = slices.DeleteFunc(found, func(path string) bool { return path == today })
	return found[min(keepOthers, len(found)):], nil
}
