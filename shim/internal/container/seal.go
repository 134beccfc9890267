// SPDX-License-Identifier: Apache-2.0

package container

import (
	"fmt"
	"os"

	"github.com/opencontainers/runc/libcontainer/exeseal"
)

// SealedSelf opens a clone of this binary that nothing inside a container can
// write through (CVE-2019-5736). One serves all containers of a daemon; pass it
// as an extra file and run it as /proc/self/fd/N. tmpDir must be an existing
// directory; nothing is left in it.
func SealedSelf(tmpDir string) (*os.File, error) {
	f, err := exeseal.CloneSelfExe(tmpDir)
	if err != nil {
		return nil, fmt.Errorf("seal own binary: %w", err)
	}
	return f, nil
}
