#!/bin/busybox sh
# shellcheck shell=dash
# First process of the machines: loads what the root disk needs and hands over to systemd.
# With `tandem.probe` on the command line it says that the machine runs, and ends it.
set -u
export PATH=/bin

busybox mount -t devtmpfs dev /dev
busybox mount -t proc proc /proc
case " $(busybox cat /proc/cmdline) " in
*" tandem.probe "*)
	echo tandem-lab: probe
	busybox poweroff -f
	;;
esac
while read -r module; do
	busybox insmod "/modules/$module" || echo "tandem-lab: module $module is not loaded"
done </modules/order

tries=0
while [ ! -b /dev/vda ]; do
	tries=$((tries + 1))
	if [ "$tries" -gt 600 ]; then
		echo 'tandem-lab: no root disk'
		busybox poweroff -f
	fi
	busybox sleep 0.1
done
busybox mount -t ext4 -o rw,noatime /dev/vda /root
busybox mount -o move /dev /root/dev
busybox umount /proc
exec busybox switch_root /root /lib/systemd/systemd
