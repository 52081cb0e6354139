#!/usr/bin/env bash
# Installs the host's programs that a target needs and the machine does not have, and says which.
#   need.sh check|demo
# The lab looks after its own programs (QEMU and the like).
set -euo pipefail

target=${1:?which target: check or demo}

# A program to look for, and the Debian packages that bring it.
declare -A packages=()
case $target in
check)
	packages=(
		[gcc]='gcc libc6-dev' # the race detector links with it
		[shellcheck]='shellcheck'
		[systemd-analyze]='systemd'
		[git]='git'
		[dbus-daemon]='dbus-daemon' # tests speak with a systemd of their own over it
	)
	;;
demo) packages=([git]='git') ;;
*)
	echo "need.sh: unknown target $target" >&2
	exit 2
	;;
esac

command -v go >/dev/null || {
	echo "Go is missing: install Go 1.26 or later first (go.mod names the version)" >&2
	exit 1
}

missing=()
for program in "${!packages[@]}"; do
	if ! command -v "$program" >/dev/null; then
		read -ra names <<<"${packages[$program]}"
		missing+=("${names[@]}")
	fi
done
[ ${#missing[@]} -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null; then
	echo "missing, and this is no Debian machine: install what brings ${missing[*]}" >&2
	exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
	echo "missing: ${missing[*]}; as root: apt-get install ${missing[*]}" >&2
	exit 1
fi
echo "need.sh: installing Debian packages: ${missing[*]}"
install() {
	DEBIAN_FRONTEND=noninteractive apt-get -q -y install --no-install-recommends "${missing[@]}"
}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# A fresh machine has no package lists, or stale ones.
install >"$log" 2>&1 || { apt-get -q update && install; } >"$log" 2>&1 || {
	cat "$log" >&2
	echo "need.sh: apt-get could not install ${missing[*]}" >&2
	exit 1
}
