// SPDX-License-Identifier: Apache-2.0

package task

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/moby/sys/mountinfo"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Nothing is left of a root file system, however much is mounted there.
func TestUnmountRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may mount")
	}
	for name, points := range map[string][]string{
		"none": nil, "one": {"."}, "two": {".", "."}, "nested": {".", "a", "a/b"}, "nested alone": {"a"}, "over nested": {".", "a", "."},
	} {
		t.Run(name, func(t *testing.T) {
			root := filepath.Join(t.TempDir(), "rootfs")
			t.Cleanup(func() { _ = unix.Unmount(root, unix.MNT_DETACH) })
			for _, p := range points {
				point := filepath.Join(root, p)
				require.NoError(t, os.MkdirAll(point, 0o700))
				require.NoError(t, unix.Mount("tmpfs", point, "tmpfs", 0, ""))
			}
			require.NoError(t, os.MkdirAll(root, 0o700))
			require.NoError(t, unmountRoot(root))
			left, err := mountinfo.GetMounts(mountinfo.PrefixFilter(root))
			require.NoError(t, err)
			require.Empty(t, left)
		})
	}
	require.NoError(t, unmountRoot(filepath.Join(t.TempDir(), "nothing")))
}
