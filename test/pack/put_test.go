// SPDX-License-Identifier: Apache-2.0

package pack

import (
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// A shim that is started while it is installed, again and again, is a whole one.
func TestInstallShimWhileItStarts(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "shim.c"), []byte(`
static const char large[30 << 20] = {1};
int main(int argc, char **argv) { (void)argv; return large[argc] + large[sizeof(large) - 1]; }
`), 0o600))
	shim := filepath.Join(dir, "containerd-shim-my-v1")
	run(t, dir, "cc", "-static", "-O0", "-o", shim, "shim.c")
	// The shim is built already.
	install := []string{"--no-print-directory", "-o", "shim", "install-shim", "SHIM=" + shim, "ENGINE=my", "PREFIX=/usr", "DESTDIR=" + dir + "/root"}
	run(t, repository, "make", install...)
	bin := filepath.Join(dir, "root/usr/bin")

	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				cmd := exec.Command("make", install...)
				cmd.Dir = repository
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Errorf("install: %v\n%s", err, out)
					return
				}
			}
		})
	}
	failed := 0
	for range 60 {
		if err := exec.Command(filepath.Join(bin, "containerd-shim-my-v1")).Run(); err != nil {
			t.Log(err)
			failed++
		}
	}
	close(stop)
	wg.Wait()
	require.Zero(t, failed, "starts failed")
	entries, err := os.ReadDir(bin)
	require.NoError(t, err)
	require.Len(t, entries, 1, "something beside the shim is left")
}
