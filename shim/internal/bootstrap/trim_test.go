// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestConstantRanges(t *testing.T) {
	const maps = `00400000-00401000 r--p 00000000 fe:00 1 /bin/the shim
00401000-01000000 r-xp 00001000 fe:00 1 /bin/the shim
01000000-01800000 r--p 00c00000 fe:00 1 /bin/the shim
01800000-01a00000 r--p 01400000 fe:00 1 /bin/the shim
01a00000-01b00000 rw-p 01600000 fe:00 1 /bin/the shim
01b00000-01c00000 rw-p 00000000 00:00 0 
7f0000000000-7f0000001000 r-xp 00000000 fe:00 2 /lib/other
`
	require.Equal(t, [][2]uintptr{{0x400000, 0x401000}, {0x401000, 0x1000000}, {0x1000000, 0x1800000}}, constantRanges(maps, "/bin/the shim"))
	require.Empty(t, constantRanges(maps, "/bin/nobody"))
	require.Empty(t, constantRanges("", ""))
}

// The program must live through it, constants and all.
func TestTrim(t *testing.T) {
	giveBack(collectEarly)
	dropConstants()
	require.Equal(t, "io.containerd.x.v1", Engine{ShimName: "x"}.Runtime())
}

// Little that was asked since the last time is no reason to collect garbage again.
func TestCollectIsWorthIt(t *testing.T) {
	var trimmer trimmer
	times := 0
	collect := func() int { trimmer.collect(func() { times++ }); return times }
	require.Equal(t, 1, collect(), "after the start")
	require.Equal(t, 1, collect())
	kept = make([]byte, worthCollecting)
	require.Equal(t, 2, collect())
	require.Equal(t, 2, collect())
}

var kept []byte // on the heap
