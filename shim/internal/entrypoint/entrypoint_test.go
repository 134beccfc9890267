// SPDX-License-Identifier: Apache-2.0

package entrypoint

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
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
		Process: &specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/first", "PATH=/nowhere:/bin:/"}, User: specs.User{UID: 4321, GID: 4321}},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
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
		{"/new/file.wasm", Entry{Kind: Component, Path: "/new/file.wasm", Func: "", Name: "file", Unsure: true}},
	} {
		got, err := Resolve(spec(host, tc.arg), "/", rootfs, "test", Module|Component|Text)
		require.NoError(t, err, tc.arg)
		require.Equal(t, tc.want.Kind != Native, got.File != nil, tc.arg)
		got.close()
		got.File, got.InRoot, got.script = nil, "", false
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
		{"/tmp/hidden.wasm", errdefs.IsNotFound, `/tmp/hidden.wasm: not seen before the mount at /tmp is made`},
		{"/proc/self/exe", errdefs.IsNotFound, `/proc/self does not exist in the container`},
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
	all := []string{"CAP_DAC_OVERRIDE"}
	s.Process.Capabilities = &specs.LinuxCapabilities{Permitted: all, Bounding: all, Effective: all}
	_, err := Resolve(s, "/", rootfs, "test", Module)
	require.NoError(t, err)
	s.Process.Args = []string{"/bin/noexec"}
	_, err = Resolve(s, "/", rootfs, "test", Module)
	require.ErrorContains(t, err, "may not execute it")
}

