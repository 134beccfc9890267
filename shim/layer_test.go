// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/shim/internal/stage"
)

// Whoever writes to a guest's file, or cuts it off, does not change what an
// engine has asked for, as bytes or, if that comes first, as a descriptor.
func TestFileChanges(t *testing.T) {
	for _, descriptorFirst := range []bool{false, true} {
		t.Run(fmt.Sprint(descriptorFirst), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "hello.wasm")
			require.NoError(t, os.WriteFile(path, []byte("original"), 0o600))
			l := layers(&stage.Context{Path: path})[0]
			if descriptorFirst {
				_, err := l.FD()
				require.NoError(t, err)
			}
			code, err := l.Bytes()
			require.NoError(t, err)
			require.NoError(t, os.Truncate(path, 0))
			require.Equal(t, "original", string(code))
			require.NoError(t, os.WriteFile(path, []byte("other"), 0o600))
			require.Equal(t, "original", string(code))
			fd, err := l.FD()
			require.NoError(t, err)
			name := fmt.Sprintf("/proc/self/fd/%d", fd)
			again, err := os.ReadFile(name)
			require.NoError(t, err)
			require.Equal(t, "original", string(again))
			require.Error(t, os.Truncate(name, 0))
			if w, err := os.OpenFile(name, os.O_WRONLY, 0); err == nil { // root may open it; writing is another matter
				_, err = w.WriteString("other")
				require.Error(t, err)
				require.NoError(t, w.Close())
			}
		})
	}
}

func TestFileThatIsNone(t *testing.T) {
	dir := t.TempDir()
	for path, want := range map[string]string{dir: "not a regular file", filepath.Join(dir, "x"): "no such file"} {
		l := layers(&stage.Context{Path: path})[0]
		_, err := l.Bytes()
		require.ErrorContains(t, err, want)
		_, err = l.FD()
		require.ErrorContains(t, err, want)
	}
	empty := filepath.Join(dir, "empty")
	require.NoError(t, os.WriteFile(empty, nil, 0o600))
	l := layers(&stage.Context{Path: empty})[0]
	code, err := l.Bytes()
	require.NoError(t, err)
	require.NotNil(t, code)
	require.Empty(t, code)
}
