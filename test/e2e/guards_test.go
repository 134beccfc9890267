// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"testing"

	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

func memoryLimit(bytes int64) oci.SpecOpts {
	return harness.WithSpec(func(s *oci.Spec) { s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &bytes} })
}

// Who takes more memory than the container may have is ended by the kernel, as a
// native program is; an engine's own limit is one that the guest hears of.
func TestGuardMemory(t *testing.T) {
	const limit = 64 << 20
	tt := harness.New(t, smoke.Ours)
	image := smoke.Image(tt)
	dd := []string{"/bin/busybox", "dd", "if=/dev/zero", "of=/dev/null", "bs=256M", "count=1"}
	for _, args := range [][]string{dd, {"/allocate.wasm"}, {"/allocate.wasm#forever"}} {
		result := tt.Once(harness.Config{Image: image, Args: args, Opts: []oci.SpecOpts{memoryLimit(limit)}})
		require.EqualValues(t, 137, result.Code, "%s: %+v", args, result)
	}
	result := tt.Once(harness.Config{
		Image: image, Args: []string{"/allocate.wasm"}, Opts: []oci.SpecOpts{memoryLimit(limit)},
		RuntimeOptions: body("[engine]\nmax-memory = '16MiB'"),
	})
	require.EqualValues(t, 7, result.Code, "%+v", result)
	require.Equal(t, "16 MiB\n", result.Stdout)

	for name, args := range sleepers {
		c := sleeping(tt, args, memoryLimit(limit))
		for _, args := range [][]string{dd, {"/allocate.wasm"}} {
			result := tt.ExecOnce(c, harness.ExecConfig{Args: args})
			require.EqualValues(t, 137, result.Code, "%s in %s: %+v", args, name, result)
		}
		tt.RequireStatus(c.Task, "running")
	}
}

// A small limit on memory starts every kind of guest, compiled or not yet; one that
// is too small for anything is refused.
func TestGuardSmallMemory(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	image := smoke.Image(tt)
	small := []oci.SpecOpts{memoryLimit(10 << 20)}
	for _, guest := range []string{"/native", "/script.sh", "/hello.wasm", "/hello.wat", "/component-hello.wasm", "/component-hello.wat", "/go.wasm"} {
		result := tt.Once(harness.Config{Image: image, Args: []string{guest}, Opts: small})
		require.Zero(t, result.Code, "%s: %+v", guest, result)
		require.Contains(t, result.Stdout, "hello", guest)
	}
	for _, guest := range []string{"hello.wasm", "component-hello.wasm"} {
		for _, options := range []any{nil, body("compile_memory = '1MiB'")} {
			layer := tt.LayerImage(smoke.Fresh(t, guest))
			result := tt.Once(harness.Config{Image: layer, Opts: small, RuntimeOptions: options})
			require.Zero(t, result.Code, "%s: %+v", guest, result)
			require.Contains(t, result.Stdout, "hello", guest)
		}
	}
	// Below that, it either works, or is refused, or is ended by the kernel.
	for kib := int64(1024); kib <= 5120; kib += 1024 {
		for _, guest := range []string{"/native", "/hello.wasm"} {
			result, err := tt.Daemon.Once(tt.Ctx, harness.Config{Runtime: smoke.Ours, Image: image, Args: []string{guest}, Opts: []oci.SpecOpts{memoryLimit(kib << 10)}})
			if err != nil {
				// Between create and start, in the last case.
				require.Regexp(t, "unable to set memory limit|it is stopped", err.Error(), "%d KiB", kib)
			} else if result.Code != 137 {
				require.Equal(t, "hello\n", result.Stdout, "%d KiB: %+v", kib, result)
			}
		}
	}
}

