// SPDX-License-Identifier: Apache-2.0

package container

import (
	"fmt"

	"github.com/opencontainers/cgroups"
)

// Pause freezes every process of the container, and returns when that is done. The
// error is errdefs.ErrFailedPrecondition once the init has ended.
func (c *Container) Pause() error { return c.freeze(cgroups.Frozen) }

// Resume ends what Pause has begun.
func (c *Container) Resume() error { return c.freeze(cgroups.Thawed) }

func (c *Container) freeze(state cgroups.FreezerState) error {
	if c.init.dead() {
		return c.notRunning()
	}
	defer useBus(c.cgroup.Config.Systemd)()
	m, err := c.cgroup.manager()
	if err == nil {
		err = m.Freeze(state)
	}
	if err != nil {
		return fmt.Errorf("make cgroup %s: %w", state, err)
	}
	return nil
}
