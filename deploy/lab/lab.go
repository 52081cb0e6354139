package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tandemd/tandem/deploy/lab/folder"
	"github.com/tandemd/tandem/deploy/lab/host"
	"github.com/tandemd/tandem/deploy/lab/image"
	"github.com/tandemd/tandem/deploy/lab/network"
	"github.com/tandemd/tandem/deploy/lab/qemu"
)

// Lab is a lab that is up.
type Lab struct {
	opts     Options
	rec      record
	img      image.Image
	ns       network.Namespace
	machines []*Machine
	progress *host.Progress
}

// cleanupTimeout bounds the removal of a lab after its context has ended.
const cleanupTimeout = time.Minute

// BuildImage makes sure that the machines' image is in the cache and returns its folder. It installs the Debian packages
// that the host lacks.
func BuildImage(ctx context.Context, opts Options) (string, error) {
	if err := opts.Validate(); err != nil {
		return "", err
	}
	opts = opts.filled()
	p := host.NewProgress(opts.Log)
	if err := host.Prepare(ctx, p); err != nil {
		return "", err
	}
	img, err := image.Ensure(ctx, opts.image(), p)
	return img.Dir(), err
}

// Up starts a lab and returns when all its machines are ready. It installs the Debian packages that the host lacks,
// builds the image and boots and saves the machines where the cache does not have them. Where it fails, or ctx ends, it leaves
// nothing behind but the cache. A lab of the name that is up gives an *UpError.
func Up(ctx context.Context, opts Options) (*Lab, error) {
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	opts = opts.filled()
	l := newLab(opts, host.NewProgress(opts.Log))
	if err := host.Prepare(ctx, l.progress); err != nil {
		return nil, err
	}
	lock, err := folder.WaitLock(ctx, l.runDir(), func() { l.progress.Say("another process works on the lab %q; waiting for it", opts.Name) })
	if err != nil {
		return nil, fmt.Errorf("lock the lab %q: %w", opts.Name, err)
	}
	defer lock.Release()
	if rec, err := readRecord(opts.Name); err == nil && rec.Phase == phaseUp {
		return nil, &UpError{Name: opts.Name, Nodes: rec.Nodes}
	}
	if err := l.remove(ctx); err != nil {
		return nil, fmt.Errorf("remove what is left of an earlier lab: %w", err)
	}
	if err := l.build(ctx); err != nil {
		l.progress.Say("cleaning up")
		after, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
		defer cancel()
		return nil, errors.Join(err, l.remove(after), l.forget())
	}
	return l, nil
}

// Open finds a lab that is up. One that is not gives a *DownError.
func Open(name string, opts Options) (*Lab, error) {
	opts.Name = name
	if err := opts.Validate(); err != nil {
		return nil, err
	}
	rec, err := readRecord(name)
	if err != nil {
		return nil, err
	}
	if rec.Phase != phaseUp {
		return nil, &DownError{Name: name, Broken: true}
	}
	opts.Nodes, opts.MemoryMiB, opts.CPUs, opts.DiskGiB, opts.CacheDir = rec.Nodes, rec.MemoryMiB, rec.CPUs, rec.DiskGiB, rec.CacheDir
	opts = opts.filled()
	l := newLab(opts, host.NewProgress(opts.Log))
	l.rec = rec
	l.useImage(image.At(rec.ImageDir))
	return l, nil
}

// Down ends a lab, up or left over, and removes everything but the cache. That there is no such lab is no error.
func Down(ctx context.Context, opts Options) error {
	if err := opts.Validate(); err != nil {
		return err
	}
	opts = opts.filled()
	if os.Geteuid() != 0 {
		return errors.New("the lab needs root; run it with sudo")
	}
	l := newLab(opts, host.NewProgress(opts.Log))
	lock, err := folder.WaitLock(ctx, l.runDir(), func() { l.progress.Say("another process works on the lab %q; waiting for it", opts.Name) })
	if err != nil {
		return fmt.Errorf("lock the lab %q: %w", opts.Name, err)
	}
	defer lock.Release()
	l.progress.Say("ending lab %q", opts.Name)
	// Once begun it goes through: half a lab is of no use.
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	if err := errors.Join(l.remove(after), l.forget()); err != nil {
		return err
	}
	l.progress.Say("nothing of lab %q is left", opts.Name)
	return nil
}

// Down ends the lab and removes everything but the cache.
func (l *Lab) Down(ctx context.Context) error {
	return Down(ctx, l.opts)
}

// Names returns the names of the labs that are up or left over.
func Names() ([]string, error) {
	entries, err := os.ReadDir(recordsDir)
	if err != nil {
		return nil, folder.IgnoreMissing(err)
	}
	var names []string
	for _, entry := range entries {
		if entry.IsDir() && !strings.HasPrefix(entry.Name(), ".") {
			names = append(names, entry.Name())
		}
	}
	return names, nil
}

