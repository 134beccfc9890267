// SPDX-License-Identifier: Apache-2.0

package compiler

import (
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/user"
	"github.com/stretchr/testify/require"
)

// A compiler's user is mapped in its user namespace, and is nobody else's.
func TestStrangers(t *testing.T) {
	for name, test := range map[string]struct {
		maps         []user.IDMap
		first, count uint32
	}{
		"the machine":        {[]user.IDMap{{ID: 0, ParentID: 0, Count: 1<<32 - 1}}, 0x70000000, 0x0fffffff},
		"RootlessKit":        {[]user.IDMap{{ID: 0, ParentID: 1000, Count: 1}, {ID: 1, ParentID: 100000, Count: 65536}}, 49151, 16383},
		"in another order":   {[]user.IDMap{{ID: 1, ParentID: 100000, Count: 65536}, {ID: 0, ParentID: 1000, Count: 1}}, 49151, 16383},
		"few":                {[]user.IDMap{{ID: 0, ParentID: 1000, Count: 1}, {ID: 1, ParentID: 100000, Count: 4}}, 4, 1},
		"more than a nobody": {[]user.IDMap{{ID: 0, ParentID: 100000, Count: 1 << 20}}, 65534 - 16383, 16383},
		"all above a nobody": {[]user.IDMap{{ID: 70000, ParentID: 100000, Count: 8}}, 70006, 2},
	} {
		t.Run(name, func(t *testing.T) {
			first, count, err := strangers(test.maps)
			require.NoError(t, err)
			require.Equal(t, []uint32{test.first, test.count}, []uint32{first, count})
		})
	}
	_, _, err := strangers([]user.IDMap{{ID: 0, ParentID: 1000, Count: 1}})
	require.True(t, errdefs.IsFailedPrecondition(err), "%v", err)
	require.ErrorContains(t, err, "/etc/subuid")
}
