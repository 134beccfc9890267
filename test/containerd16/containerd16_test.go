// SPDX-License-Identifier: Apache-2.0

// Package containerd16 runs the smoke suite on Debian's containerd 1.6.
package containerd16

import (
	"testing"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

func TestMain(m *testing.M) { harness.Main(m, harness.Containerd16) }

func TestSmoke(t *testing.T) { smoke.Run(t, smoke.Ours) }

// TestHarness shows that the suite is right.
func TestHarness(t *testing.T) { smoke.Run(t, smoke.Runc) }
