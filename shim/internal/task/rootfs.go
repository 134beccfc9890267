// SPDX-License-Identifier: Apache-2.0

package task

import (
	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"
)

// unmountRoot unmounts a container's root file system, with whatever is mounted in it. Where
// it is a mount as most are, the kernel need not list all mounts of the machine: on a node
// full of pods these are thousands.
func unmountRoot(root string) error {
	var fs unix.Statfs_t
	if unix.Statfs(root, &fs) == nil && fs.Type != unix.FUSE_SUPER_MAGIC && unix.Unmount(root, unix.UMOUNT_NOFOLLOW) == nil {
		err := error(nil)
		for err == nil { // there may be several, one over the other
			err = unix.Unmount(root, unix.UMOUNT_NOFOLLOW)
		}
		if err == unix.EINVAL { //nolint:errorlint // there is none any more; a system call's error is that very value
			return nil
		}
	}
	return mount.UnmountRecursive(root, 0)
}
