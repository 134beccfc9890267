// SPDX-License-Identifier: Apache-2.0

package kit

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	built "github.com/libwasmshim/libwasmshim/test/guests"
)

var update = flag.Bool("update", false, "write the guests anew")

// The kit's guests are those of test/guests, built, so that whoever has the
// kit's binary needs nothing else.
func TestGuestsAreUpToDate(t *testing.T) {
	files, err := filepath.Glob("guests/*")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		want, err := built.Read(filepath.Base(file))
		require.NoError(t, err)
		if *update {
			require.NoError(t, os.WriteFile(file, want, 0o600))
		}
		got, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Equal(t, want, got, "%s is old: go test ./test/kit -update", file)
	}
}
