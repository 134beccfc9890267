// SPDX-License-Identifier: Apache-2.0

package container

import (
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/cgroups"
)

// Pause freezes every process of the container. errdefs.ErrFailedPrecondition if it
// is not running.
func (c *Container) Pause() error { return c.freeze("pause", cgroups.Frozen) }

// Resume ends a Pause.
func (c *Container) Resume() error { return c.freeze("resume", cgroups.Thawed) }

func (c *Container) freeze(verb string, state cgroups.FreezerState) error {
	if c.init.dead() {
		return c.notAlive(verb)
	}
	m, err := c.cgroup.manager()
	if err == nil {
		err = c.patiently(func() error { return m.Freeze(state) })
	}
	// A process of cgroup v1 that is frozen while it is killed does not die.
	if state == cgroups.Frozen && c.killed.Load() {
		return join(c.notAlive(verb), c.cgroup.thaw())
	}
	switch {
	case err == nil:
		return nil
	case gone(err) || c.init.dead():
		return c.notAlive(verb)
	}
	return fmt.Errorf("%s container %s: %w", verb, c.id, err)
}

// freezeTimeout is how long processes may take to stand still. One that waits in the
// kernel, for another process or for a disk, does not before that is over, and with
// version 1 of cgroups libcontainer gives up after a quarter of a second.
const freezeTimeout = 5 * time.Second

func (c *Container) patiently(freeze func() error) (err error) {
	for deadline := time.Now().Add(freezeTimeout); ; time.Sleep(10 * time.Millisecond) {
		if err = freeze(); err == nil || gone(err) || c.killed.Load() || c.init.dead() || time.Now().After(deadline) {
			return err
		}
	}
}

func (c *Container) notAlive(verb string) error {
	return fmt.Errorf("%s container %s: it is not running: %w", verb, c.id, errdefs.ErrFailedPrecondition)
}
