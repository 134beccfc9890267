// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"testing"

	"github.com/libwasmshim/libwasmshim/test/smoke"
)

func TestSmoke(t *testing.T) { smoke.Run(t, smoke.Ours) }

// TestHarness shows that the suite is right.
func TestHarness(t *testing.T) { smoke.Run(t, smoke.Runc) }
