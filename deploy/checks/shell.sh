#!/usr/bin/env bash
# Checks every shell script of the tree, found by its first line or its name.
set -euo pipefail
cd "$(dirname "$0")/../.."

mapfile -t scripts < <(find . -path ./.git -prune -o -path ./bin -prune -o -type f -size -200k -print | sort | while read -r file; do
	first=$(head -n 1 "$file" | tr -d '\0')
	if [[ $file == *.sh || $first =~ ^#!.*[/\ ](sh|bash|dash)($|\ ) ]]; then echo "$file"; fi
done)
shellcheck "${scripts[@]}"
echo "shellcheck: ${#scripts[@]} scripts are clean"
