// SPDX-License-Identifier: Apache-2.0

package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"golang.org/x/sys/unix"
)

// View is the root file system of an image, for reading. It has no place in the
// file system: should this process be killed, nothing stays mounted.
type View struct {
	Mounts []mount.Mount

	client      *Client
	snapshotter string
	key         string
	done        func(wait bool) error
	root        *os.File // nil if nothing is mounted
}

// View mounts the root file system of an image that is unpacked in a snapshotter, as
// the snapshot parent. dir is an existing directory, in which nothing is left. containerd keeps what
// belongs to the view for a time at most. ErrNotFound says that the image is not
// unpacked. The caller closes the view.
func (c *Client) View(ctx context.Context, snapshotter string, parent string, within time.Duration, dir string) (_ *View, retErr error) {
	api := snapshotsapi.NewSnapshotsClient(c.conn)
	_, err := api.Stat(c.In(ctx), &snapshotsapi.StatSnapshotRequest{Snapshotter: snapshotter, Key: parent})
	if err != nil {
		return nil, fmt.Errorf("ask snapshotter %s for the root file system: %w", snapshotter, errgrpc.ToNative(err))
	}
	held, id, done, err := c.Hold(ctx, within, leases.WithRandomID())
	if err != nil {
		return nil, err
	}
	v := &View{client: c, snapshotter: snapshotter, key: "libwasmshim-view-" + id, done: done}
	defer func() {
		if retErr != nil {
			retErr = errors.Join(retErr, v.Close())
		}
	}()
	brief, cancel := uninterrupted(held)
	defer cancel()
	resp, err := api.View(brief, &snapshotsapi.ViewSnapshotRequest{Snapshotter: snapshotter, Key: v.key, Parent: parent})
	if err != nil {
		return nil, fmt.Errorf("make a view of the root file system: %w", errgrpc.ToNative(err))
	}
	v.Mounts = mount.FromProto(resp.Mounts)
	for i, m := range v.Mounts {
		if !m.ReadOnly() {
			v.Mounts[i].Options = append(m.Options, "ro")
		}
	}
	if err := v.mount(filepath.Join(dir, "rootfs")); err != nil {
		return nil, err
	}
	return v, nil
}

// mount mounts the view at a directory that it makes for this, takes hold of it,
// and removes both.
func (v *View) mount(dir string) (retErr error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	defer func() {
		err := mount.UnmountRecursive(dir, unix.MNT_DETACH)
		if err == nil {
			err = os.Remove(dir)
		}
		retErr = errors.Join(retErr, err)
	}()
	if err := mount.All(v.Mounts, dir); err != nil {
		return fmt.Errorf("mount the root file system: %w", err)
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	v.root = os.NewFile(uintptr(fd), dir)
	return nil
}

// Path is a name of the root directory, for this process.
func (v *View) Path() string { return "/proc/self/fd/" + strconv.Itoa(int(v.root.Fd())) }

// Close removes the view, also after an interruption. Files in it are closed
// before.
func (v *View) Close() error {
	if v.root != nil {
		v.root.Close()
	}
	ctx, cancel := uninterrupted(v.client.In(context.Background()))
	defer cancel()
	_, err := snapshotsapi.NewSnapshotsClient(v.client.conn).Remove(ctx, &snapshotsapi.RemoveSnapshotRequest{Snapshotter: v.snapshotter, Key: v.key})
	if err = errgrpc.ToNative(err); err != nil && !errdefs.IsNotFound(err) {
		err = fmt.Errorf("remove the view of the root file system: %w", err)
	} else {
		err = nil
	}
	return errors.Join(err, v.done(err != nil))
}
