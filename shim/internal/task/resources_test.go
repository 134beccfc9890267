// SPDX-License-Identifier: Apache-2.0

package task

import (
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
)

// A container that ends while it is being paused is not paused, and nobody is told that
// it was.
func TestTurns(t *testing.T) {
	p := newProcess("container x", "", names{})
	p.become(running)
	told := 0
	pause := func() error { return p.turns(running, paused, "pause", func() { told++ }) }
	require.NoError(t, pause())
	require.Equal(t, paused, p.now())
	for _, now := range []state{stopped, gone} {
		p.become(now)
		err := pause()
		require.True(t, errdefs.IsFailedPrecondition(err) || errdefs.IsNotFound(err), "%v", err)
		require.Equal(t, now, p.now())
	}
	require.Equal(t, 1, told)
}
