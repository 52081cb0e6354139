#!/bin/sh
# Turns the base tree into the lab's root tree; runs as root, on the host, in mount and process namespaces of the
# build's own.
#   $1  the tree
# Beside this script: rootfs/ (files copied over the tree), init.sh. Results go to the folder
# in $LAB_OUT: vmlinuz, initrd.img, id_ed25519, known_hosts, versions.
set -eu

root=${1:?}
inputs=$(dirname "$0")
out=$LAB_OUT

kernel=$(ls "$root/lib/modules")
umask 022
cp -R --no-preserve=mode,ownership "$inputs/rootfs/." "$root/"
chmod 0755 "$root"/usr/local/sbin/*

chroot "$root" systemctl -q enable tandem-lab-node.service tandem-lab-pool.service tandem-lab-ready.service tandem-lab-console.service ssh.service
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer \
	man-db.timer logrotate.timer sanoid.timer getty@tty1.service getty.target systemd-update-utmp.service systemd-hwdb-update.service \
	systemd-journal-catalog-update.service systemd-firstboot.service systemd-sysusers.service ldconfig.service \
	systemd-pcrmachine.service systemd-tpm2-setup.service systemd-tpm2-setup-early.service systemd-binfmt.service \
	proc-sys-fs-binfmt_misc.automount dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount \
	sys-fs-fuse-connections.mount systemd-machine-id-commit.service sshd-keygen.service zfs-import-scan.service zfs-share.service \
	zfs-volume-wait.service modprobe@drm.service modprobe@efi_pstore.service modprobe@fuse.service modprobe@configfs.service sys-kernel-config.mount \
	systemd-pstore.service systemd-logind.service systemd-user-sessions.service systemd-ask-password-console.path \
	systemd-ask-password-wall.path kmod-static-nodes.service systemd-tmpfiles-setup-dev-early.service systemd-tmpfiles-setup-dev.service \
	systemd-udev-load-credentials.service machines.target systemd-machined.socket systemd-importd.socket; do
	ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
mkdir -p "$root/etc/systemd/system-generators"
for generator in cryptsetup debug getty gpt-auto hibernate-resume integritysetup rc-local ssh system-update sysv tpm2 veritysetup bless-boot; do
	ln -sf /dev/null "$root/etc/systemd/system-generators/systemd-$generator-generator"
done
mkdir -p "$root/etc/systemd/system/ssh.service.d"
printf '[Service]\nExecStartPre=\n' >"$root/etc/systemd/system/ssh.service.d/tandem-lab.conf"

chroot "$root" groupadd --system tandem
printf '/dev/vda / ext4 rw,noatime 0 0\n' >"$root/etc/fstab"
mkdir -p "$root/var/log/journal"
: >"$root/etc/machine-id"
printf 'LANG=C.UTF-8\n' >"$root/etc/default/locale"

rm -f "$root"/etc/ssh/ssh_host_*
ssh-keygen -q -t ed25519 -N '' -C tandem-lab -f "$root/etc/ssh/ssh_host_ed25519_key"
ssh-keygen -q -t ed25519 -N '' -C tandem-lab -f "$out/id_ed25519"
install -d -m 0700 "$root/root/.ssh"
install -m 0600 "$out/id_ed25519.pub" "$root/root/.ssh/authorized_keys"
printf '* %s\n' "$(cut -d' ' -f1,2 "$root/etc/ssh/ssh_host_ed25519_key.pub")" >"$out/known_hosts"

# The first stage: a static busybox and the modules for the disks, in the order in which they are loaded.
stage=$root/initrd.stage
mkdir -p "$stage/bin" "$stage/modules" "$stage/dev" "$stage/proc" "$stage/root"
cp "$root/bin/busybox" "$stage/bin/busybox"
install -m 0755 "$inputs/init.sh" "$stage/init"
chroot "$root" modprobe -S "$kernel" -a -n --show-depends virtio_pci virtio_blk ext4 |
	awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r path; do
	name=$(basename "${path%.xz}")
	case $path in
	*.xz) xz -dc "$root$path" >"$stage/modules/$name" ;;
	*) cp "$root$path" "$stage/modules/$name" ;;
	esac
	printf '%s\n' "$name" >>"$stage/modules/order"
done
(cd "$stage" && find . | chroot "$root" sh -c 'cd /initrd.stage && busybox cpio -o -H newc') >"$out/initrd.img"
rm -rf "$stage"
mv "$root/vmlinuz.kept" "$out/vmlinuz"
mv "$root/versions" "$out/versions"

# systemd compares these with /usr: nothing is to be brought up to date at the first boot.
touch "$root/etc/.updated" "$root/var/.updated"
