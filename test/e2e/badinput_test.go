// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"runtime"
	"testing"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs/pkg/errgrpc"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/libwasmshim/libwasmshim/test/guests"
	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// What is wrong with a bundle or a call is in TestLikeRunc; here is what a user
// meets through containerd. Nothing is left of a container that was refused.
func TestBadInputCreate(t *testing.T) {
	user := oci.WithUserID(1000)
	for name, test := range map[string]struct {
		args    []string
		opts    []oci.SpecOpts
		code    codes.Code
		message string
	}{
		"module missing":                 {[]string{"/nope.wasm"}, nil, codes.NotFound, "/nope.wasm does not exist in the container"},
		"module unreadable":              {[]string{"/private.wasm"}, []oci.SpecOpts{user}, codes.PermissionDenied, "may not read it (mode 0600, user 1000)"},
		"module in a closed directory":   {[]string{"/closed/hello.wasm"}, []oci.SpecOpts{user}, codes.PermissionDenied, "/closed: the container's user may not search it"},
		"a directory":                    {[]string{"/etc"}, nil, codes.InvalidArgument, "/etc is a directory"},
		"neither native nor Wasm":        {[]string{"/etc/data"}, nil, codes.InvalidArgument, "neither a native program (ELF or #!) nor something that wasmtime runs"},
		"an empty file":                  {[]string{"/empty"}, nil, codes.InvalidArgument, "/empty"},
		"a symbolic link into nowhere":   {[]string{"/dangling"}, nil, codes.NotFound, "does not exist in the container"},
		"a symbolic link out of here":    {[]string{"/outside"}, nil, codes.NotFound, "does not exist in the container"},
		"a loop of links":                {[]string{"/loop"}, nil, codes.InvalidArgument, "/loop"},
		"no /proc":                       {[]string{"/hello.wasm"}, []oci.SpecOpts{oci.WithoutMounts("/proc")}, codes.InvalidArgument, "config.json has no mount at /proc"},
		"a terminal in the spec alone":   {[]string{"/hello.wasm"}, []oci.SpecOpts{oci.WithTTY}, codes.InvalidArgument, "both must say the same"},
		"a program not in PATH":          {[]string{"nope.wasm"}, []oci.SpecOpts{oci.WithEnv([]string{"PATH=/bin:/nope"})}, codes.NotFound, "no such file in PATH (/bin:/nope)"},
		"a mount of nothing":             {[]string{"/hello.wasm"}, []oci.SpecOpts{oci.WithMounts([]specs.Mount{{Destination: "/mnt", Type: "bind", Source: "/no/such/source", Options: []string{"bind"}}})}, codes.NotFound, "/no/such/source"},
		"a cgroup parent that is a file": {[]string{"/hello.wasm"}, []oci.SpecOpts{oci.WithCgroup("/cgroup.procs/x")}, codes.Unknown, "cgroup"},
	} {
		t.Run(name, func(t *testing.T) {
			tt := harness.New(t, smoke.Ours)
			container, err := tt.NewContainer(tt.Ctx, harness.Config{Runtime: smoke.Ours, Image: badImage(tt), Args: test.args, Opts: test.opts})
			require.NoError(t, err)
			task, err := container.NewTask(tt.Ctx, nullIO)
			if err == nil {
				_, _ = task.Delete(tt.Ctx, client.WithProcessKill)
			}
			st := status.Convert(errgrpc.ToGRPC(err))
			require.Equal(t, test.code.String(), st.Code().String(), st.Message())
			require.Contains(t, st.Message(), test.message)
			require.NoError(t, container.Delete(tt.Ctx, client.WithSnapshotCleanup))
		})
	}
}

func TestBadInputDuplicate(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	c := tt.Run(harness.Config{Image: smoke.Image(tt), Args: []string{"/sleep.wasm"}})
	_, err := c.NewTask(tt.Ctx, nullIO)
	require.Equal(t, codes.AlreadyExists.String(), status.Code(errgrpc.ToGRPC(err)).String(), "%v", err)
	st, err := c.Task.Status(tt.Ctx)
	require.NoError(t, err)
	require.Equal(t, client.Running, st.Status)
}

