package qemu_test

import (
	"strings"
	"testing"

	"github.com/tandemd/tandem/deploy/lab/image"
	"github.com/tandemd/tandem/deploy/lab/qemu"
)

func spec(number int, accel, incoming string) qemu.Spec {
	return qemu.Spec{
		Number: number, Accel: accel, MemoryMiB: 1024, CPUs: 2, Image: image.At("/cache/images/k"),
		Disks: "/cache/runs/lab/n", Run: "/run/lab/n", Incoming: incoming,
	}
}

func TestSpec_DescribeTheMachine(t *testing.T) {
	got := strings.Join(spec(2, qemu.TCG, "").Args(), " ")
	for _, want := range []string{
		"-accel tcg,thread=multi -cpu max,-cx16,-la57,-aes,-pclmulqdq,-vaes,-vpclmulqdq",
		"tandem.node=n2 tandem.addr=10.89.0.12/24 tandem.mgmt=10.88.0.12/24",
		"file=/cache/runs/lab/n/root.qcow2", "file=/cache/runs/lab/n/data.qcow2", "-kernel /cache/images/k/vmlinuz",
		"ifname=n2 ", "ifname=n2-tool", "unix:/run/lab/n/qmp.sock", "vmgenid",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("arguments lack %q:\n%s", want, got)
		}
	}
	if strings.Contains(got, "-incoming") {
		t.Error("a machine that boots loads no state")
	}
	got = strings.Join(spec(1, qemu.KVM, "/t/state.zst").Args(), " ")
	for _, want := range []string{"-accel kvm -cpu host", "-incoming exec:zstd -q -d -c /t/state.zst"} {
		if !strings.Contains(got, want) {
			t.Errorf("arguments lack %q:\n%s", want, got)
		}
	}
}
