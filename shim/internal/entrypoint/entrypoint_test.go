// SPDX-License-Identifier: Apache-2.0

package entrypoint

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
)

const (
	module    = "\x00asm\x01\x00\x00\x00"
	component = "\x00asm\x0d\x00\x01\x00"
)

// tree is a root file system and, beside it, a host directory that is bound
// into it.
func tree(t *testing.T) (rootfs, host string) {
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o755))
	rootfs, host = filepath.Join(dir, "rootfs"), filepath.Join(dir, "host")
	write := func(p, data string, mode os.FileMode) {
		require.NoError(t, os.MkdirAll(filepath.Dir(p), 0o755))
		require.NoError(t, os.WriteFile(p, []byte(data), mode))
	}
	write(filepath.Join(rootfs, "app.wasm"), module, 0o644)
	write(filepath.Join(rootfs, "odd#name.wasm"), module, 0o644)
	write(filepath.Join(rootfs, "comp.wasm"), component, 0o644)
	write(filepath.Join(rootfs, "text.wat"), " ;; a comment\n(; block ;) ( module )", 0o644)
	write(filepath.Join(rootfs, "bin/tool"), "\x7fELF", 0o755)
	write(filepath.Join(rootfs, "bin/script"), "#!/bin/sh\n", 0o755)
	write(filepath.Join(rootfs, "bin/noexec"), "\x7fELF", 0o644)
	write(filepath.Join(rootfs, "bin/data"), "plain text", 0o644)
	write(filepath.Join(rootfs, "empty"), "", 0o644)
	write(filepath.Join(rootfs, "secret.wasm"), module, 0o600)
	write(filepath.Join(rootfs, "closed/app.wasm"), module, 0o644)
	require.NoError(t, os.Chmod(filepath.Join(rootfs, "closed"), 0o700))
	require.NoError(t, os.MkdirAll(filepath.Join(rootfs, "mnt"), 0o755))
	require.NoError(t, os.MkdirAll(filepath.Join(rootfs, "tmp"), 0o755))
	write(filepath.Join(rootfs, "tmp/hidden.wasm"), module, 0o644)
	for link, target := range map[string]string{
		"abs": "/bin/tool", "rel": "bin/../app.wasm", "loop": "loop", "out": "../../../../../../host/only.wasm",
		"dirlink": "/mnt", "magic": "/proc/self/exe",
	} {
		require.NoError(t, os.Symlink(target, filepath.Join(rootfs, link)))
	}
	require.NoError(t, syscall.Mkfifo(filepath.Join(rootfs, "fifo"), 0o644))
	write(filepath.Join(host, "bound.wasm"), component, 0o644)
	write(filepath.Join(host, "only.wasm"), module, 0o644)
	require.NoError(t, os.Symlink("/app.wasm", filepath.Join(host, "back")))
	return rootfs, host
}

