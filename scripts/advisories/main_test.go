// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCheck(t *testing.T) {
	db := database{
		Prebuilt: []string{"A-1"},
		Advisory: []advisory{{
			ID: "A-1", Package: "wasmtime", Title: "it breaks",
			Patched: []string{">= 36.0.8, < 37.0.0", ">= 48.0.3, < 49.0.0", ">= 49.0.1"}, Unaffected: []string{"< 30.0.0"},
		}},
	}
	for _, c := range []struct{ name, version, prebuilt, want string }{
		{"mended", "48.0.8", "44.0.0", ""},
		{"mended first here", "48.0.3", "44.0.0", ""},
		{"mended in another line", "36.1.0", "44.0.0", ""},
		{"before it came", "29.9.9", "44.0.0", ""},
		{"before it was mended", "48.0.2", "44.0.0", "A-1 affects wasmtime 48.0.2 of the full library"},
		{"in a line without mending", "44.0.9", "44.0.0", "A-1 affects wasmtime 44.0.9 of the full library"},
		{"of the next line", "49.0.0", "44.0.0", "A-1 affects wasmtime 49.0.0 of the full library"},
		{"known, but mended", "48.0.8", "48.0.3", "prebuilt library: false"},
		{"no version", "48", "44.0.0", `version "48"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := db.check([]pinned{{"wasmtime", c.version}, {"other", "0.0.1"}}, c.prebuilt)
			if c.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.want)
		})
	}
	db.Prebuilt = nil
	require.ErrorContains(t, db.check(nil, "44.0.0"), "prebuilt library: true")
	db.Prebuilt = []string{"A-1", "A-2"}
	require.ErrorContains(t, db.check(nil, "44.0.0"), "A-2 is in the list")
	db.Advisory[0].Patched = []string{"^48.0.3"}
	require.ErrorContains(t, db.check(nil, "44.0.0"), "accepted: three numbers")
}
