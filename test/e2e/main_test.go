// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"testing"

	"github.com/containerd/containerd/v2/pkg/cio"

	"github.com/libwasmshim/libwasmshim/test/harness"
)

var nullIO = cio.Creator(cio.NullIO)

func TestMain(m *testing.M) { harness.Main(m, harness.Containerd24) }

// neverEnds is a stdin that stays open and empty.
type neverEnds struct{}

func (neverEnds) Read([]byte) (int, error) { select {} }
