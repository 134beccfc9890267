// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/harness"
)

// What is compiled of a layer depends on its type, too: the same bytes may be data
// in one image and code in another.
func TestImage3TypeOfLayer(t *testing.T) {
	tt := newImageTest(t)
	for _, types := range [][]string{{"data", "code"}, {"code", "data"}} {
		module, other := fresh(t), fresh(t)
		for range 2 {
			for _, kind := range types {
				image := tt.wasm(harness.Wasm("/app.wasm",
					harness.Blob{MediaType: harness.WasmLayer, Data: module}, harness.Blob{MediaType: "application/vnd.test." + kind, Data: other}))
				want := map[string]string{"data": "original", "code": "compiled"}[kind]
				require.Contains(t, tt.out(harness.Config{Image: image}), fmt.Sprintf("application/vnd.test.%s %d %s\n", kind, len(other), want))
			}
		}
	}
}