func TestResolveWithoutPath(t *testing.T) {
	rootfs, host := tree(t)
	for _, env := range [][]string{nil, {"PATH="}, {"PATH=/bin"}, {"PATH=/", "PATH="}} {
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

// What is mounted before the program is looked up may hold it, and so may what a
// hook does; the last mount on a path counts.
func TestUnknown(t *testing.T) {
	rootfs, host := tree(t)
	bound := filepath.Join(host, "bound.wasm")
	tmpfs := func(at string, options ...string) specs.Mount {
		return specs.Mount{Destination: at, Type: "tmpfs", Source: "tmpfs", Options: options}
	}
	bind := func(at, from string) specs.Mount {
		return specs.Mount{Destination: at, Type: "bind", Source: from, Options: []string{"rbind"}}
	}
	hooks := func(h specs.Hooks) func(*specs.Spec) { return func(s *specs.Spec) { s.Hooks = &h } }
	one := []specs.Hook{{Path: "/hook"}}
	for name, tc := range map[string]struct {
		arg    string
		mounts []specs.Mount
		change func(*specs.Spec)
		kind   Kind // 0 is that it is not known
	}{
		"in a tmpfs":                        {"/run/tool", []specs.Mount{tmpfs("/run")}, nil, 0},
		"in a folder of a tmpfs":            {"/run/a/b/tool", []specs.Mount{tmpfs("/run")}, nil, 0},
		"by a function":                     {"/run/tool#f", []specs.Mount{tmpfs("/run")}, nil, 0},
		"in PATH":                           {"gone", []specs.Mount{tmpfs("/nowhere")}, nil, 0},
		"elsewhere in PATH":                 {"tool", []specs.Mount{tmpfs("/nowhere")}, nil, Native},
		"in another mount":                  {"/run/tool", []specs.Mount{{Destination: "/run", Type: "overlay", Source: "overlay"}}, nil, 0},
		"a bind two folders below a tmpfs":  {"/run/app/mod/bound.wasm", []specs.Mount{tmpfs("/run"), bind("/run/app/mod", host)}, nil, Component},
		"a file bound below a tmpfs":        {"/run/app/mod", []specs.Mount{tmpfs("/run"), bind("/run/app/mod", bound)}, nil, Component},
		"up and down again":                 {"/run/app/mod/../mod/../../app/mod/bound.wasm", []specs.Mount{tmpfs("/run"), bind("/run/app/mod", host)}, nil, Component},
		"beside a bind below a tmpfs":       {"/run/app/tool", []specs.Mount{tmpfs("/run"), bind("/run/app/mod", host)}, nil, 0},
		"a bind that a tmpfs hides":         {"/run/app/mod/bound.wasm", []specs.Mount{bind("/run/app/mod", host), tmpfs("/run")}, nil, 0},
		"what a tmpfs copies":               {"/bin/tool", []specs.Mount{tmpfs("/bin", "tmpcopyup")}, nil, Native},
		"what a tmpfs copies from a bind":   {"/mnt/bound.wasm", []specs.Mount{tmpfs("/mnt", "tmpcopyup")}, nil, Component},
		"a tmpfs in a bind":                 {"/mnt/sub/x", []specs.Mount{tmpfs("/mnt/sub")}, nil, 0},
		"a hook before the root is changed": {"/gone", nil, hooks(specs.Hooks{CreateRuntime: one}), 0},
		"a prestart hook, in PATH":          {"gone", nil, hooks(specs.Hooks{Prestart: one}), 0}, //nolint:staticcheck // deprecated, and run
		"a hook in the container":           {"/gone", nil, hooks(specs.Hooks{CreateContainer: one}), 0},
		"what a hook need not make":         {"/app.wasm", nil, hooks(specs.Hooks{CreateRuntime: one}), Module},
	} {
		s := spec(host, tc.arg)
		s.Mounts = append(s.Mounts, tc.mounts...)
		if tc.change != nil {
			tc.change(s)
		}
		e, err := Resolve(s, "/", rootfs, "test", Module|Component)
		e.close()
		if tc.kind == 0 {
			require.ErrorIs(t, err, ErrUnknown, name)
			require.True(t, errdefs.IsNotFound(err), name)
			continue
		}
		require.NoError(t, err, name)
		require.Equal(t, tc.kind, e.Kind, name)
		if e.Kind != Native {
			require.Equal(t, len(tc.mounts) == 0, e.InRoot != "", name)
		}
	}
	s := spec(host, "/gone")
	s.Hooks = &specs.Hooks{StartContainer: one, Poststart: one}
	_, err := Resolve(s, "/", rootfs, "test", Module)
	require.NotErrorIs(t, err, ErrUnknown, "they run too late")
}

// accessACL is a POSIX ACL as the kernel stores it: u::rw-, u:4321:<perm>, g::---,
// m::rwx, o::---.
func accessACL(perm byte) []byte {
	acl := []byte{2, 0, 0, 0}
	for _, e := range []struct {
		tag, perm byte
		id        uint32
	}{{1, 6, 1<<32 - 1}, {2, perm, 4321}, {4, 0, 1<<32 - 1}, {16, 7, 1<<32 - 1}, {32, 0, 1<<32 - 1}} {
		acl = append(acl, e.tag, 0, e.perm, 0)
		acl = binary.LittleEndian.AppendUint32(acl, e.id)
	}
	return acl
}

// Whether the user may is decided only where mode bits and capabilities tell.
func TestAccess(t *testing.T) {
	rootfs, host := tree(t)
	for name, mode := range map[string]os.FileMode{"root-only": 0o700, "closed/tool": 0o755, "acl-tool": 0o600} {
		require.NoError(t, os.WriteFile(filepath.Join(rootfs, name), []byte("\x7fELF"), 0o600))
		require.NoError(t, os.Chmod(filepath.Join(rootfs, name), mode))
	}
	require.NoError(t, os.WriteFile(filepath.Join(rootfs, "acl.wasm"), []byte(module), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(rootfs, "owned.wasm"), []byte(module), 0o600))
	require.NoError(t, os.Chown(filepath.Join(rootfs, "owned.wasm"), 104321, 0))
	for name, perm := range map[string]byte{"acl.wasm": 4, "acl-tool": 5} {
		require.NoError(t, unix.Setxattr(filepath.Join(rootfs, name), "system.posix_acl_access", accessACL(perm), 0))
	}
	all := []string{"CAP_DAC_OVERRIDE"}
	usual := &specs.LinuxCapabilities{Permitted: all, Effective: all, Bounding: all}
	inUserns := func(s *specs.Spec) {
		s.Linux = &specs.Linux{
			Namespaces:  []specs.LinuxNamespace{{Type: specs.UserNamespace}},
			UIDMappings: []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}},
			GIDMappings: []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}},
		}
	}
	user := func(uid uint32, caps *specs.LinuxCapabilities) func(*specs.Spec) {
		return func(s *specs.Spec) { s.Process.User, s.Process.Capabilities = specs.User{UID: uid, GID: uid}, caps }
	}
	const denied, unsure, sure = 0, 1, 2
	for _, tc := range []struct {
		name   string
		arg    string
		change func(*specs.Spec)
		want   int
	}{
		{"a program for root, with the usual capabilities", "/root-only", user(1000, usual), sure},
		{"the same without", "/root-only", user(1000, nil), denied},
		{"without the effective ones", "/root-only", user(1000, &specs.LinuxCapabilities{Permitted: all, Bounding: all}), denied},
		{"a program in a closed directory", "/closed/tool", user(1000, usual), sure},
		{"the same, with the right to search", "/closed/tool", user(1000, &specs.LinuxCapabilities{Effective: []string{"CAP_DAC_READ_SEARCH"}}), sure},
		{"that does not execute", "/root-only", user(1000, &specs.LinuxCapabilities{Effective: []string{"CAP_DAC_READ_SEARCH"}}), denied},
		{"a program without x", "/bin/noexec", user(0, usual), denied},
		{"a program with an ACL", "/acl-tool", user(4321, nil), sure},
		{"a program, user namespace", "/root-only", inUserns, sure},
		{"a guest, usual capabilities", "/secret.wasm", user(1000, usual), denied},
		{"in a closed directory", "/closed/app.wasm", user(1000, usual), denied},
		{"ambient ones", "/secret.wasm", user(1000, &specs.LinuxCapabilities{Permitted: all, Bounding: all, Ambient: all}), unsure},
		{"root, usual", "/owned.wasm", user(0, usual), sure},
		{"root, not in the bounding set", "/owned.wasm", user(0, &specs.LinuxCapabilities{Permitted: all}), unsure},
		{"root, none", "/owned.wasm", user(0, nil), denied},
		{"an ACL", "/acl.wasm", user(4321, nil), unsure},
		{"an ACL, another user", "/acl.wasm", user(1000, nil), unsure},
		{"user namespace, for everybody", "/app.wasm", inUserns, sure},
		{"user namespace, the owner", "/owned.wasm", inUserns, sure},
		{"user namespace, root's of the host", "/secret.wasm", inUserns, unsure},
		{"user namespace of a path", "/app.wasm", func(s *specs.Spec) { inUserns(s); s.Linux.UIDMappings = nil }, unsure},
		{"an id-mapped mount", "/mnt/only.wasm", func(s *specs.Spec) { s.Mounts[2].Options = []string{"rbind", "idmap"} }, unsure},
		{"a mount", "/mnt/only.wasm", func(*specs.Spec) {}, sure},
	} {
		s := spec(host, tc.arg)
		tc.change(s)
		e, err := Resolve(s, "/", rootfs, "test", Module)
		e.close()
		if tc.want == denied {
			require.True(t, errdefs.IsPermissionDenied(err), "%s: %v", tc.name, err)
			continue
		}
		require.NoError(t, err, tc.name)
		require.Equal(t, tc.want == unsure, e.Unsure, tc.name)
	}
}