func spec(host string, args ...string) *specs.Spec {
	return &specs.Spec{
		Process: &specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/nowhere:/bin:/"}, User: specs.User{UID: 4321, GID: 4321}},
		Mounts: []specs.Mount{
			{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs"},
			{Destination: "/mnt", Type: "bind", Source: host, Options: []string{"rbind"}},
			{Destination: "/new/file.wasm", Type: "none", Source: filepath.Join(host, "bound.wasm"), Options: []string{"bind"}},
		},
	}
}

func TestResolve(t *testing.T) {
	rootfs, host := tree(t)
	for _, tc := range []struct {
		arg  string
		want Entry
	}{
		{"/app.wasm", Entry{Kind: Module, Path: "/app.wasm", Func: "", Name: "app"}},
		{"app.wasm", Entry{Kind: Module, Path: "/app.wasm", Func: "", Name: "app"}},
		{"./app.wasm", Entry{Kind: Module, Path: "/app.wasm", Func: "", Name: "app"}},
		{"/app.wasm#run", Entry{Kind: Module, Path: "/app.wasm", Func: "run", Name: "app"}},
		{"/app.wasm#", Entry{Kind: Module, Path: "/app.wasm", Func: "", Name: "app"}},
		{"/odd#name.wasm", Entry{Kind: Module, Path: "/odd#name.wasm", Func: "", Name: "odd#name"}},
		{"/odd#name.wasm#f", Entry{Kind: Module, Path: "/odd#name.wasm", Func: "f", Name: "odd#name"}},
		{"/comp.wasm", Entry{Kind: Component, Path: "/comp.wasm", Func: "", Name: "comp"}},
		{"/text.wat", Entry{Kind: Text, Path: "/text.wat", Func: "", Name: "text"}},
		{"tool", Entry{Kind: Native, Path: "/bin/tool", Func: "", Name: "tool"}},
		{"script", Entry{Kind: Native, Path: "/bin/script", Func: "", Name: "script"}},
		{"/abs", Entry{Kind: Native, Path: "/abs", Func: "", Name: "abs"}},
		{"/rel", Entry{Kind: Module, Path: "/rel", Func: "", Name: "rel"}},
		{"/mnt/bound.wasm", Entry{Kind: Component, Path: "/mnt/bound.wasm", Func: "", Name: "bound"}},
		{"/dirlink/bound.wasm", Entry{Kind: Component, Path: "/dirlink/bound.wasm", Func: "", Name: "bound"}},
		{"/mnt/back", Entry{Kind: Module, Path: "/mnt/back", Func: "", Name: "back"}},
		{"/new/file.wasm", Entry{Kind: Component, Path: "/new/file.wasm", Func: "", Name: "file"}},
	} {
		got, err := Resolve(spec(host, tc.arg), "/", rootfs, "test", Module|Component|Text)
		require.NoError(t, err, tc.arg)
		require.Equal(t, tc.want.Kind != Native, got.File != nil, tc.arg)
		got.close()
		got.File, got.InRoot = nil, ""
		require.Equal(t, tc.want, got, tc.arg)
	}
}

func TestResolveErrors(t *testing.T) {
	rootfs, host := tree(t)
	for _, tc := range []struct {
		arg  string
		is   func(error) bool
		want string
	}{
		{"/gone.wasm", errdefs.IsNotFound, `entrypoint "/gone.wasm": /gone.wasm does not exist in the container`},
		{"gone", errdefs.IsNotFound, `entrypoint "gone": no such file in PATH (/nowhere:/bin:/)`},
		{"", errdefs.IsInvalidArgument, `entrypoint "": the first argument is empty`},
		{"/bin", errdefs.IsInvalidArgument, `/bin is a directory, not a regular file`},
		{"/fifo", errdefs.IsInvalidArgument, `/fifo is a FIFO, not a regular file`},
		{"/loop", errdefs.IsInvalidArgument, `too many symbolic links`},
		{"/out", errdefs.IsNotFound, `/host does not exist in the container`},
		{"/tmp/hidden.wasm", errdefs.IsNotFound, `/tmp/hidden.wasm does not exist in the container`},
		{"/app.wasm/x", errdefs.IsInvalidArgument, `/app.wasm is a regular file, not a directory`},
		{"/bin/data", errdefs.IsInvalidArgument, `"/bin/data" is neither a native program (ELF or #!) nor something that test runs (WebAssembly module)`},
		{"/empty", errdefs.IsInvalidArgument, `"/empty" is empty`},
		{"/comp.wasm", errdefs.IsInvalidArgument, `"/comp.wasm" is a WebAssembly component; test runs only: WebAssembly module`},
		{"/bin/tool#f", errdefs.IsInvalidArgument, `"/bin/tool" is a native program, which has no function to choose`},
		{"/bin/noexec", errdefs.IsPermissionDenied, `/bin/noexec: the container's user may not execute it (mode 0644, user 4321)`},
		{"/secret.wasm", errdefs.IsPermissionDenied, `/secret.wasm: the container's user may not read it (mode 0600, user 4321)`},
		{"/closed/app.wasm", errdefs.IsPermissionDenied, `/closed: the container's user may not search it (mode 0700, user 4321)`},
	} {
		_, err := Resolve(spec(host, tc.arg), "/", rootfs, "test", Module)
		require.ErrorContains(t, err, tc.want, tc.arg)
		require.True(t, tc.is(err), "%s: %v", tc.arg, err)
	}
}

func TestResolveAsRoot(t *testing.T) {
	rootfs, host := tree(t)
	s := spec(host, "/secret.wasm")
	s.Process.User = specs.User{}
	s.Process.Capabilities = &specs.LinuxCapabilities{Permitted: []string{"CAP_DAC_OVERRIDE"}}
	_, err := Resolve(s, "/", rootfs, "test", Module)
	require.NoError(t, err)
	s.Process.Args = []string{"/bin/noexec"}
	_, err = Resolve(s, "/", rootfs, "test", Module)
	require.ErrorContains(t, err, "may not execute it")
}

func TestResolveWithoutPath(t *testing.T) {
	rootfs, host := tree(t)
	for _, env := range [][]string{nil, {"PATH="}, {"PATH=/bin"}} {
		s := spec(host, "app.wasm")
		s.Process.Env = env
		e, err := Resolve(s, "/", rootfs, "test", Module)
		require.NoError(t, err)
		require.Equal(t, "/app.wasm", e.Path)

		s = spec(host, "tool")
		s.Process.Env, s.Process.Cwd = env, "/bin"
		if len(env) > 0 && env[0] == "PATH=/bin" {
			continue
		}
		_, err = Resolve(s, "/", rootfs, "test", Module)
		require.True(t, errdefs.IsNotFound(err), "a native program is found in PATH alone")
	}
}

func TestMissingMountSource(t *testing.T) {
	rootfs, host := tree(t)
	s := spec(host, "/app.wasm")
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/d", Type: "bind", Source: "/no/such/source"})
	_, err := Resolve(s, "/", rootfs, "test", Module)
	require.EqualError(t, err, "mount at /d: its source /no/such/source does not exist: not found")
	require.True(t, errdefs.IsNotFound(err))
}

func TestOtherKind(t *testing.T) {
	rootfs, host := tree(t)
	e, err := Resolve(spec(host, "/bin/data"), "/", rootfs, "test", Other)
	require.NoError(t, err)
	require.Equal(t, Other, e.Kind)
}
