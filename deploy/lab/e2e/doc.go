// Package e2e holds the end-to-end tests: three real machines of the lab with ZFS and systemd, Tandem installed as
// `make install` installs it, used as an operator uses it: by the command line, over ssh.
//
// `make test` runs them (build tag lab). They share one cluster and run side by side where they can, because a schedule of
// a minute costs real minutes. They know nothing of Tandem but its command line and its JSON types.
package e2e