func TestEnvironment(t *testing.T) {
	rootfs, host := tree(t)
	passwd := func(dir string) {
		require.NoError(t, os.MkdirAll(filepath.Join(rootfs, dir), 0o755))
		text := "root:x:0:0::/root:/bin/sh\n# a comment\napp:x:4321:4321::/home/app:\nagain:x:4321:0::/no:\nbare:x:7:7:::\n"
		require.NoError(t, os.WriteFile(filepath.Join(rootfs, dir, "passwd"), []byte(text), 0o600))
	}
	passwd("etc")
	passwd("huge")
	require.NoError(t, os.WriteFile(filepath.Join(rootfs, "huge/passwd"), append(bytes.Repeat([]byte{'\n'}, maxPasswd), "app:x:4321:4321::/late:\n"...), 0o600))
	require.NoError(t, os.Mkdir(filepath.Join(rootfs, "fifo-etc"), 0o755))
	require.NoError(t, syscall.Mkfifo(filepath.Join(rootfs, "fifo-etc/passwd"), 0o644))
	require.NoError(t, os.Mkdir(filepath.Join(rootfs, "out-etc"), 0o755))
	require.NoError(t, os.Symlink("../../host/passwd", filepath.Join(rootfs, "out-etc/passwd")))
	require.NoError(t, os.WriteFile(filepath.Join(host, "passwd"), []byte("app:x:4321:4321::/leak:\n"), 0o600))
	at := func(dir string) func(*specs.Spec) {
		return func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/etc", Type: "bind", Source: filepath.Join(rootfs, dir), Options: []string{"bind"}})
		}
	}
	mount := func(kind string, options ...string) func(*specs.Spec) {
		return func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/etc", Type: kind, Source: kind, Options: options})
		}
	}
	uid := func(id uint32) func(*specs.Spec) { return func(s *specs.Spec) { s.Process.User.UID = id } }
	for name, tc := range map[string]struct {
		env    []string
		change func(*specs.Spec)
		want   []string
	}{
		"from passwd":              {[]string{"A=1"}, uid(4321), []string{"A=1", "HOME=/home/app"}},
		"root's":                   {nil, uid(0), []string{"HOME=/root"}},
		"no such user":             {nil, uid(99), []string{"HOME=/"}},
		"a user without one":       {nil, uid(7), []string{"HOME="}},
		"given":                    {[]string{"HOME=/here", "A=1"}, uid(0), []string{"HOME=/here", "A=1"}},
		"empty":                    {[]string{"HOME=", "A=1"}, uid(0), []string{"A=1", "HOME=/root"}},
		"the last one is empty":    {[]string{"HOME=/x", "HOME="}, uid(0), []string{"HOME=/root"}},
		"the last one counts":      {[]string{"A=1", "PATH=/a", "A=", "B==", "PATH=/b"}, uid(0), []string{"A=", "B==", "PATH=/b", "HOME=/root"}},
		"a FIFO":                   {nil, at("fifo-etc"), []string{"HOME=/"}},
		"a link out of it":         {nil, at("out-etc"), []string{"HOME=/"}},
		"beyond the bound":         {nil, at("huge"), []string{"HOME=/"}},
		"hidden":                   {nil, mount("sysfs"), []string{"HOME=/"}},
		"copied into a tmpfs":      {nil, mount("tmpfs", "tmpcopyup"), []string{"HOME=/home/app"}},
		"a mount that is not seen": {nil, mount("tmpfs"), []string{}},
	} {
		s := spec(host, "/x")
		s.Process.Env = tc.env
		tc.change(s)
		require.ElementsMatch(t, tc.want, Environment(s, "/", rootfs, Native), name)
		if len(tc.want) == 0 {
			require.Equal(t, []string{"HOME=/"}, Environment(s, "/", rootfs, Module), "a guest has one in any case")
		}
	}
}

