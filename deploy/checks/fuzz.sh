#!/usr/bin/env bash
# Runs every fuzz target of the tree for a short while; all together take SECONDS_ALL, building not counted.
#   fuzz.sh [SECONDS_ALL]
set -euo pipefail
cd "$(dirname "$0")/../.."

all=${1:-40}
mapfile -t targets < <(grep -rnoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' cmd pkg deploy |
	sed -E 's|^(.*)/[^/]*:[0-9]+:func (Fuzz.*)$|./\1 \2|' | sort)
if [ ${#targets[@]} -eq 0 ]; then
	echo 'fuzz.sh: the tree has no fuzz target' >&2
	exit 1
fi
each=$((all / ${#targets[@]}))
[ "$each" -ge 1 ] || each=1

log=$(mktemp)
trap 'rm -f "$log"' EXIT
for target in "${targets[@]}"; do
	read -r package name <<<"$target"
	if go test -run='^$' -fuzz="^$name\$" -fuzztime="${each}s" -fuzzminimizetime=5s "$package" >"$log" 2>&1; then
		printf 'fuzz  %-22s %-24s %s\n' "$package" "$name" "$(grep -oE 'execs: [0-9]+' "$log" | tail -n 1)"
		continue
	fi
	# The go tool sometimes reports its own deadline as a failure; a real one writes down the input.
	if grep -q 'context deadline exceeded' "$log" && ! grep -q 'Failing input written' "$log"; then
		printf 'fuzz  %-22s %-24s ended by its deadline\n' "$package" "$name"
		continue
	fi
	cat "$log" >&2
	exit 1
done
