// SPDX-License-Identifier: Apache-2.0

package container

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
)

// Delete removes the cgroup and the state of a container whose init has ended.
// It may be called again.
func (c *Container) Delete() error {
	if !closed(c.init.done) {
		return fmt.Errorf("delete container %s: it is still running: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.deleted {
		return nil
	}
	if err := c.destroy(); err != nil {
		return fmt.Errorf("delete container %s: %w", c.id, err)
	}
	c.deleted = true
	return nil
}

// destroy undoes libcontainer.Create. The state directory goes last: as long as
// it is there, Cleanup knows that a cgroup may be, too.
func (c *Container) destroy() error {
	defer useBus(c.cgroup.Config.Systemd)()
	if err := c.cgroup.remove(); err != nil {
		return err
	}
	if c.lc != nil {
		err := inBundle(c.lc, c.lc.Destroy) // with poststop hooks and resctrl groups
		if !exists(c.stateDir()) {
			// All but the hooks is done, and they run once: an error of theirs is
			// told, and the next call finds nothing left to do.
			c.lc = nil
		}
		if err != nil {
			return err
		}
	}
	if err := os.RemoveAll(c.stateDir()); err != nil {
		return fmt.Errorf("remove state: %w", err)
	}
	_ = os.Remove(c.root)
	return nil
}

func (c *Container) stateDir() string { return filepath.Join(c.root, c.id) }

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
