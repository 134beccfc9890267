// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/libwasmshim/libwasmshim/shim/internal/image"
	"github.com/libwasmshim/libwasmshim/shim/internal/task"
)

// remove cleans up after one container, whatever its daemon left undone, and
// prints its DeleteResponse. It is idempotent and touches nothing of the
// container's pod-mates.
func remove(c call, out io.Writer) error {
	var spec *specs.Spec
	b, err := os.ReadFile(filepath.Join(c.bundle, "config.json"))
	if err == nil {
		spec = &specs.Spec{}
		err = json.Unmarshal(b, spec)
	}
	if err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			fmt.Fprintf(os.Stderr, "config.json: %v\n", err)
		}
		spec = nil
	}
	image.Sweep(c.address, c.namespace)
	response, err := task.Cleanup(c.id, c.bundle, spec)
	removeUnused(c.bundle)
	if err != nil {
		return err
	}
	_, err = out.Write(response)
	return err
}
