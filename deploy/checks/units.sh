#!/usr/bin/env bash
# Verifies the systemd units as they are installed: in a root tree of their own, with the binaries in their places.
set -euo pipefail
cd "$(dirname "$0")/../.."

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
make -s install DESTDIR="$root" >/dev/null
units=("$root"/usr/lib/systemd/system/tandem*.service)
# They name targets of systemd itself: give the tree those of this machine.
cp -a --no-clobber /usr/lib/systemd/system/. "$root/usr/lib/systemd/system/"
# They reload by the system's shell.
install -D /bin/sh "$root/bin/sh"

code=0
said=$(systemd-analyze verify --root="$root" --man=no --recursive-errors=no "${units[@]}" 2>&1) || code=$?
if [ "$code" -ne 0 ] || [ -n "$said" ]; then
	printf '%s\nsystemd-analyze verify is not clean (exit %d)\n' "$said" "$code" >&2
	exit 1
fi
echo "systemd-analyze verify: ${#units[@]} unit(s) clean"
