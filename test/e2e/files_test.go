// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/oci"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// isFull says whether the shim has wasmtime's full library.
func isFull(t testing.TB) bool {
	full, err := harness.IsFull(shimPath())
	require.NoError(t, err)
	return full
}

// needsFull skips a test of what the prebuilt library is not: why says how that one is.
func needsFull(t testing.TB, why string) {
	t.Helper()
	if !isFull(t) {
		t.Skipf("the prebuilt wasmtime %s: docs/engines.md", why)
	}
}

// goNames are errors whose names Go writes otherwise for Linux than for WASI.
var goNames = strings.NewReplacer("too many levels of symbolic links", "too many symbolic links",
	"invalid cross-device link", "cross-device link")

// One program, as a guest and natively: the kernel tells both the same. In a container
// with a read-only mount and another file system.
func TestFilesAsNative(t *testing.T) {
	needsFull(t, "resolves paths by itself")
	native := filepath.Join(t.TempDir(), "native")
	build := exec.Command("go", "build", "-o", native, "../guests/src/go/main.go")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	program, err := os.ReadFile(native)
	require.NoError(t, err)

	tt := harness.New(t, smoke.Ours)
	files := smoke.Files(t)
	files["go-native"] = harness.File{Data: program}
	files["var/run"] = harness.File{Link: "/run"}
	files["var/lib/up"] = harness.File{Link: "../../etc/data"}
	files["var/lib/beyond"] = harness.File{Link: "../../../../../../etc/data"}
	files["var/log/access.log"] = harness.File{Link: "/dev/stdout"}
	files["var/log/error.log"] = harness.File{Link: "access.log"}
	files["var/nowhere"] = harness.File{Link: "/work/new-by-link"}
	files["var/loop"] = harness.File{Link: "loop"}
	for _, dir := range []string{"run/", "ro/", "other/"} {
		files[dir] = harness.File{Mode: 0o755}
	}
	image := tt.Image("files", files, ocispec.ImageConfig{Env: []string{"PATH=/bin"}})
	readOnly := t.TempDir()
	require.NoError(t, os.WriteFile(readOnly+"/file", []byte("read only\n"), 0o644))
	opts := []oci.SpecOpts{
		oci.WithMounts([]specs.Mount{
			{Type: "bind", Source: readOnly, Destination: "/ro", Options: []string{"rbind", "ro"}},
			{Type: "tmpfs", Source: "tmpfs", Destination: "/other"},
		}),
		oci.WithProcessCwd("/work"),
	}
	do := []string{
		// Links: absolute, with .., out of the root, around in a circle, to nothing.
		"write,/run/token", "read,/var/run/token", "stat,/var/run/", "lstat,/var/run", "list,/var/run",
		"read,/var/lib/up", "read,/var/lib/beyond", "readlink,/var/lib/beyond", "read,/var/loop", "stat,/var/loop", "lstat,/var/loop",
		"read,/var/nowhere", "create,/var/nowhere", "write,/var/nowhere", "read,/work/new-by-link",
		"symlink,/etc/data,/work/absolute", "read,absolute", "symlink,new-by-link,relative", "read,/work/relative", "unlink,relative",
		// Relative paths, dots and slashes.
		"write,here", "read,/work/here", "read,./here", "read,../work/here", "read,../../../work//here", "list,.", "read,here/", "stat,/..",
		"stat,/", "read,/etc/data/x", "create,/work/slash/", "mkdir,/work/slash/", "rmdir,/work/slash/", "stat,/work/slash",
		// The standard streams, by their names and by a log's.
		"append,/dev/stdout", "append,/var/log/access.log", "write,/var/log/error.log", "append,/dev/stderr", "write,/dev/null", "read,/dev/null",
		// What has an error of its own.
		"write,/ro/new", "append,/ro/file", "mkdir,/ro/dir", "unlink,/ro/file", "rename,/ro/file,/ro/other", "read,/ro/file", "truncate,/ro/file",
		"times,/ro/file", "symlink,x,/ro/link", "link,/ro/file,/ro/hard",
		"rename,/work/here,/other/here", "link,/work/here,/other/here", "rename,/other,/work/other", "rmdir,/other",
		"mkdir,/work/dir", "mkdir,/work/dir", "create,/work/dir/file", "rmdir,/work/dir", "unlink,/work/dir", "write,/work/dir",
		"rename,/work/dir,/work/dir/inside", "rename,/work/here,/work/dir", "rename,/work/dir,/work/here", "link,/work/dir,/work/hard",
		"link,/work/here,/work/hard", "stat,/work/hard", "truncate,/work/hard", "stat,/work/here", "times,/work/here", "unlink,/work/hard",
		"rename,/work/here,/work/dir/file", "read,/work/dir/file", "list,/work/dir", "unlink,/nothing", "readlink,/etc/data",
		"stat,/work/" + strings.Repeat("n", 300), "append,/hello.wasm/", "write,/bin/busybox/x", "stat,/dev/null", "list,/etc",
	}
	args := make([]string, len(do))
	for i, op := range do {
		args[i] = "file=" + op
	}
	for user, as := range map[string][]oci.SpecOpts{"root": opts, "user": append([]oci.SpecOpts{oci.WithUserID(1000)}, opts...)} {
		var said [2]harness.Result
		for i, program := range []string{"/go-native", "/go.wasm"} {
			said[i] = tt.Once(harness.Config{Image: image, Args: append([]string{program}, args...), Opts: as})
			require.Zero(t, said[i].Code, "%s as %s: %+v", program, user, said[i])
		}
		want := strings.Split(goNames.Replace(said[0].Stdout), "\n")
		require.Equal(t, want, strings.Split(said[1].Stdout, "\n"), user)
		require.Equal(t, said[0].Stderr, said[1].Stderr)
	}
}

// A component that has no room for its environment names the variable that is too large.
func TestEnvironmentOfComponent(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	for size, code := range map[int]uint32{50_000: 0, 200_000: 134} {
		env := []string{"SMALL=1", "LARGE=" + strings.Repeat("x", size), "LAST=1"}
		result := tt.Once(harness.Config{Image: smoke.Image(tt), Args: []string{"/component-env.wasm"}, Env: env})
		require.Equal(t, code, result.Code, "%d: %+v", size, result)
		if code == 0 {
			require.Equal(t, "got it\n", result.Stdout)
		} else {
			require.Contains(t, result.Stderr, "found the variable LARGE, 200006 bytes, accepted by a component")
		}
	}
}

// Each operation of WASI 0.2 and each form of path, those that lead out of the directory
// among them, as testdata/paths.txt has it: what leads out is not permitted, as the
// specification says, and all else is what the kernel answers.
func TestWASIPaths(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	needsFull(t, "resolves paths in its own way")
	files := smoke.Files(tt)
	files["paths.wasm"] = harness.File{Data: rustGuest(t, "p2", "paths")}
	files["work/d/"] = harness.File{Mode: 0o755}
	files["work/out"] = harness.File{Data: []byte("outside")}
	result := tt.Once(harness.Config{
		Image: tt.Image("paths", files, ocispec.ImageConfig{}), Args: []string{"/paths.wasm", "/d"}, RuntimeOptions: body("[engine]\npreopens = '/work/d:/d'"),
	})
	require.Zero(t, result.Code, "%+v", result)
	want, err := os.ReadFile("testdata/paths.txt")
	require.NoError(t, err)
	require.Equal(t, string(want), result.Stdout)
}
