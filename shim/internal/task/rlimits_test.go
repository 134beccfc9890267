// SPDX-License-Identifier: Apache-2.0

package task

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/libwasmshim/libwasmshim/shim/internal/stage"
)

func TestCheckLimits(t *testing.T) {
	least := map[string]uint64{"RLIMIT_AS": 1000, "RLIMIT_STACK": 100}
	for _, test := range []struct {
		limit specs.POSIXRlimit
		args  []string
		ok    bool
	}{
		{specs.POSIXRlimit{Type: "RLIMIT_AS", Soft: 1000}, nil, true},
		{specs.POSIXRlimit{Type: "RLIMIT_AS", Soft: 999, Hard: 5000}, nil, false},
		{specs.POSIXRlimit{Type: "RLIMIT_STACK", Soft: 100}, nil, true},
		{specs.POSIXRlimit{Type: "RLIMIT_STACK", Soft: 111}, []string{"", strings.Repeat("x", 9)}, true},
		{specs.POSIXRlimit{Type: "RLIMIT_STACK", Soft: 110}, []string{"", strings.Repeat("x", 9)}, false},
		{specs.POSIXRlimit{Type: "RLIMIT_NOFILE"}, nil, true},
	} {
		err := checkLimits([]specs.POSIXRlimit{test.limit}, least, test.args)
		if test.ok {
			require.NoError(t, err, "%+v", test)
		} else {
			require.ErrorIs(t, err, errdefs.ErrInvalidArgument, "%+v", test)
		}
	}
}

func TestSplitLimits(t *testing.T) {
	files := specs.POSIXRlimit{Type: "RLIMIT_NOFILE", Soft: 1, Hard: 2}
	early, late := splitLimits([]specs.POSIXRlimit{files, {Type: "RLIMIT_AS", Soft: 3, Hard: 4}, {Type: "RLIMIT_NOPE"}})
	require.Equal(t, []specs.POSIXRlimit{files, {Type: "RLIMIT_NOPE"}}, early, "what is unknown is refused later")
	require.Equal(t, []stage.Rlimit{{Resource: unix.RLIMIT_AS, Soft: 3, Hard: 4}}, late)
}
