// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"testing"

	"github.com/libwasmshim/libwasmshim/test/harness"
)

func TestMain(m *testing.M) { harness.Main(m, harness.Containerd24) }
