#!/usr/bin/env bash
# Runs the long tests one after the other, and keeps what each of them saw as a page in docs/evidence/soak-COMMIT/.
# Started again it goes on: a part whose page says that it passed is left out, one that failed or was cut is run anew.
#   soak.sh TARGET...     targets of the Makefile
set -euo pipefail
cd "$(dirname "$0")/../.."

# What is tested: the commit, and what was changed since. Pages do not count.
tree() {
	git rev-parse --short=12 HEAD
	git status --porcelain -- . ':!docs/evidence'
}

# What a log says in a page: a page that the test wrote itself, its figures, and how each test ended.
figures() {
	grep -E '^(# |\| |- seed )' "$1" | sed 's/^# /\n## /; /^| |/s/^/\n/' || true
	echo
	grep -E '^ +[a-z_]+_test\.go:[0-9]+: |^ *--- |^(ok|FAIL|PASS|panic:)' "$1" | head -n 300 | sed 's/^/    /' || true
}

# page LOG RESULT BEGAN TOOK
page() {
	cat <<-END
		# Soak: \`make $part\`

		| | |
		| --- | --- |
		| result | $2 |
		| commit | $commit |
		| began | $3 |
		| took | $4 s |
		| machine | $(nproc) cores, $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1), Linux $(uname -r) |
	END
	figures "$1"
	if [ "$2" != passed ]; then
		printf '\nThe end of what it said:\n\n'
		tail -n 60 "$1" | sed 's/^/    /'
	fi
}

tested=$(tree)
commit=$(head -n 1 <<<"$tested")
pages=docs/evidence/soak-$commit
if [ "$tested" != "$commit" ]; then
	pages=bin/soak/changed
	rm -rf "$pages"
	echo "soak.sh: the tree has changes that are in no commit: what is seen is kept in $pages, and nothing is left out" >&2
fi
mkdir -p bin/soak "$pages"
trap 'echo "soak.sh: cut in $part; started again it goes on there" >&2; exit 130' INT TERM

failed=()
for part in "$@"; do
	file=$pages/$part.md
	if grep -qs '^| result | passed |$' "$file"; then
		echo "soak: $part passed already: $file"
		continue
	fi
	if [ -e "$file" ]; then
		echo "soak: $part failed before, once more: $file"
	fi
	log=bin/soak/$part.log began=$(date -u +%Y-%m-%dT%H:%M:%SZ) result=passed start=$SECONDS
	echo "soak: $part since $began, its log is $log"
	make "$part" >"$log" 2>&1 || result=failed
	if [ "$(tree)" != "$tested" ]; then
		echo "soak.sh: the tree was changed while $part ran, which now tells nothing of any commit; start again" >&2
		exit 1
	fi
	page "$log" "$result" "$began" $((SECONDS - start)) >"$file.new"
	mv "$file.new" "$file"
	echo "soak: $part $result after $((SECONDS - start)) s: $file"
	[ $result = passed ] || failed+=("$part")
done
if [ ${#failed[@]} -gt 0 ]; then
	echo "soak: failed: ${failed[*]}" >&2
	exit 1
fi
echo 'soak: all good'
