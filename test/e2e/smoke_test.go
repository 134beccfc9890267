// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"testing"

	"github.com/libwasmshim/libwasmshim/test/smoke"
)

func TestTrust7Smoke(t *testing.T) { smoke.Run(t, smoke.Ours) }

func TestTrust7Restart(t *testing.T) { smoke.Restart(t, smoke.Ours) }

func TestImage1Smoke(t *testing.T) { smoke.Images(t, smoke.Ours) }

// An engine in Go is given layers and artifacts as one in C is.
func TestImage1SmokeGo(t *testing.T) { smoke.Images(t, smoke.Go) }

// TestHarness shows that the suite is right.
func TestHarness(t *testing.T) {
	smoke.Run(t, smoke.Runc)
	smoke.Restart(t, smoke.Runc)
}
