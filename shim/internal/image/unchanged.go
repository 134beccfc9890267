// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"
)

// unchanged says whether a file of a root file system is the one that the image's
// layers have at its path, and stays so: the container's own, writable directory of
// an overlay has nothing at the path, and hides nothing on the way to it. path is
// absolute and free of symbolic links. Of any other kind of root file system this
// cannot be told.
func unchanged(rootfs []mount.Mount, path string) bool {
	if len(rootfs) == 0 || rootfs[len(rootfs)-1].Type != "overlay" {
		return false
	}
	upper, isOverlay := "", false
	for _, o := range rootfs[len(rootfs)-1].Options {
		key, value, _ := strings.Cut(o, "=")
		switch key {
		case "upperdir":
			upper = value
		case "lowerdir", "lowerdir+":
			isOverlay = true
		}
	}
	return isOverlay && (upper == "" || absent(upper, strings.Split(strings.TrimPrefix(path, "/"), "/")))
}

// absent says whether a directory, the upper one of an overlay, leaves what is at
// a path to those below.
func absent(upper string, path []string) bool {
	dir, err := unix.Open(upper, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer func() { unix.Close(dir) }()
	for _, name := range path {
		next, err := unix.Openat2(dir, name, &unix.OpenHow{
			Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
		})
		if errors.Is(err, unix.ENOENT) {
			return true
		}
		// A file, a link, or a whiteout.
		if err != nil {
			return false
		}
		unix.Close(dir)
		dir = next
		if hides(dir) {
			return false
		}
	}
	return false // the path itself is there, as a directory
}

// overlayAttributes are those by which an overlay's directory is more than a place
// for what is in it.
var overlayAttributes = []string{
	"trusted.overlay.opaque", "trusted.overlay.redirect", "trusted.overlay.metacopy",
	"user.overlay.opaque", "user.overlay.redirect", "user.overlay.metacopy",
}

// hides says whether an upper directory replaces the ones below it, or comes from
// elsewhere.
func hides(dir int) bool {
	return slices.ContainsFunc(overlayAttributes, func(name string) bool {
		_, err := unix.Fgetxattr(dir, name, nil)
		return err == nil
	})
}
