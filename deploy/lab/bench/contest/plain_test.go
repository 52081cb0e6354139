//go:build lab

package contest_test

import (
	"context"
	"fmt"
	"strings"
)

// transport is how plain zfs gets to the other side: the words after `zfs send … |`, for a volume $name whose last snapshot $from is
// to go.
type transport string

const (
	byPipe transport = `{ zfs receive -u target/plain/$name && zfs destroy target/plain/$name@$from; }`
	bySSH  transport = `ssh target "zfs receive -u target/plain/$name && zfs destroy target/plain/$name@$from"`
)

// plain is what one writes without a tool: for each volume a snapshot, an increment, and the last snapshot destroyed on both sides. The
// same volumes serve with and without ssh between.
type plain struct {
	group *group
	step  map[string]int // the number of a volume's newest snapshot
}

// first makes the first snapshots and sends them.
func (p plain) first(ctx context.Context, names ...string) error {
	return shell(ctx, nil, `set -e
for name in `+strings.Join(names, " ")+`; do
	zfs snapshot source/plain/$name@b0
	zfs send -L -c -e source/plain/$name@b0 | zfs receive -u target/plain/$name
done`)
}

// next brings volumes of the same age up to date, one after the other, in one shell.
func (p plain) next(ctx context.Context, way transport, names ...string) error {
	from := p.step[names[0]]
	for _, name := range names {
		p.step[name] = from + 1
	}
	return shell(ctx, p.group, fmt.Sprintf(`set -e
from=b%d now=b%d
for name in %s; do
	zfs snapshot source/plain/$name@$now
	zfs send -L -c -e -i @$from source/plain/$name@$now | %s
	zfs destroy source/plain/$name@$from
done`, from, from+1, strings.Join(names, " "), way))
}

// full sends a volume for the first time.
func (p plain) full(ctx context.Context, volume string, way transport) error {
	receive := "zfs receive -u target/plain/big"
	if way == bySSH {
		receive = "ssh target " + receive
	}
	return shell(ctx, p.group, fmt.Sprintf("zfs snapshot %[1]s@full && zfs send -L -c -e %[1]s@full | %[2]s", volume, receive))
}

// syncoid syncs a volume, or with --recursive all below it. It compresses nothing, because this does not compress.
func syncoid(ctx context.Context, g *group, source, target string, options ...string) error {
	words := append([]string{"syncoid", "--quiet", "--compress=none", "--sendoptions=Lce", "--recvoptions=u"}, options...)
	return shell(ctx, g, strings.Join(append(words, source, "root@target:"+target), " "))
}
