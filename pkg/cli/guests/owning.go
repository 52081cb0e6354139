package guests

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/cli/frame"
	"github.com/tandemd/tandem/pkg/guest"
)

// owningFlags are how a guest's owner treats it, as typed.
type owningFlags struct {
	onBoot, quiesce string
	order, delay    int
}

const owningText = `With --onboot on the guest's node starts it by itself when it comes up, once the
cluster is quorate and says that the guest belongs there. Smaller --boot-order
start first, those that share one together, 0 after all others; --boot-delay is
the time until the next ones.

--quiesce is how a running guest is made consistent for the moment of a
snapshot: by the QEMU guest agent (agent), by stopping the processes of its unit
(freeze), or by an executable of root's on its node, called with freeze or thaw
and the guest's ID (hook:PATH). Where that fails the guest is replicated all the
same, as after a power cut, with a warning.`

func owningNames() []string { return []string{"onboot", "boot-order", "boot-delay", "quiesce"} }

func (o *owningFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.onBoot, "onboot", "off", "`on|off`: whether its node starts it by itself")
	f.IntVar(&o.order, "boot-order", 0, "its `place` in the row; 0: after all others")
	f.IntVar(&o.delay, "boot-delay", 0, "`seconds` from its start to the next ones'")
	f.StringVar(&o.quiesce, "quiesce", "off", "`off|agent|freeze|hook:PATH`: how it is made consistent")
	frame.Must(cmd.RegisterFlagCompletionFunc("onboot", cobra.FixedCompletions([]string{"on", "off"}, cobra.ShellCompDirectiveNoFileComp)))
	frame.Must(cmd.RegisterFlagCompletionFunc("quiesce",
		cobra.FixedCompletions([]string{"off", "agent", "freeze", "hook:/"}, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveNoSpace)))
}

// values are those for a new guest.
func (o owningFlags) values() (b guest.Boot, q guest.Quiesce, err error) {
	if o.onBoot != "on" && o.onBoot != "off" {
		return b, q, fmt.Errorf("--onboot %q: must be on or off", o.onBoot)
	}
	b = guest.Boot{On: o.onBoot == "on", Order: o.order, Delay: o.delay}
	if o.quiesce != "off" {
		if q = guest.Quiesce(o.quiesce); q == "" {
			return b, q, errors.New("--quiesce is empty: must be off, agent, freeze or hook:PATH")
		}
	}
	return b, q, cmp.Or(b.Validate(), q.Validate())
}

// change takes over what was given.
func (o owningFlags) change(cmd *cobra.Command, r *api.SetGuestRequest) error {
	b, q, err := o.values()
	if err != nil {
		return fmt.Errorf("guest %s: %w", r.ID, err)
	}
	given := cmd.Flags().Changed
	if given("onboot") {
		r.OnBoot = &b.On
	}
	if given("boot-order") {
		r.BootOrder = &b.Order
	}
	if given("boot-delay") {
		r.BootDelay = &b.Delay
	}
	if given("quiesce") {
		r.Quiesce = &q
	}
	return nil
}
