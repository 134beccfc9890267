// SPDX-License-Identifier: Apache-2.0

package container

import "github.com/opencontainers/runc/libcontainer"

func startChild(lc *libcontainer.Container, lp *libcontainer.Process) error {
	return lc.Start(lp)
}
