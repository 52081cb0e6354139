package zfs_test

import (
	"io"
	"strings"
	"testing"

	"github.com/tandemd/tandem/pkg/zfs"
)

// A resumed send has no other deadline than its pool's state, as any send.
func TestZFS_AResumedSendOfAPoolThatIsSuspended(t *testing.T) {
	z, calls := tools(t, `echo SUSPENDED >"$(dirname "$0")/kstat/tank/state"; trap '' TERM; exec sleep 1000`)
	spec := zfs.SendSpec{Token: "1-a-b-c", Dataset: "tank/vm"}
	s, err := z.Send(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(io.Discard, s)
	wantClass(t, err, zfs.ClassPool)
	if err == nil || !strings.Contains(err.Error(), "pool tank is suspended") {
		t.Errorf("got %v, want the pool's name", err)
	}
	_ = s.Close()
	_, err = z.Send(t.Context(), spec) // not even begun
	wantClass(t, err, zfs.ClassPool)
	_, err = z.TokenInfo(t.Context(), "tank/vm", "1-a-b-c")
	wantClass(t, err, zfs.ClassPool)
	diff(t, calls(), []string{"zfs send -t 1-a-b-c"})
}

// Of a pool that is exported meanwhile zfs says the same as of a snapshot that is gone; the token fits as before.
func TestZFS_ATokenOfAPoolThatIsExported(t *testing.T) {
	stale := `printf 'resume token contents:\n\ttoname = tank/vm@a\n'
		echo "cannot resume send: 'tank/vm@a' used in the initial send no longer exists" >&2; exit 255`
	z, _ := tools(t, stale)
	_, err := z.TokenInfo(t.Context(), "tank/vm", "1-a-b-c")
	wantClass(t, err, zfs.ClassToken)
	z, _ = tools(t, `rm -r "$(dirname "$0")/kstat/tank"; `+stale)
	_, err = z.TokenInfo(t.Context(), "tank/vm", "1-a-b-c")
	wantClass(t, err, zfs.ClassPoolAbsent)
}

func TestSendSpec_ATokenNeedsItsDataset(t *testing.T) {
	for _, spec := range []zfs.SendSpec{{Token: "1-a-b-c"}, {Token: "1-a-b-c", Dataset: snapA}, {Snapshot: snapA, Dataset: "tank/vm"}} {
		wantClass(t, spec.Check(), zfs.ClassRefused)
	}
}
