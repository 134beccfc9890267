// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs/pkg/errgrpc"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/status"

	"github.com/libwasmshim/libwasmshim/test/guests"
	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// outcome is what became of a container: its output and exit code, or what the
// program's lookup or execution failed with.
func outcome(t *harness.T, runtime string, c harness.Config) string {
	c.Runtime = runtime
	created, err := t.Daemon.Create(t.Ctx, c)
	if err != nil {
		st := status.Convert(errgrpc.ToGRPC(err))
		_, text, found := strings.Cut(st.Message(), "exec: ")
		if !found {
			text = st.Message()
		}
		return fmt.Sprintf("create: %s: %s", st.Code(), text)
	}
	defer func() { require.NoError(t, t.Remove(t.Ctx, created)) }()
	if err := created.Task.Start(t.Ctx); err != nil {
		st := status.Convert(errgrpc.ToGRPC(err))
		_, text, _ := strings.Cut(st.Message(), "exec")
		return fmt.Sprintf("start: %s: %s", st.Code(), text)
	}
	result, err := t.Finish(created)
	require.NoError(t, err)
	return fmt.Sprintf("%d: %s%s", result.Code, result.Stdout, result.Stderr)
}

// accessACL is a POSIX ACL as the kernel stores it, by which one more user may
// read and execute.
func accessACL(uid uint32) []byte {
	const noID = 1<<32 - 1
	acl := []byte{2, 0, 0, 0}
	for _, e := range []struct {
		tag, perm byte
		id        uint32
	}{{1, 7, noID}, {2, 5, uid}, {4, 0, noID}, {16, 5, noID}, {32, 0, noID}} {
		acl = append(acl, e.tag, 0, e.perm, 0)
		acl = binary.LittleEndian.AppendUint32(acl, e.id)
	}
	return acl
}

func bind(from, to string) specs.Mount {
	return specs.Mount{Destination: to, Type: "bind", Source: from, Options: []string{"rbind"}}
}

func tmpfs(at string, options ...string) specs.Mount {
	return specs.Mount{Destination: at, Type: "tmpfs", Source: "tmpfs", Options: append(options, "mode=0755")}
}

