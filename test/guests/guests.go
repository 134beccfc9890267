// SPDX-License-Identifier: Apache-2.0

// Package guests builds the guest programs that tests and benchmarks run.
package guests

import (
	"crypto/sha256"
	"embed"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
)

//go:embed src mkguests
var sources embed.FS

// Read returns a guest's bytes: hello.wasm, hello.wat, native, script.sh and
// so on, one for each file in src; go.wasm is the program in src/go, go.native the
// same for this machine.
func Read(name string) ([]byte, error) {
	dir, err := Dir()
	if err != nil {
		return nil, err
	}
	return os.ReadFile(filepath.Join(dir, name))
}

// Named returns a guest with a name of its own, which makes it code that nobody
// has compiled yet: engines keep a module's name. name has less than 100 bytes.
func Named(guest, name string) ([]byte, error) {
	data, err := Read(guest)
	if err != nil {
		return nil, err
	}
	// The custom section "name" with one subsection, the module's name.
	n := byte(len(name))
	section := append([]byte{4, 'n', 'a', 'm', 'e', 0, n + 1, n}, name...)
	return append(append(data, 0, byte(len(section))), section...), nil
}

// Dir is the directory of all built guests. They are built when their sources
// or the toolchain have changed, else taken from the user's cache.
var Dir = sync.OnceValues(func() (string, error) {
	sum := sha256.New()
	fmt.Fprintln(sum, runtime.Version(), runtime.GOARCH)
	err := fs.WalkDir(sources, ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := sources.ReadFile(path)
		fmt.Fprintln(sum, path, len(data))
		sum.Write(data)
		return err
	})
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	cache = filepath.Join(cache, "libwasmshim")
	dir := filepath.Join(cache, fmt.Sprintf("guests-%x", sum.Sum(nil)[:8]))
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	tmp := filepath.Join(cache, fmt.Sprintf("build-guests.%d", os.Getpid()))
	defer os.RemoveAll(tmp)
	src, out := filepath.Join(tmp, "src"), filepath.Join(tmp, "out")
	if err := os.MkdirAll(out, 0o755); err != nil {
		return "", err
	}
	if err := os.CopyFS(src, sources); err != nil {
		return "", err
	}
	// Another program, so that what only makes guests is linked with an engine.
	cmd := exec.Command("go", "run", "github.com/libwasmshim/libwasmshim/test/guests/mkguests", filepath.Join(src, "src"), out)
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build guests: %w\n%s", err, text)
	}
	if err := os.Rename(out, dir); err != nil {
		if _, statErr := os.Stat(dir); statErr == nil {
			return dir, nil // another process was quicker
		}
		return "", err
	}
	return dir, nil
})