func newLab(opts Options, p *host.Progress) *Lab {
	return &Lab{
		opts: opts, ns: network.Of(opts.Name), progress: p,
		rec: record{
			Nodes: opts.Nodes, MemoryMiB: opts.MemoryMiB, CPUs: opts.CPUs, DiskGiB: opts.DiskGiB, CacheDir: opts.CacheDir,
		},
	}
}

// useImage completes the lab with what depends on its image.
func (l *Lab) useImage(img image.Image) {
	l.img, l.rec.ImageDir = img, img.Dir()
	for number := 1; number <= l.opts.Nodes; number++ {
		l.machines = append(l.machines, &Machine{lab: l, name: network.NodeName(number), number: number})
	}
}

// Machines returns the machines n1, n2, … in this order.
func (l *Lab) Machines() []*Machine { return l.machines }

// Machine returns the machine of this name.
func (l *Lab) Machine(name string) (*Machine, error) {
	number, err := network.NodeNumber(name)
	if err != nil {
		return nil, err
	}
	if number > len(l.machines) {
		return nil, fmt.Errorf("machine %q: lab %q has n1 to n%d", name, l.opts.Name, len(l.machines))
	}
	return l.machines[number-1], nil
}

// Name is the name of the lab.
func (l *Lab) Name() string { return l.opts.Name }

// Versions tells what the machines run: kernel, ZFS, systemd, a line each.
func (l *Lab) Versions() string { return l.img.Versions() }

// Namespace is the name of the lab's network namespace, for ip-netns(8).
func (l *Lab) Namespace() string { return string(l.ns) }

func (l *Lab) runDir() string  { return labRunDir(l.opts.Name) }
func (l *Lab) diskDir() string { return filepath.Join(l.opts.CacheDir, "runs", l.opts.Name) }

// build makes everything of the lab; its caller removes what there is of it after a failure.
func (l *Lab) build(ctx context.Context) error {
	if err := l.writeRecord(phaseStarting); err != nil {
		return err
	}
	img, err := image.Ensure(ctx, l.opts.image(), l.progress)
	if err != nil {
		return err
	}
	l.useImage(img)
	if err := l.writeRecord(phaseStarting); err != nil { // from here on the image is in use
		return err
	}
	if l.rec.Accel, err = qemu.Choose(ctx, l.opts.CacheDir, img, l.progress); err != nil {
		return err
	}
	if err := l.buildNetwork(ctx); err != nil {
		return err
	}
	templates, err := l.ensureTemplates(ctx)
	if err != nil {
		return err
	}
	if err := l.startFrom(ctx, func(m *Machine) savedMachine { return templates[m.name] }); err != nil {
		return err
	}
	if err := l.writeRecord(phaseUp); err != nil {
		return err
	}
	l.progress.Say("lab %q is up: %d machines", l.opts.Name, len(l.machines))
	return nil
}

func (l *Lab) buildNetwork(ctx context.Context) error {
	if err := l.ns.Build(ctx); err != nil {
		return err
	}
	for _, m := range l.machines {
		if err := os.MkdirAll(m.runDir(), 0o700); err != nil {
			return fmt.Errorf("make folder: %w", err)
		}
		if err := l.ns.AddCables(ctx, m.name); err != nil {
			return err
		}
	}
	return os.WriteFile(l.sshConfig(), []byte(sshConfigText(l.img, l.machines)), 0o600)
}

// remove ends the lab's processes and removes its network, disks, sockets and logs, whatever there is of them; the locked
// folder itself stays.
func (l *Lab) remove(ctx context.Context) error {
	disks := l.diskDir()
	if rec, err := readRecord(l.opts.Name); err == nil && rec.CacheDir != "" {
		disks = filepath.Join(rec.CacheDir, "runs", l.opts.Name)
	}
	if err := host.KillAll(ctx, l.runDir()+"/"); err != nil {
		return err
	}
	errs := []error{l.ns.Remove(ctx), os.RemoveAll(disks)}
	folder.RemoveEmpty(filepath.Dir(disks))
	entries, err := os.ReadDir(l.runDir())
	errs = append(errs, folder.IgnoreMissing(err))
	for _, entry := range entries {
		errs = append(errs, os.RemoveAll(filepath.Join(l.runDir(), entry.Name())))
	}
	return errors.Join(errs...)
}

// forget removes the lab's folder, the last thing that is left of it.
func (l *Lab) forget() error {
	err := os.RemoveAll(l.runDir())
	folder.RemoveEmpty(recordsDir)
	return err
}

// each calls do for all machines side by side and returns the first failure.
func (l *Lab) each(ctx context.Context, do func(context.Context, *Machine) error) error {
	return eachOf(ctx, l.machines, do)
}

// eachOf calls do for these machines side by side and returns the first failure.
func eachOf(ctx context.Context, machines []*Machine, do func(context.Context, *Machine) error) error {
	group, groupCtx := errgroup.WithContext(ctx)
	for _, m := range machines {
		group.Go(func() error { return do(groupCtx, m) })
	}
	if err := group.Wait(); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	}
	return nil
}
