#!/bin/sh
# Last step of the base tree: leaves the kernel and the ZFS module, and drops what only built it. Called by mmdebstrap
# (customize hook) as root, on the host, in mount and process namespaces of the build's own.
#   $1  the tree; /proc, /sys and /dev are there
set -eu

root=${1:?}
kernel=$(ls "$root/lib/modules")
modules=$root/lib/modules/$kernel
[ -d "$modules/updates/dkms" ] || {
	echo "the ZFS module was not built for kernel $kernel" >&2
	exit 1
}

# Compilers, headers and DKMS were needed for the module only. Purging zfs-dkms would take the module along.
cp -a "$modules/updates" "$root/updates.keep"
# shellcheck disable=SC2016 # dpkg-query's own placeholders
headers=$(chroot "$root" dpkg-query -W -f '${Package}\n' 'linux-headers-*' 'linux-kbuild-*' 'linux-compiler-*' 2>/dev/null || true)
# shellcheck disable=SC2086 # a list of package names
chroot "$root" env DEBIAN_FRONTEND=noninteractive apt-get -q -y --autoremove purge zfs-dkms dkms $headers
rm -rf "$modules/updates"
mv "$root/updates.keep" "$modules/updates"
# Loaded at every boot, so stored as they are: unpacking costs seconds under emulation.
find "$modules/updates" -name '*.ko.xz' -exec xz -d {} +
for module in virtio virtio_ring virtio_pci virtio_pci_modern_dev virtio_pci_legacy_dev virtio_blk virtio_scsi virtio_net \
	net_failover failover scsi_mod scsi_common sd_mod ext4 jbd2 mbcache crc16 crc32c_generic libcrc32c crc32c-intel; do
	find "$modules/kernel" -name "$module.ko.xz" -exec xz -d {} +
done
chroot "$root" depmod "$kernel"

{
	printf 'kernel %s\n' "$kernel"
	# shellcheck disable=SC2016 # dpkg-query's own placeholders
	chroot "$root" dpkg-query -W -f '${Package} ${Version}\n' zfsutils-linux systemd openssh-server qemu-system-x86 sanoid
} >"$root/versions"
cp "$root/boot/vmlinuz-$kernel" "$root/vmlinuz.kept"
(
	cd "$root"
	rm -rf boot/* usr/share/doc/* usr/share/man/* usr/share/locale/* var/lib/apt/lists/* var/cache/apt/* var/log/apt var/log/dpkg.log \
		etc/apt/sources.list etc/apt/sources.list.d/* etc/apt/apt.conf.d/99mmdebstrap initrd.img* vmlinuz vmlinuz.old
)
