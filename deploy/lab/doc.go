// Package lab runs real ZFS machines for Tandem: it builds one Debian image with OpenZFS and systemd, starts N
// machines of it under QEMU in a network namespace of the lab's own, gives each a pool on a disk of its own, and does to
// them what the world does: cut cables, power cuts, stalls. Booted machines are kept, so that the next lab is up in seconds.
//
// It is not a general virtual machine manager, and it knows nothing of Tandem but how `make install` puts it on a
// machine. The tool deploy/lab/labctl, the end-to-end tests and the demo call it. It needs root on a Debian machine.
//
// Three places hold what a lab has, and Down removes the last two:
//
//	CACHE/images, CACHE/templates   what every lab starts from, kept between runs, keyed by a hash of its inputs
//	CACHE/runs/NAME                 disks of the lab NAME
//	/run/tandem-lab/NAME            its record, sockets, process IDs and console logs
//
// A lab whose tool was killed leaves these and its processes behind; the next Up or Down of the same name finds
// and removes them. Only processes whose command line names the lab's own folder are ever ended.
package lab