// A shell or an init cannot start a guest.
func TestStarts(t *testing.T) {
	rootfs, host := tree(t)
	for _, name := range []string{"sh", "tini"} {
		require.NoError(t, os.WriteFile(filepath.Join(rootfs, "bin", name), []byte("\x7fELF"), 0o755))
	}
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"sh", "-c", "/app.wasm"}, "/app.wasm"},
		{[]string{"/bin/sh", "-c", "cd / && exec './app.wasm' --flag"}, "/app.wasm"},
		{[]string{"sh", "-c", "app.wasm"}, "/app.wasm"},
		{[]string{"tini", "--", "/app.wasm"}, "/app.wasm"},
		{[]string{"tini", "--", "/mnt/bound.wasm"}, ""}, // nobody looks into a mount for a warning
		{[]string{"script", "/app.wasm"}, "/app.wasm"},
		{[]string{"sh", "-c", "/app.wasm/x; /gone.wasm; /fifo; /loop; ls /"}, ""},
		{[]string{"sh", "-c", strings.Repeat("x ", maxWords) + "/app.wasm"}, ""},
		{[]string{"tool", "/app.wasm"}, ""}, // it may be what runs or reads it
		{[]string{"sh"}, ""},
	} {
		e, err := Resolve(spec(host, tc.args...), "/", rootfs, "test", Module)
		require.NoError(t, err, tc.args)
		require.Equal(t, Native, e.Kind)
		require.Equal(t, tc.want, e.Starts, tc.args)
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
