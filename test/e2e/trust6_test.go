// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"debug/elf"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// An engine in Go does what one in C does.
func TestTrust6Smoke(t *testing.T) { smoke.Run(t, smoke.Go) }

// One command of Go's makes a static binary with seccomp.
func TestTrust6GoBuild(t *testing.T) {
	repo, err := harness.Repo()
	require.NoError(t, err)
	binary := filepath.Join(t.TempDir(), "containerd-shim-go-engine-v1")
	cmd := exec.Command("go", "build", "-tags", "netgo osusergo seccomp", "-o", binary, "./examples/go-engine")
	cmd.Dir = repo
	cmd.Env = append(cmd.Environ(), "GOFLAGS=-buildvcs=false")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	f, err := elf.Open(binary)
	require.NoError(t, err)
	defer f.Close()
	libraries, err := f.ImportedLibraries()
	require.NoError(t, err)
	require.Empty(t, libraries, "static")
	text, err := exec.Command(binary, "-v").CombinedOutput()
	require.NoError(t, err)
	require.Contains(t, string(text), "Engine:     go-engine 0.1.0\n")
}

func TestTrust6Failures(t *testing.T) {
	tt := harness.New(t, smoke.Go)
	image := badImage(tt)
	for _, test := range []struct {
		args   []string
		engine string
		code   uint32
		stderr string // a regular expression
	}{
		{[]string{"/hello.wasm"}, "", 0, `^$`},
		{[]string{"/hello.wasm#other"}, "", 0, `^$`},
		{[]string{"/exit.wasm", "a", "b", "c"}, "", 3, `^$`},
		{[]string{"/trap.wasm"}, "", 134, "(?s)^go-engine: .*wasm trap: wasm `unreachable`"},
		{[]string{"/garbage.wasm"}, "", 126, `^go-engine: cannot compile /garbage.wasm: `},
		{[]string{"/hello.wasm#nope"}, "", 126, `^go-engine: /hello.wasm has no exported function "nope"\n`},
		{[]string{"/spin.wasm"}, "fuel = 100000", 134, `(?s)^go-engine: .*all fuel consumed`},
		{[]string{"/go.wasm", "ls=/"}, "preopens = ['/work']", 1, `ls=/`},
		{[]string{"/go.wasm", "env", "cwd"}, "", 0, `^$`},
	} {
		result := tt.Once(harness.Config{Image: image, Args: test.args, RuntimeOptions: body("[engine]\n" + test.engine)})
		require.Equal(t, test.code, result.Code, "%s: %+v", test.args, result)
		require.Regexp(t, test.stderr, result.Stderr)
		if test.code > 125 {
			require.Contains(t, tt.LogTail(10), "guest failed: ")
		}
		require.NotContains(t, result.Stdout, "_WASMSHIM")
	}
	created, err := tt.Daemon.Create(tt.Ctx, harness.Config{Runtime: smoke.Go, Image: image, Args: []string{"/component-hello.wasm"}})
	require.Nil(t, created)
	require.ErrorContains(t, err, `"/component-hello.wasm" is a WebAssembly component; go-engine runs only: WebAssembly module, WebAssembly text`)
}

// The log, the seccomp profile and Landlock are as with an engine in C.
func TestTrust6Sandbox(t *testing.T) {
	tt := harness.New(t, smoke.Go)
	c := tt.Run(harness.Config{Image: smoke.Image(tt), Args: []string{"/hello.wasm"}, RuntimeOptions: body("log_level = 'debug'")})
	_, err := tt.Finish(c)
	require.NoError(t, err)
	require.Contains(t, strings.Join(logLines(tt, c.ID()), "\n"), `msg="/hello.wasm is compiled and linked" instance=`+c.ID())

	eperm := uint(syscall.EPERM)
	profile := harness.WithSpec(func(s *oci.Spec) {
		s.Linux.Seccomp = &specs.LinuxSeccomp{
			DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno, ErrnoRet: &eperm}},
		}
	})
	result := tt.Once(harness.Config{Image: smoke.Image(tt), Args: []string{"/bin/busybox", "mkdir", "/tmp/x"}, Opts: []oci.SpecOpts{profile}})
	require.EqualValues(t, 1, result.Code)
	require.Contains(t, result.Stderr, "Operation not permitted")

	try := []string{"/go.wasm", "try-write=/proc/self/mem", "try-read=/proc/1/status", "try-read=/etc/data", "try-create=/new", "try-create=/tmp/new"}
	for mode, want := range map[string][]bool{
		"hidden": {false, false, true, false, true}, "readonly": {false, true, true, true, true}, "full": {true, true, true, true, true},
	} {
		for _, opts := range [][]oci.SpecOpts{{withTmp}, {withTmp, oci.WithUserID(1000)}} {
			result := tt.Once(harness.Config{Image: smoke.Image(tt), Args: try, RuntimeOptions: body("guest_proc = '" + mode + "'"), Opts: opts})
			require.Zero(t, result.Code, "%+v", result)
			for i, line := range strings.Split(strings.TrimSpace(result.Stdout), "\n") {
				if len(opts) == 2 && i != 2 && i != 4 {
					continue // as somebody else than root, ordinary rights come first
				}
				require.Equal(t, want[i], strings.HasSuffix(line, " works"), "%s: %s", mode, line)
			}
		}
	}
	result = tt.Once(harness.Config{Image: smoke.Image(tt), Args: []string{"/hello.wasm"}, Opts: []oci.SpecOpts{noLandlock()}, RuntimeOptions: body("guest_proc = 'hidden'")})
	require.EqualValues(t, 125, result.Code)
	require.Equal(t, "go-engine: cannot hide /proc from the guest: Landlock: function not implemented; set guest_proc to readonly to run without\n", result.Stderr)
}

// Signals end a guest at once; what the runner inherits is closed.
func TestTrust6Signals(t *testing.T) {
	tt := harness.New(t, smoke.Go)
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGUSR1, syscall.SIGQUIT, 40} {
		for _, guest := range []string{"/sleep.wasm", "/spin.wasm"} {
			code, err := signalled(tt, harness.Config{Runtime: smoke.Go, Image: smoke.Image(tt), Args: []string{guest}}, signal)
			require.NoError(t, err)
			require.Equal(t, 128+uint32(signal), code, "%s %d", guest, signal)
		}
	}
	h := tt.ByHand(harness.HandConfig{RootFS: rootfs(tt), Args: []string{"/sleep.wasm"}})
	_, err := h.Create(tt.Ctx)
	require.NoError(t, err)
	start(tt, h)
	require.NoError(t, h.Stdout.WaitFor("ready", 10*time.Second))
	_, err = h.Kill(tt.Ctx, &task.KillRequest{ID: h.ID, Signal: 9})
	require.NoError(t, err)
	require.EqualValues(t, 137, wait(tt, h))
	_, err = h.Delete(tt.Ctx, &task.DeleteRequest{ID: h.ID})
	require.NoError(t, err)
}
