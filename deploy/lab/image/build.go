package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/tandemd/tandem/deploy/lab/folder"
	"github.com/tandemd/tandem/deploy/lab/host"
)

// rootSizeGiB is the size of a machine's root disk; it is sparse.
const rootSizeGiB = 4

// buildImage builds into a folder aside and gives it its name when it is complete and on the disk.
func buildImage(ctx context.Context, opts Options, img Image, p *host.Progress) (err error) {
	mirror := opts.Mirror
	if mirror == "" {
		if mirror, err = hostMirror(); err != nil {
			return err
		}
	}
	work, lock, err := folder.Work(filepath.Dir(img.dir))
	if err != nil {
		return err
	}
	defer lock.Release()
	defer func() {
		if err != nil {
			err = errors.Join(err, folder.RemoveTree(context.WithoutCancel(ctx), work))
		}
	}()
	build := imageBuild{
		work: work, out: filepath.Join(work, "out"), bases: filepath.Join(opts.CacheDir, "bases"), mirror: mirror, progress: p,
	}
	for _, step := range []func(context.Context) error{build.unpackInputs, build.base, build.customize, build.disk} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	if err := os.Rename(build.out, filepath.Join(work, "image")); err != nil {
		return fmt.Errorf("collect the image: %w", err)
	}
	if err := folder.Publish(filepath.Join(work, "image"), img.dir); err != nil {
		return err
	}
	p.Say("image %s is in the cache", img.Key())
	return folder.RemoveTree(ctx, work)
}

// imageBuild is one build: work holds inputs, the root tree and the results until they are complete.
//
// It has two stages, because one takes minutes and the other seconds. The base is Debian with the packages and the ZFS
// module, kept in the cache under a hash of what decides it; customizing it gives the image.
type imageBuild struct {
	work     string
	out      string
	bases    string
	mirror   string
	progress *host.Progress
}

func (b imageBuild) unpackInputs(context.Context) error {
	if err := os.CopyFS(filepath.Join(b.work, "inputs"), imageInputs); err != nil {
		return fmt.Errorf("unpack the image's inputs: %w", err)
	}
	// Embedded files carry no modes.
	for _, script := range []string{"base.sh", "customize.sh"} {
		if err := os.Chmod(b.input(script), 0o700); err != nil {
			return fmt.Errorf("unpack the image's inputs: %w", err)
		}
	}
	if err := os.Mkdir(b.out, 0o700); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	return nil
}

func (b imageBuild) input(name string) string { return filepath.Join(b.work, "inputs", name) }

// baseArchive is the base tree in its folder.
const baseArchive = "root.tar.zst"

// base unpacks the base tree, making it where the cache does not have it.
func (b imageBuild) base(ctx context.Context) error {
	list, err := os.ReadFile(b.input("packages.txt"))
	if err != nil {
		return fmt.Errorf("read the package list: %w", err)
	}
	script, err := os.ReadFile(b.input("base.sh"))
	if err != nil {
		return fmt.Errorf("read the script of the base: %w", err)
	}
	packages := packageList(string(list))
	words := append([]string{imageFormat, imageSuite, string(script)}, packages...)
	final := filepath.Join(b.bases, folder.Key(words...))
	if !folder.Exists(final) {
		if err := b.debian(ctx, packages, final); err != nil {
			return err
		}
		old, err := unused(b.bases, final)
		if err != nil {
			return err
		}
		for _, dir := range old {
			if err := os.RemoveAll(dir); err != nil {
				return fmt.Errorf("clean the cache: %w", err)
			}
		}
	}
	if err := touch(final); err != nil {
		return fmt.Errorf("note that the base is used: %w", err)
	}
	b.progress.Say("unpacking the base")
	root := filepath.Join(b.work, "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	_, err = host.Run(ctx, "tar", "-C", root, "--zstd", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", filepath.Join(final, baseArchive))
	return err
}

