// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"io"

	"github.com/libwasmshim/libwasmshim/shim/internal/image"
	"github.com/libwasmshim/libwasmshim/shim/internal/sandbox"
	"github.com/libwasmshim/libwasmshim/shim/internal/task"
)

// remove cleans up after one container, whatever its daemon left undone, and
// prints its DeleteResponse. It is idempotent and touches nothing of the
// container's pod-mates.
func remove(c invocation, out io.Writer) error {
	image.Sweep(c.address, c.namespace)
	socket := namedSocket(c.bundle)
	sandbox.LeaveToDaemon(c.bundle, socket)
	response, err := task.Cleanup(c.id, c.bundle, socket)
	removeUnused(c.bundle)
	if err == nil {
		err = sandbox.Cleanup(c.bundle)
	}
	if err != nil {
		return err
	}
	_, err = out.Write(response)
	return err
}