// What only the engine can see ends the container: 126, and the reason on its
// stderr and in the log.
func TestBadInputModules(t *testing.T) {
	for name, test := range map[string]struct{ program, reason string }{
		"garbage":                {"/garbage.wasm", "unexpected|invalid|malformed|unknown"},
		"truncated":              {"/truncated.wasm", "unexpected end"},
		"bad text":               {"/bad.wat", "expected"},
		"no export":              {"/noexport.wasm", "_start"},
		"export of a name":       {"/hello.wasm#nope", "nope"},
		"export with parameters": {"/params.wasm", "_start.*(argument|parameter)"},
		"export is a memory":     {"/hello.wasm#memory", "memory"},
		"unknown import":         {"/import.wasm", "nobody::knows|nobody.*knows"},
		"component without run":  {"/empty-component.wasm", "wasi:cli/run"},
	} {
		t.Run(name, func(t *testing.T) {
			tt := harness.New(t, smoke.Ours)
			result := tt.Once(harness.Config{Image: badImage(tt), Args: []string{test.program}})
			require.EqualValues(t, 126, result.Code, "%+v", result)
			require.Regexp(t, test.reason, result.Stderr)
			require.Regexp(t, `^wasmtime: [^\n]+`, result.Stderr)
			require.Regexp(t, test.reason, tt.LogTail(10))
		})
	}
}

// What a shell or an init cannot start is said in the log: its own words do not
// lead on.
func TestBadInputShell(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	result := tt.Once(harness.Config{Image: smoke.Image(tt), Args: []string{"sh", "-c", "exec /hello.wasm"}})
	require.NotZero(t, result.Code, "%+v", result)
	require.Contains(t, tt.LogTail(20), "/bin/sh is a native program with the WebAssembly file /hello.wasm in its arguments")
}

// badImage holds what no shim can run, beside the guests.
func badImage(t *harness.T) client.Image {
	files := smoke.Files(t)
	hello, err := guests.Read("hello.wasm")
	require.NoError(t, err)
	files["private.wasm"] = harness.File{Data: hello, Mode: 0o600}
	files["closed/hello.wasm"] = harness.File{Data: hello}
	files["closed/"] = harness.File{Mode: 0o700}
	files["garbage.wasm"] = harness.File{Data: []byte("\x00asm\x01\x00\x00\x00 this is no WebAssembly")}
	files["truncated.wasm"] = harness.File{Data: hello[:len(hello)/2]}
	files["bad.wat"] = harness.File{Data: []byte("(module (nonsense))\n")}
	files["empty"] = harness.File{}
	files["empty-component.wasm"] = harness.File{Data: []byte("\x00asm\x0d\x00\x01\x00")}
	files["dangling"] = harness.File{Link: "/nope"}
	files["outside"] = harness.File{Link: "../../../../../../../../" + t.Dir + "/config.toml"}
	files["loop"] = harness.File{Link: "loop"}
	return t.Image("bad", files, ocispec.ImageConfig{Env: []string{"PATH=/bin"}})
}

// A kernel that is too old is told at the start, before anything exists.
func TestOldKernel(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	result := make(chan error)
	go func() {
		runtime.LockOSThread()  // for good: the thread ends with the goroutine
		const uname26 = 0x20000 // the kernel names itself 2.6
		if _, _, errno := unix.Syscall(unix.SYS_PERSONALITY, uname26, 0, 0); errno != 0 {
			result <- errno
			return
		}
		_, err := tt.TryByHand(harness.HandConfig{RootFS: "/nonexistent", Args: []string{"/hello.wasm"}})
		result <- err
	}()
	err := <-result
	require.ErrorContains(t, err, "found Linux 2.6")
	require.ErrorContains(t, err, "accepted: Linux 5.6 and later")
	require.Empty(t, tt.Shims())
}