// Of a native program the kernel decides: what runc runs is run, and what it does
// not find or may not execute fails with its words.
func TestNativeLikeRunc(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	files := smoke.Files(t)
	script := []byte("#!/bin/sh\necho it runs, as $(id -u)\n")
	files["root-only"] = harness.File{Data: script, Mode: 0o700}
	files["for-root"] = harness.File{Data: files["native"].Data, Mode: 0o700}
	files["noexec"] = harness.File{Data: script, Mode: 0o644}
	files["closed/"] = harness.File{Mode: 0o700}
	files["closed/tool"] = harness.File{Data: script, Mode: 0o755}
	files["b/tool"] = harness.File{Data: script, Mode: 0o755}
	image := tt.Image("native", files, ocispec.ImageConfig{Env: []string{"PATH=/bin"}})

	host, other := t.TempDir(), t.TempDir()
	for dir := host; dir != "/" && strings.HasPrefix(dir, os.TempDir()+"/"); dir = filepath.Dir(dir) {
		require.NoError(t, os.Chmod(dir, 0o755))
	}
	for name, mode := range map[string]os.FileMode{"tool": 0o755, "acl": 0o700} {
		require.NoError(t, os.WriteFile(filepath.Join(host, name), script, mode))
	}
	require.NoError(t, unix.Setxattr(filepath.Join(host, "acl"), "system.posix_acl_access", accessACL(1000), 0))

	user := oci.WithUserID(1000)
	noCaps := oci.WithCapabilities(nil)
	mounts := func(m ...specs.Mount) oci.SpecOpts { return oci.WithMounts(m) }
	// It puts a program where none was, in the root file system.
	hook := harness.WithSpec(func(s *oci.Spec) {
		made := `bundle=$(sed 's/.*"bundle":"\([^"]*\)".*/\1/'); cp ` + filepath.Join(host, "tool") + ` "$bundle/rootfs/made"`
		s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", made}}}}
	})
	for name, test := range map[string]struct {
		args []string
		opts []oci.SpecOpts
		want string // begins so; "" is that it only has to be as runc's
	}{
		"mode 0700 of root, for user 1000":  {[]string{"/for-root"}, []oci.SpecOpts{user}, "0: hello"},
		"a script of root's":                {[]string{"/root-only"}, []oci.SpecOpts{user}, ""},
		"in a closed directory":             {[]string{"/closed/tool"}, []oci.SpecOpts{user}, ""},
		"a POSIX ACL":                       {[]string{"/mnt/acl"}, []oci.SpecOpts{user, noCaps, mounts(bind(host, "/mnt"))}, "0: it runs, as 1000"},
		"a bind two folders below a tmpfs":  {[]string{"/run/app/mod/tool"}, []oci.SpecOpts{mounts(tmpfs("/run"), bind(host, "/run/app/mod"))}, "0: it runs"},
		"a file bound below a tmpfs":        {[]string{"/run/app/mod"}, []oci.SpecOpts{mounts(tmpfs("/run"), bind(filepath.Join(host, "tool"), "/run/app/mod"))}, "0: it runs"},
		"a tmpfs with what was there":       {[]string{"/b/tool"}, []oci.SpecOpts{mounts(tmpfs("/b", "tmpcopyup"))}, "0: it runs"},
		"an overlay":                        {[]string{"/mnt/tool"}, []oci.SpecOpts{mounts(specs.Mount{Destination: "/mnt", Type: "overlay", Source: "overlay", Options: []string{"lowerdir=" + host + ":" + other}})}, "0: it runs"},
		"an overlay in PATH":                {[]string{"tool"}, []oci.SpecOpts{oci.WithEnv([]string{"PATH=/mnt"}), mounts(specs.Mount{Destination: "/mnt", Type: "overlay", Source: "overlay", Options: []string{"lowerdir=" + host + ":" + other}})}, ""},
		"a hook that makes it":              {[]string{"/made"}, []oci.SpecOpts{hook}, "0: it runs"},
		"a hook that does not":              {[]string{"/gone"}, []oci.SpecOpts{hook}, `create: Unknown: "/gone": stat /gone: no such file or directory`},
		"missing in a tmpfs":                {[]string{"/run/gone"}, []oci.SpecOpts{mounts(tmpfs("/run"))}, `create: Unknown: "/run/gone": stat /run/gone: no such file or directory`},
		"missing in PATH, with a tmpfs":     {[]string{"gone"}, []oci.SpecOpts{oci.WithEnv([]string{"PATH=/run"}), mounts(tmpfs("/run"))}, `create: Unknown: "gone": executable file not found in $PATH`},
		"the last PATH counts":              {[]string{"tool"}, []oci.SpecOpts{harness.WithSpec(func(s *oci.Spec) { s.Process.Env = []string{"PATH=/nope", "PATH=/b:/bin"} })}, "0: it runs"},
		"a path through a hidden directory": {[]string{"/run/b/tool"}, []oci.SpecOpts{mounts(bind(host, "/run/b"), tmpfs("/run"))}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			tt := harness.New(t, smoke.Ours)
			c := harness.Config{Image: image, Args: test.args, Opts: test.opts}
			want := outcome(tt, smoke.Runc, c)
			require.Equal(t, want, outcome(tt, smoke.Ours, c))
			require.True(t, strings.HasPrefix(want, test.want), want)
		})
	}

	// Where it is certain, the daemon says it before, with more words.
	require.Contains(t, outcome(tt, smoke.Ours, harness.Config{Image: image, Args: []string{"/for-root"}, Opts: []oci.SpecOpts{user, noCaps}}),
		"/for-root: the container's user may not execute it (mode 0700, user 1000)")

	t.Run("guests", func(t *testing.T) {
		tt := harness.New(t, smoke.Ours)
		hello, err := guests.Read("hello.wasm")
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(host, "hello.wasm"), hello, 0o600))
		for name, test := range map[string]struct {
			args []string
			opts []oci.SpecOpts
		}{
			"two folders below a tmpfs": {[]string{"/run/app/mod/hello.wasm"}, []oci.SpecOpts{mounts(tmpfs("/run"), bind(host, "/run/app/mod"))}},
			"a tmpfs with what was":     {[]string{"/work/hello.wasm"}, []oci.SpecOpts{mounts(bind(host, "/work"), tmpfs("/work", "tmpcopyup"))}},
		} {
			require.Equal(t, "0: hello\n", outcome(tt, smoke.Ours, harness.Config{Image: image, Args: test.args, Opts: test.opts}), name)
		}
		// The runner opens what the daemon is not sure of, as the container's user.
		require.NoError(t, unix.Setxattr(filepath.Join(host, "hello.wasm"), "system.posix_acl_access", accessACL(1000), 0))
		for uid, want := range map[uint32]string{1000: "0: hello\n", 1001: "126: "} {
			got := outcome(tt, smoke.Ours, harness.Config{Image: image, Args: []string{"/mnt/hello.wasm"}, Opts: []oci.SpecOpts{mounts(bind(host, "/mnt")), oci.WithUserID(uid)}})
			require.True(t, strings.HasPrefix(got, want), "user %d: %s", uid, got)
		}
	})
}

