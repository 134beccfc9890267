// SPDX-License-Identifier: Apache-2.0

// Package matrix runs the smoke suite on any containerd: the oldest that is
// supported, or the one that WASMSHIM_CONTAINERD names.
package matrix

import (
	"cmp"
	"os"
	"testing"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

func TestMain(m *testing.M) {
	harness.Main(m, cmp.Or(harness.Version(os.Getenv("WASMSHIM_CONTAINERD")), harness.Containerd16))
}

func TestTrust7Smoke(t *testing.T) { smoke.Run(t, smoke.Ours) }

func TestTrust7Restart(t *testing.T) { smoke.Restart(t, smoke.Ours) }

func TestImage1Smoke(t *testing.T) { smoke.Images(t, smoke.Ours) }

func TestSandboxes(t *testing.T) { smoke.Sandboxes(t, smoke.Ours) }

// TestHarness shows that the suite is right.
func TestHarness(t *testing.T) {
	smoke.Run(t, smoke.Runc)
	smoke.Restart(t, smoke.Runc)
}
