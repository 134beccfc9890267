// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// holdWorkDir has a directory until the process is killed.
func holdWorkDir() int {
	dir, _, err := WorkDir(os.Args[1], os.Args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Fprintln(os.Stdout, dir)
	_, _ = os.Stdin.Read(make([]byte, 1))
	return 0
}

func TestWorkDir(t *testing.T) {
	address, namespace := newNamespace(t)
	dir, remove, err := WorkDir(address, namespace)
	require.NoError(t, err)
	other, removeOther, err := WorkDir(address, namespace)
	require.NoError(t, err)
	require.NotEqual(t, dir, other)
	Sweep(address, namespace)
	require.DirExists(t, dir, "its process lives")
	require.DirExists(t, other)
	require.NoError(t, remove())
	require.NoError(t, os.WriteFile(filepath.Join(other, "file"), nil, 0o600))
	require.Error(t, removeOther(), "what nobody knows is nobody's to remove")
	require.NoError(t, os.Remove(filepath.Join(other, "file")))
	require.Equal(t, []string{filepath.Base(other)}, names(t, Dir(address, namespace)))
}

// What a killed process leaves goes with the next process; what is a living one's
// stays.
func TestSweep(t *testing.T) {
	address, namespace := newNamespace(t)
	cmd := process(t, "work", address, namespace)
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	dir := strings.TrimSpace(line)
	// As a compiler leaves it, and a view.
	for _, name := range []string{"compiler/root/proc", "compiler/root/dev", "rootfs"} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, name), 0o755))
	}
	code := heldElsewhere(t, Dir(address, namespace))
	Sweep(address, namespace)
	require.DirExists(t, filepath.Join(dir, "compiler/root/proc"))
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())

	Sweep(address, namespace)
	require.NoDirExists(t, dir)
	require.Equal(t, []string{"a" + lockSuffix}, names(t, Dir(address, namespace)), "of the one that lives")
	require.NoError(t, code.Process.Kill())
	_ = code.Wait() // it was killed
	Sweep(address, namespace)
	require.NoDirExists(t, Dir(address, namespace))
}
