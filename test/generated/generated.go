// SPDX-License-Identifier: Apache-2.0

// Package generated keeps the parts of documents that tests make.
package generated

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Part compares what stands between two marks of a page with text or, with update, puts
// text there. how is the command that does so, for who finds the page old.
func Part(t *testing.T, page, begin, end, text string, update bool, how string) {
	t.Helper()
	all, err := os.ReadFile(page)
	require.NoError(t, err)
	before, rest, ok := strings.Cut(string(all), begin)
	require.True(t, ok)
	was, after, ok := strings.Cut(rest, end)
	require.True(t, ok)
	if update {
		require.NoError(t, os.WriteFile(page, []byte(before+begin+text+end+after), 0o600))
		return
	}
	require.Equal(t, text, was, "%s is old: %s", page, how)
}
