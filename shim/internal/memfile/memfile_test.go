// SPDX-License-Identifier: Apache-2.0

package memfile

import (
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestSeal(t *testing.T) {
	f, err := New("test")
	require.NoError(t, err)
	defer f.Close()
	_, err = f.WriteString("text")
	require.NoError(t, err)
	require.NoError(t, Seal(f))
	_, err = f.WriteString("more")
	require.ErrorIs(t, err, unix.EPERM)
	require.ErrorIs(t, f.Truncate(0), unix.EPERM)
	again, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.O_RDWR, 0)
	if err == nil { // root may open it; writing is another matter
		defer again.Close()
		_, err = again.WriteString("TEXT")
	}
	require.Error(t, err)
	text := make([]byte, 4)
	_, err = f.ReadAt(text, 0)
	require.NoError(t, err)
	require.Equal(t, "text", string(text))
	require.ErrorIs(t, Seal(f), unix.EPERM, "once")
}
