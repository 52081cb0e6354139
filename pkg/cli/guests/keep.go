package guests

import (
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/tandemd/tandem/pkg/advice"
	"github.com/tandemd/tandem/pkg/api"
	"github.com/tandemd/tandem/pkg/cli/force"
	"github.com/tandemd/tandem/pkg/cli/frame"
	"github.com/tandemd/tandem/pkg/config"
	"github.com/tandemd/tandem/pkg/guest"
)

// runsDoc is the JSON of `guest start` and `stop`.
type runsDoc struct {
	Version int      `json:"version"`
	ID      guest.ID `json:"id"`
	Warning string   `json:"warning,omitempty"`
}

func (a verbs) startCmd() *cobra.Command {
	var forced bool
	var path string
	cmd := &cobra.Command{
		Use:   "start ID",
		Short: "Start a guest on its owner",
		Long: `Starts the guest's systemd unit on its owner, whichever node is asked, and waits
until it has started. It is refused where a majority of the cluster does not
confirm that the guest is that node's, and says why and what to do.

--force is for a node on which tandemd does not run: it goes by what that node
knew last of the cluster and by the marks on the volumes, and asks nobody. Make
sure that the guest runs nowhere else: two that run at the same time make two
different guests of it, of which one will be set aside.

` + frame.ExitCodes,
		Example: `  tandem guest start 100
  systemctl stop tandemd; tandem guest start 100 --force`,
		Args: frame.Arguments("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := guest.ParseID(args[0])
			if err != nil {
				return frame.Invalid(err)
			}
			err = a.Client().StartGuest(cmd.Context(), id)
			if forced && notRunning(err) {
				return a.startForced(cmd, path, id)
			}
			if err != nil {
				return err
			}
			return a.Print(runsDoc{Version: api.Version, ID: id}, fmt.Sprintf("Guest %s runs.", id))
		},
		ValidArgsFunction: a.CompleteGuests,
	}
	cmd.Flags().BoolVar(&forced, "force", false, "without tandemd, by what this node knew last")
	cmd.Flags().StringVar(&path, "config", config.Path, "tandemd's configuration `file`, for --force")
	return cmd
}

// notRunning says that there is no daemon on this node.
func notRunning(err error) bool {
	e, ok := errors.AsType[*api.Error](err)
	return ok && e.Code == api.CodeUnavailable && e.Absent
}

func (a verbs) startForced(cmd *cobra.Command, path string, id guest.ID) error {
	warning, err := force.Start(cmd.Context(), path, id)
	if err != nil {
		return &api.Error{Code: api.CodeRefused, Message: err.Error(), Hint: advice.Of(err)}
	}
	return errors.Join(a.Warn([]string{warning}), a.Print(runsDoc{api.Version, id, warning}, fmt.Sprintf("Guest %s runs.", id)))
}

func (a verbs) stopCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "stop ID",
		Short: "Stop a guest on its owner",
		Long: `Stops the guest's systemd unit on its owner, whichever node is asked, and waits
until it has stopped. It stays stopped until it is started, moves to another
node, or its node boots.

` + frame.ExitCodes,
		Example: `  tandem guest stop 100`,
		Args:    frame.Arguments("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := guest.ParseID(args[0])
			if err != nil {
				return frame.Invalid(err)
			}
			if err := a.Client().StopGuest(cmd.Context(), id); err != nil {
				return err
			}
			return a.Print(runsDoc{Version: api.Version, ID: id}, fmt.Sprintf("Guest %s is stopped.", id))
		},
		ValidArgsFunction: a.CompleteGuests,
	}
}

// The exit codes of may-start are those of ExecCondition (systemd.service(5)): 1 to
// 254 skip the start, 255 fails the unit.
const exitCannotTell = 255

func (a verbs) mayStartCmd() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:    "may-start ID",
		Short:  "Say whether a guest may be started on this node",
		Hidden: true,
		Long: `Is asked by systemd (ExecCondition=) before each start of a guest's unit. It
tells on the standard error why a guest may not be started.

Exit codes:
  0    it may
  1    it may not: the start is skipped
  255  cannot tell, because tandemd does not answer: the start fails`,
		Args: frame.Arguments("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := guest.ParseID(args[0])
			if err != nil {
				return frame.Invalid(err)
			}
			err = a.Client().MayStart(cmd.Context(), id)
			if notRunning(err) && force.Allowed(path, id) {
				return nil
			}
			if err == nil {
				return nil
			}
			e, ok := errors.AsType[*api.Error](err)
			if ok && slices.Contains([]api.Code{api.CodeUnavailable, api.CodeUnknown, api.CodeInternal}, e.Code) {
				if err := a.Warn([]string{fmt.Sprintf("whether guest %s may be started cannot be told: %v", id, err)}); err != nil {
					return err
				}
				return frame.Verdict(exitCannotTell)
			}
			return err
		},
		ValidArgsFunction: a.CompleteGuests,
	}
	cmd.Flags().StringVar(&path, "config", config.Path, "tandemd's configuration `file`")
	return cmd
}

func (a verbs) statusCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show which guests run, where and since when",
		Long: `Shows the guests that have a systemd unit: whether they run, since when, and
where; how the last drill of each of their replicas went, and how long ago; and
what nodes keep of them: diverged data and kept copies. The exit code is 1 where
one runs where it should not, or has failed, 2 where an owner does not tell.

` + frame.ExitCodes,
		Example: `  tandem guest status
  tandem guest status -o json`,
		Args: frame.Arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			guests, err := a.Client().Guests(cmd.Context())
			if err != nil {
				return err
			}
			guests = slices.DeleteFunc(guests, func(g api.Guest) bool { return g.Run == nil })
			c, err := a.copies(cmd.Context(), 0)
			if err != nil {
				return err
			}
			doc := statusDoc{guestsDoc{api.Version, frame.List(guests)}, docOf(c, guests...)}
			if err := errors.Join(a.Print(doc, a.Text().GuestRuns(guests, c)...), a.Warn(c.Diverged.Warnings)); err != nil {
				return err
			}
			if slices.ContainsFunc(guests, amiss) {
				return frame.Verdict(frame.ExitError)
			}
			if slices.ContainsFunc(guests, func(g api.Guest) bool { return g.Run.State == api.GuestUnknown }) {
				return frame.Verdict(frame.ExitUnknown)
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}

// amiss says that a guest has failed, or runs where it should not.
func amiss(g api.Guest) bool {
	return g.Run.State == api.GuestFailed || slices.ContainsFunc(g.Run.On, func(n guest.NodeName) bool { return n != g.Owner })
}
