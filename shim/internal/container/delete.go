// SPDX-License-Identifier: Apache-2.0

package container

import (
	"errors"
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
	err := c.lc.Destroy()
	if err != nil && exists(filepath.Join(c.root, c.id)) {
		// Something is still alive in the cgroup.
		if kerr := c.killCgroup(); kerr != nil {
			return errors.Join(err, kerr)
		}
		err = c.lc.Destroy()
	}
	if err != nil {
		return err
	}
	_ = os.Remove(c.root)
	return nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
