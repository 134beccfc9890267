// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"testing"

	"github.com/containerd/containerd/v2/pkg/cio"

	"github.com/libwasmshim/libwasmshim/test/harness"
)

var nullIO = cio.Creator(cio.NullIO)

func TestMain(m *testing.M) {
	// As a CNI plugin it is executed for the pods of one of its tests.
	if command := os.Getenv("CNI_COMMAND"); command != "" {
		if err := podNetwork(command); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	harness.Main(m, harness.Containerd24)
}

// neverEnds is a stdin that stays open and empty.
type neverEnds struct{}

func (neverEnds) Read([]byte) (int, error) { select {} }
