// SPDX-License-Identifier: Apache-2.0

package landlock_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// The rules are written twice, here and in cabi/sandbox.c: both do the same.
func TestHideInBothLanguages(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("the cases have a root directory and users of their own, which needs root")
	}
	dir := t.TempDir()
	inC, inGo := filepath.Join(dir, "c"), filepath.Join(dir, "go")
	const c = "../../../cabi/"
	out, err := exec.Command("gcc", "-std=gnu11", "-D_GNU_SOURCE", "-static", "-I", c+"../include", "-o", inC, c+"sandbox.c", c+"testdata/sandbox.c").CombinedOutput()
	require.NoError(t, err, "%s", out)
	build := exec.Command("go", "build", "-o", inGo, "./testdata/try")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err = build.CombinedOutput()
	require.NoError(t, err, "%s", out)

	const (
		root = 0
		user = 1000
		all  = "/ /file /etc/data /proc/data /work /work/file /work/deep/file /work/deep/proc/data /link/deep/file"
	)
	for _, test := range []struct {
		name   string
		uid    uint32
		modes  map[string]os.FileMode // of directories, beside 0755
		hidden string
		denied string // of all
		why    string
	}{
		{"root", root, nil, "/proc", "/proc/data", ""},
		{"another user", user, nil, "/proc", "/proc/data", ""},
		{"two", user, nil, "/proc /work/deep/proc", "/proc/data /work/deep/proc/data", ""},
		{"one that is not there", user, nil, "/nope/proc /file/proc", "", ""},
		{"by a link", user, nil, "/link/deep/proc", "", ""},
		{"/ that cannot be listed", user, map[string]os.FileMode{"/": 0o711}, "/proc", "/", "/"},
		{"/ that root can list", root, map[string]os.FileMode{"/": 0o711}, "/proc", "/proc/data", ""},
		{"another that cannot be listed", user, map[string]os.FileMode{"/work": 0o711}, "/proc /work/deep/proc", "/work", "/work"},
		{"one that cannot be passed through", user, map[string]os.FileMode{"/work": 0o700}, "/work/deep/proc", "/work /work/file /work/deep/file /work/deep/proc/data /link/deep/file", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			tree := t.TempDir()
			for _, file := range []string{"file", "etc/data", "proc/data", "work/file", "work/deep/file", "work/deep/proc/data"} {
				path := filepath.Join(tree, file)
				require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
				require.NoError(t, os.WriteFile(path, nil, 0o644))
			}
			require.NoError(t, os.Symlink("/work", filepath.Join(tree, "link")))
			for path, mode := range test.modes {
				require.NoError(t, os.Chmod(filepath.Join(tree, path), mode))
			}
			want := ""
			if test.why != "" {
				want = "cannot hide: the container's user may not list " + test.why + ", where everything else has to be allowed\n"
			}
			for _, path := range strings.Fields(all) {
				answer := " yes\n"
				if slices.Contains(strings.Fields(test.denied), path) {
					answer = " no\n"
				}
				want += path + answer
			}
			args := append(append(strings.Fields(test.hidden), "--"), strings.Fields(all)...)
			for _, program := range []string{inC, inGo} {
				require.NoError(t, os.Link(program, filepath.Join(tree, filepath.Base(program))))
				cmd := exec.Command("/"+filepath.Base(program), args...)
				cmd.Dir = "/"
				cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: tree, Credential: &syscall.Credential{Uid: test.uid, Gid: test.uid}}
				out, err := cmd.CombinedOutput()
				require.NoError(t, err, "%s", out)
				require.Equal(t, want, string(out), program)
			}
		})
	}
}