// Limits of a process that a guest cannot live with end in a sentence.
func TestGuardRlimits(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	image := smoke.Image(tt)
	c := sleeping(tt, sleepers["native"])
	const refused, hello, reserves = "accepted for a guest", "hello", "(RLIMIT_AS)"
	for _, test := range []struct {
		rlimit string
		bytes  uint64
		want   string // in the error, on stdout, or on stderr
	}{
		{"RLIMIT_AS", 8 << 30, hello},
		{"RLIMIT_AS", 1 << 30, reserves},
		{"RLIMIT_AS", 32 << 20, refused},
		{"RLIMIT_DATA", 1 << 30, hello},
		{"RLIMIT_DATA", 4 << 20, refused},
		{"RLIMIT_STACK", 128 << 10, hello},
		{"RLIMIT_STACK", 16 << 10, refused},
	} {
		limits := []specs.POSIXRlimit{{Type: test.rlimit, Soft: test.bytes, Hard: test.bytes}}
		for _, guest := range []string{"/component-hello.wasm", "/recurse.wasm"} {
			check := func(result harness.Result, err error) {
				t.Helper()
				if test.want == refused {
					require.True(t, errdefs.IsInvalidArgument(err), "%+v: %+v %v", test, result, err)
					require.ErrorContains(t, err, refused)
					require.ErrorContains(t, err, test.rlimit)
					return
				}
				require.NoError(t, err, "%+v", test)
				switch {
				case test.want == reserves:
					require.EqualValues(t, 126, result.Code, "%+v: %+v", test, result)
					require.Contains(t, result.Stderr, reserves)
				case guest == "/recurse.wasm":
					require.EqualValues(t, 134, result.Code, "%+v: %+v", test, result)
					require.Contains(t, result.Stderr, "call stack exhausted")
				default:
					require.Contains(t, result.Stdout, hello, "%+v: %+v", test, result)
				}
			}
			check(tt.Daemon.Once(tt.Ctx, harness.Config{Runtime: smoke.Ours, Image: image, Args: []string{guest}, Opts: []oci.SpecOpts{
				harness.WithSpec(func(s *oci.Spec) { s.Process.Rlimits = limits }),
			}}))
			e := tt.AddExec(c, harness.ExecConfig{Args: []string{guest}, Change: func(p *specs.Process) { p.Rlimits = limits }})
			err := e.Start(tt.Ctx)
			var result harness.Result
			if err == nil {
				result, err = e.Finish(tt.Ctx)
			}
			check(result, err)
		}
	}
}

// Where an engine cannot have its threads, a guest does not wait for ever for what
// they would do.
func TestGuardProcesses(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	image := smoke.Image(tt)
	for pids := int64(1); pids <= 16; pids *= 2 {
		limit := harness.WithSpec(func(s *oci.Spec) { s.Linux.Resources.Pids = &specs.LinuxPids{Limit: &pids} })
		result := tt.Once(harness.Config{Image: image, Args: []string{"/native"}, Opts: []oci.SpecOpts{limit}})
		require.Equal(t, "hello\n", result.Stdout, "%d: %+v", pids, result)
		for guest, code := range map[string]uint32{"/files.wasm": 1, "/component-hello.wasm": 0} { // one has no files to copy
			result := tt.Once(harness.Config{Image: image, Args: []string{guest}, Opts: []oci.SpecOpts{limit}})
			if pids <= 4 {
				code = 125
				require.Contains(t, result.Stderr, "its limit on processes (pids) is too low", "%d: %+v", pids, result)
			}
			require.Equal(t, code, result.Code, "%s, %d: %+v", guest, pids, result)
		}
	}
}

// An engine in Go says so as well.
func TestGuardRlimitsOfGo(t *testing.T) {
	tt := harness.New(t, smoke.Go)
	result := tt.Once(harness.Config{Image: smoke.Image(tt), Args: []string{"/hello.wasm"}, Opts: []oci.SpecOpts{harness.WithSpec(func(s *oci.Spec) {
		s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_AS", Soft: 1 << 30, Hard: 1 << 30}}
	})}})
	require.EqualValues(t, 125, result.Code, "%+v", result)
	require.Contains(t, result.Stderr, "(RLIMIT_AS)")
}
