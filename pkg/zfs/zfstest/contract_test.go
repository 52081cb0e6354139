package zfstest_test

import (
	"testing"

	"github.com/tandemd/tandem/pkg/zfs/zfstest"
	"github.com/tandemd/tandem/pkg/zfs/zfstest/contract"
)

func TestPool_KeepsTheContract(t *testing.T) {
	contract.Run(t, func(t *testing.T) contract.Env {
		t.Helper()
		p := zfstest.New(zfstest.Options{Node: t.Name()})
		return contract.Env{
			ZFS: p, Root: "tank",
			Create:   p.Create,
			Write:    p.Write,
			Read:     p.Read,
			Rollback: p.Rollback,
			Destroy:  func(name string) error { p.Destroy(name); return nil },
			Cipher: contract.Cipher{
				Encrypt: map[string]string{"encryption": "aes-256-gcm"},
				Key:     func(name string, loaded bool) error { p.SetKey(name, loaded); return nil },
			},
		}
	})
}
