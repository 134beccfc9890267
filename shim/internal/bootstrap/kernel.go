// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"fmt"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// checkKernel refuses kernels without openat2(2), by which every path in a
// container is looked up.
func checkKernel() error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return fmt.Errorf("ask for the kernel's version: %w", err)
	}
	return checkRelease(unix.ByteSliceToString(u.Release[:]))
}

func checkRelease(release string) error {
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil || major > 5 || major == 5 && minor >= 6 {
		return nil // whoever names a kernel otherwise knows why
	}
	return fmt.Errorf("found Linux %s, accepted: Linux 5.6 and later: %w", release, errdefs.ErrFailedPrecondition)
}