// A native program and a guest have the environment that runc makes.
func TestEnvironmentLikeRunc(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	image := smoke.Image(tt)
	passwd := filepath.Join(t.TempDir(), "passwd")
	require.NoError(t, os.WriteFile(passwd, []byte("a:x:7:7::/of/seven:\nb:x:8:8:::\n"), 0o600))
	env := func(kv ...string) oci.SpecOpts {
		return harness.WithSpec(func(s *oci.Spec) { s.Process.Env = append([]string{"PATH=/bin"}, kv...) })
	}
	uid := func(uid uint32) oci.SpecOpts {
		return harness.WithSpec(func(s *oci.Spec) { s.Process.User.UID = uid })
	}
	mine := oci.WithMounts([]specs.Mount{bind(passwd, "/etc/passwd")})
	sorted := func(tt *harness.T, runtime string, args []string, opts []oci.SpecOpts) []string {
		result, err := tt.Daemon.Once(tt.Ctx, harness.Config{Runtime: runtime, Image: image, Args: args, Opts: opts})
		require.NoError(t, err)
		require.Zero(t, result.Code, "%+v", result)
		lines := strings.Split(strings.TrimSpace(result.Stdout), "\n")
		// The engine's, for a guest.
		lines = slices.DeleteFunc(lines, func(kv string) bool { return strings.HasPrefix(kv, "PWD=") })
		slices.Sort(lines)
		return lines
	}
	for name, test := range map[string]struct {
		opts []oci.SpecOpts
		has  string
	}{
		"root":                {[]oci.SpecOpts{env("A=1")}, "HOME=/"},
		"a user of passwd's":  {[]oci.SpecOpts{uid(1000), env()}, "HOME=/work"},
		"a user of nobody's":  {[]oci.SpecOpts{uid(99), env()}, "HOME=/"},
		"given":               {[]oci.SpecOpts{uid(1000), env("HOME=/given")}, "HOME=/given"},
		"empty":               {[]oci.SpecOpts{uid(1000), env("HOME=", "A=1")}, "HOME=/work"},
		"given, then empty":   {[]oci.SpecOpts{uid(1000), env("HOME=/given", "HOME=")}, "HOME=/work"},
		"the last one counts": {[]oci.SpecOpts{env("A=1", "B=", "A=", "A=2=3", "PATH=/nope", "PATH=/bin:/x")}, "A=2=3"},
		"a passwd bound in":   {[]oci.SpecOpts{uid(7), env(), mine}, "HOME=/of/seven"},
		"a user without a":    {[]oci.SpecOpts{uid(8), env(), mine}, "HOME="},
		"a passwd not seen":   {[]oci.SpecOpts{uid(1000), env(), oci.WithMounts([]specs.Mount{tmpfs("/etc")})}, "HOME=/"},
	} {
		t.Run(name, func(t *testing.T) {
			tt := harness.New(t, smoke.Ours)
			want := sorted(tt, smoke.Runc, []string{"env"}, test.opts)
			require.Contains(t, want, test.has)
			require.Equal(t, want, sorted(tt, smoke.Ours, []string{"env"}, test.opts), "native")
			require.Equal(t, want, sorted(tt, smoke.Ours, []string{"/go.wasm", "env"}, test.opts), "guest")
		})
	}
}

// What an image has for /etc/passwd cannot hold up a create.
func TestEnvironmentPasswdFIFO(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	fifo := filepath.Join(t.TempDir(), "passwd")
	require.NoError(t, unix.Mkfifo(fifo, 0o644))
	mount := oci.WithMounts([]specs.Mount{bind(fifo, "/etc/passwd")})
	for _, args := range [][]string{{"env"}, {"/go.wasm", "env"}} {
		result := tt.Once(harness.Config{Image: smoke.Image(tt), Args: args, Opts: []oci.SpecOpts{mount}})
		require.Contains(t, result.Stdout, "HOME=/\n")
	}
}
