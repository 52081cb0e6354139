#!/usr/bin/env bash
# The demo: three machines with real ZFS, one cluster, two guests replicated every minute. It shows each command as it is
# typed on a node, and what came out. The machines stay up at the end; an interrupted demo leaves nothing.
#   demo.sh          (make demo)
set -euo pipefail
cd "$(dirname "$0")/../.."

labctl=(bin/labctl --name demo)
disk=tank/guests/vm-100-disk-0
tree=tank/guests/subvol-200-disk-0
began=$SECONDS

elapsed() { printf '%d:%02d' $(((SECONDS - began) / 60)) $(((SECONDS - began) % 60)); }

# chapter TITLE / tell TEXT: what the reader is to know.
chapter() { printf '\n=== [%s] %s\n' "$(elapsed)" "$1"; }
tell() { printf '  %s\n' "$@"; }

# on NODE COMMAND: show it and run it there.
on() {
	local line code=0
	printf '\n%s# %s\n' "$1" "$2"
	"${labctl[@]}" ssh "$1" "$2" 2>&1 | while IFS= read -r line; do printf '    %s\n' "$line"; done || code=$?
	# The exit code of `tandem status` is about what it shows.
	if [ "$code" -ne 0 ] && [[ $2 != tandem*status ]]; then
		return "$code"
	fi
}

# quietly NODE COMMAND: run it there and return what it prints.
quietly() { "${labctl[@]}" ssh "$1" "$2"; }

# synced AFTER: wait until both jobs have had a good run that began after that second of n1's clock.
synced() {
	local deadline=$((SECONDS + 240))
	# shellcheck disable=SC2016 # jq's own variable
	local good='[.jobs[] | select((.last_sync // "1970-01-01T00:00:00Z" | sub("\\.[0-9]+"; "") | fromdateiso8601) > $after)] | length == 2'
	printf '\n  waiting for the schedule '
	until quietly n1 "tandem status -o json | jq -e --argjson after $1 '$good' >/dev/null"; do
		if [ "$SECONDS" -gt "$deadline" ]; then
			printf '\n'
			on n1 'tandem status; journalctl -u tandemd -n 30 --no-pager' || true
			echo 'demo: the jobs did not sync within four minutes' >&2
			return 1
		fi
		printf .
		sleep 3
	done
	printf ' [%s]\n' "$(elapsed)"
}