// debian makes the base tree and publishes it.
func (b imageBuild) debian(ctx context.Context, packages []string, final string) error {
	b.progress.Say("building the base of the machine image (Debian %s with OpenZFS, once, 5 to 7 minutes)", imageSuite)
	made := filepath.Join(b.work, "base")
	for _, dir := range []string{made, b.bases} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make folder: %w", err)
		}
	}
	args := []string{
		"nice", "-n", "5", host.Tool("mmdebstrap"), "--mode=root", "--variant=minbase", "--components=main,contrib",
		"--skip=cleanup/apt/lists,cleanup/tmp", "--include=" + strings.Join(packages, ","), "--customize-hook=" + b.input("base.sh"),
	}
	args = append(args, aptProxy(ctx)...)
	args = append(args, imageSuite, filepath.Join(made, baseArchive), b.mirror)
	if err := b.inNamespaces(ctx, args); err != nil {
		return err
	}
	return folder.Publish(made, final)
}

// customize makes the lab's root tree of the base.
func (b imageBuild) customize(ctx context.Context) error {
	b.progress.Say("customizing it")
	return b.inNamespaces(ctx, []string{b.input("customize.sh"), filepath.Join(b.work, "root")})
}

// inNamespaces runs a program in mount and process namespaces of its own: whatever ends the build, no mount and no
// process of it stays.
func (b imageBuild) inNamespaces(ctx context.Context, words []string) error {
	args := append([]string{"--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"}, words...)
	cmd := host.Command(ctx, "unshare", args...)
	cmd.Env = append(cmd.Env, "LAB_OUT="+b.out, "TMPDIR="+b.work)
	narrator := &buildNarrator{progress: b.progress}
	cmd.Stdout, cmd.Stderr = narrator, narrator
	if err := host.RunBound(cmd); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("%s: %w; its last words: %s", strings.Join(words, " "), err, host.Tail(narrator.last.String(), 12))
	}
	return nil
}

// disk makes the file system of the root tree without mounting anything.
func (b imageBuild) disk(ctx context.Context) error {
	b.progress.Say("making the root disk")
	raw := filepath.Join(b.work, "root.raw")
	if _, err := host.Run(ctx, "mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-N", "131072", "-J", "size=32",
		"-E", "lazy_itable_init=0,lazy_journal_init=0", "-d", filepath.Join(b.work, "root"), raw,
		fmt.Sprintf("%dG", rootSizeGiB)); err != nil {
		return err
	}
	_, err := host.Run(ctx, "qemu-img", "convert", "-O", "qcow2", raw, filepath.Join(b.out, "root.qcow2"))
	return err
}

// aptProxy hands the host's own apt proxy on to the build.
func aptProxy(ctx context.Context) []string {
	dump, err := host.Run(ctx, "apt-config", "dump", "--format", "%f \"%v\"%n", "Acquire::http::Proxy", "Acquire::https::Proxy")
	if err != nil {
		return nil // not a Debian host, or no apt: nothing to hand on
	}
	var args []string
	for line := range strings.Lines(dump) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasSuffix(line, `""`) {
			args = append(args, "--aptopt="+line)
		}
	}
	return args
}

// buildNarrator keeps the last words of mmdebstrap and passes its headings on.
type buildNarrator struct {
	progress *host.Progress
	last     bytes.Buffer
	line     []byte
}

var _ io.Writer = (*buildNarrator)(nil)

func (n *buildNarrator) Write(data []byte) (int, error) {
	for _, c := range data {
		if c != '\n' {
			n.line = append(n.line, c)
			continue
		}
		line := string(n.line)
		n.line = n.line[:0]
		if heading, ok := strings.CutPrefix(line, "I: "); ok {
			n.progress.Say("  %s", strings.TrimSpace(heading))
		}
		if n.last.Len() > 1<<16 {
			n.last.Reset()
		}
		n.last.WriteString(line + "\n")
	}
	return len(data), nil
}
