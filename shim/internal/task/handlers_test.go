// SPDX-License-Identifier: Apache-2.0

package task

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestHandlesSignals(t *testing.T) {
	for status, want := range map[string]bool{
		"Name:\tapp\nPid:\t7\nSigCgt:\t0000000000004000\n":           true,
		"Name:\tapp\nPid:\t7\nSigCgt:\tfffffffe7ffbfeff\n":           true,
		"Name:\tapp\nPid:\t7\nSigCgt:\t0000000000000000\n":           false,
		"Name:\trunc:[2:INIT]\nPid:\t7\nSigCgt:\tfffffffe7ffbfeff\n": false,
		"": false,
	} {
		require.Equal(t, want, handlesSignals(status), status)
	}
}