finished=no
cleanup() {
	local code=$?
	trap '' INT TERM HUP
	if [ "$finished" = no ]; then
		printf '\ndemo: ended before its end (exit code %d); removing the machines\n' "$code" >&2
		"${labctl[@]}" down >&2 || true
	fi
	exit "$code"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

if [ "$(id -u)" -ne 0 ]; then
	finished=yes
	echo 'demo: it makes virtual machines and their network: run it as root' >&2
	exit 1
fi

chapter 'Three machines with OpenZFS and systemd'
tell 'They run under QEMU, in a network of their own; nothing of this machine is touched.' \
	'The very first time their image is built, which takes some minutes.'
mkdir -p bin
go build -o bin/labctl ./deploy/lab/labctl
"${labctl[@]}" down >/dev/null
"${labctl[@]}" up
tell '' 'Each has a ZFS pool "tank". Now Tandem is built and installed, as "make install" does it.'
"${labctl[@]}" push

chapter 'A configuration for each node, and the daemon'
tell 'A node has a name, two addresses, and storages: a name in the cluster, a dataset here.'
for i in 1 2 3; do
	quietly "n$i" "cat >/etc/tandem/tandemd.toml" <<END
node_name = "n$i"
peer = "10.89.0.1$i:7947"
gossip = "10.89.0.1$i:7946"

[storages]
local-zfs = "tank/guests"
END
done
on n1 'cat /etc/tandem/tandemd.toml'
for i in 1 2 3; do on "n$i" 'systemctl enable --now tandemd 2>&1'; done

chapter 'One cluster'
tell 'The first node makes it. A token lets one node join, once.'
on n1 'tandem cluster init'
for i in 2 3; do
	token=$(quietly n1 'tandem cluster token -o json | jq -r .token.text')
	printf '\nn1# tandem cluster token\n    tandem cluster join 10.89.0.11:7947 %.24s...\n' "$token"
	printf '\nn%d# tandem cluster join 10.89.0.11:7947 %.24s...\n' "$i" "$token"
	printf '    %s\n' "$(quietly "n$i" "echo $token | tandem cluster join 10.89.0.11:7947 - | head -n 1")"
done
on n3 'tandem cluster status'

chapter 'Two guests on n1: the disk of a virtual machine, the files of a container'
on n1 "zfs create -V 64M $disk && udevadm settle && dd if=/dev/urandom of=/dev/zvol/$disk bs=1M count=64 conv=fsync status=none"
on n1 "zfs create -o mountpoint=/srv/200 $tree && cp -a /etc /srv/200/ && echo 'Dear reader' >/srv/200/letter && du -sh /srv/200"
tell '' 'The operator takes a snapshot of his own, before Tandem knows of it:'
on n1 "zfs snapshot $tree@before-tandem"
on n1 'tandem guest add 100 --type vm --name web --volume local-zfs:vm-100-disk-0'
on n1 'tandem guest add 200 --type ct --name mail --volume local-zfs:subvol-200-disk-0'

chapter 'Replicate both to n2, every minute'
now=$(quietly n1 'date +%s')
on n1 "tandem create-local-job 100-0 n2 --schedule '*/1'"
on n1 "tandem create-local-job 200-0 n2 --schedule '*/1'"
tell '' 'Nobody runs anything now: the schedule does. The first sync sends everything.'
synced "$now"
on n1 'tandem status'
on n1 'tandem log 100-0'

chapter 'What is on n2'
tell 'The replicas are read-only and not mounted. Tandem never forces a receive, and never rolls back.'
on n2 'zfs list -t all -r -o name,used,readonly,mounted tank/guests'
tell '' 'Is it the same? A clone of the snapshot shows it without touching the replica.'
on n1 "sha256sum </dev/zvol/$disk"
point=$(quietly n2 "zfs list -Hp -d1 -t snapshot -o name -s createtxg $disk | tail -n 1")
on n2 "zfs clone -o readonly=on $point tank/look && udevadm settle && sha256sum </dev/zvol/tank/look && zfs destroy tank/look"

chapter 'A little changes'
tell 'One percent of the disk, a line in a file, and another snapshot of the operator.'
on n1 "dd if=/dev/urandom of=/dev/zvol/$disk bs=64K count=10 seek=100 conv=notrunc,fsync status=none"
on n1 "echo 'PS: hello' >>/srv/200/letter && zfs snapshot $tree@after-the-letter"
synced "$(quietly n1 'date +%s')"
tell 'The next sync sent what has changed, not everything:'
on n1 'tandem history 100-0'

chapter 'The operator'\''s snapshots have travelled too'
on n2 "zfs list -t snapshot -o name,creation -s createtxg $tree"
on n2 "zfs clone -o readonly=on -o mountpoint=/mnt/look $tree@after-the-letter tank/look && cat /mnt/look/letter && zfs destroy tank/look"

chapter 'The whole cluster, asked on n3'
on n3 'tandem status'
on n1 'journalctl -u tandemd JOB=100-0 -n 6 --no-pager -o cat'

finished=yes
cat <<END

=== [$(elapsed)] That was the main job. The machines stay up; look around:
  bin/labctl --name demo ssh n1          a root shell on n1 (n2, n3)
      tandem status                      how the jobs fare
      tandem log 100-0                   what the last run did
      journalctl -fu tandemd             what the daemon says
  bin/labctl --name demo cut n2          pull the cable of n2; "mend n2" puts it back
  bin/labctl --name demo kill n2         a power cut; "start n2" boots it again
  make demo-down                         end the machines and remove everything of them
END
