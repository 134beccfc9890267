// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// procFiles lead into the process that runs the guest.
var procFiles = []string{
	"/proc/self/mem", "/proc/1/mem", "/proc/self/task/1/mem", "/proc/thread-self/mem", "/proc/1/task/1/mem",
	"/proc/self/clear_refs", "/proc/self/oom_score_adj", "/proc/self/attr/current",
}

// withTmp mounts a volume that can be written to.
var withTmp = oci.WithMounts([]specs.Mount{{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"mode=1777"}}})

// noLandlock is what a kernel without it answers.
func noLandlock() oci.SpecOpts {
	enosys := uint(38)
	return harness.WithSpec(func(s *oci.Spec) {
		s.Linux.Seccomp = &specs.LinuxSeccomp{
			DefaultAction: specs.ActAllow,
			Syscalls:      []specs.LinuxSyscall{{Names: []string{"landlock_create_ruleset"}, Action: specs.ActErrno, ErrnoRet: &enosys}},
		}
	})
}

// A guest cannot reach into the process that runs it, whoever it runs as, and
// what it loses by that is as documented.
func TestTrust8Proc(t *testing.T) {
	readonly := oci.WithRootFSReadonly()
	unprivileged := oci.WithUserID(1000)
	const (
		works  = " works"
		denied = ": Permission denied"
	)
	ro := ": Read-only file system"
	if !isFull(t) {
		ro = ": I/O error" // what the prebuilt wasmtime makes of it
	}
	for _, test := range []struct {
		name      string
		mode      string // guest_proc; empty means that nobody set it
		opts      []oci.SpecOpts
		write     string // to the files of /proc
		read      string // of /proc/1/status
		newInRoot string // a new file in /
	}{
		{"by default", "", nil, ro, works, works},
		{"by default, not as root", "", []oci.SpecOpts{unprivileged}, ro, works, denied},
		{"by default, read-only root", "", []oci.SpecOpts{readonly}, ro, denied, ro},
		{"by default, read-only root, not as root", "", []oci.SpecOpts{readonly, unprivileged}, ro, denied, ro},
		{"by default, read-only root, no Landlock", "", []oci.SpecOpts{readonly, noLandlock()}, ro, works, ro},
		{"auto", "auto", nil, ro, works, works},
		{"readonly", "readonly", []oci.SpecOpts{readonly}, ro, works, ro},
		{"hidden", "hidden", nil, ro, denied, denied},
		{"hidden, not as root", "hidden", []oci.SpecOpts{unprivileged}, ro, denied, denied},
		{"full", "full", nil, works, works, works},
	} {
		t.Run(test.name, func(t *testing.T) {
			tt := harness.New(t, smoke.Ours)
			c := harness.Config{Image: smoke.Image(tt), Opts: append([]oci.SpecOpts{withTmp}, test.opts...)}
			if test.mode != "" {
				c.RuntimeOptions = body("guest_proc = '" + test.mode + "'")
			}
			c.Args = []string{"/go.wasm"}
			for _, f := range procFiles {
				c.Args = append(c.Args, "try-write="+f)
			}
			c.Args = append(c.Args, "try-poke", "try-create=/new", "try-read=/proc/1/status", "try-create=/tmp/new", "try-read=/etc/data", "ls=/proc/1", "ls=/")
			result := tt.Once(c)
			require.Zero(t, result.Code, "%+v", result)
			lines := strings.Split(result.Stdout, "\n")
			for i, f := range procFiles {
				require.Contains(t, lines[i], f)
				// As somebody else than root, ordinary rights come first for some.
				if test.write == works || !strings.HasSuffix(lines[i], denied) {
					require.True(t, strings.HasSuffix(lines[i], test.write), lines[i])
				}
			}
			for i, end := range map[int]string{1: test.newInRoot, 2: test.read, 3: works, 4: works} {
				line := lines[len(procFiles)+i]
				require.True(t, strings.HasSuffix(line, end), line)
			}
			require.Equal(t, test.write == works, lines[len(procFiles)] == "try-poke works", lines[len(procFiles)])
			require.Subset(t, lines, []string{"status", "etc"}, "directories can be listed")
		})
	}
}

// Where Landlock was asked for and is not there, no guest runs without it.
func TestTrust8NoLandlock(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	for _, args := range [][]string{{"/hello.wasm"}, {"/component-hello.wasm"}} {
		result := tt.Once(harness.Config{Image: smoke.Image(tt), Args: args, Opts: []oci.SpecOpts{noLandlock()}, RuntimeOptions: body("guest_proc = 'hidden'")})
		require.EqualValues(t, 125, result.Code)
		require.Equal(t, "wasmtime: cannot hide /proc from the guest: Landlock: Function not implemented; set guest_proc to readonly to run without\n", result.Stderr)
		require.Empty(t, result.Stdout)
	}
}

// Where the container's user may not list "/", Landlock would take everything
// away: a guest for which it was not asked runs without.
func TestTrust8RootThatCannotBeListed(t *testing.T) {
	for _, shim := range []string{smoke.Ours, smoke.Go} {
		tt := harness.New(t, shim)
		root := rootfs(tt) // containerd leaves out what a layer says of "/"
		require.NoError(t, os.Chmod(root, 0o711))
		for mode, want := range map[string]struct {
			code   uint32
			stderr string
			log    string
		}{
			"auto":     {0, "", "/proc is read-only, and not hidden from the guest: the container's user may not list /, where everything else has to be allowed"},
			"readonly": {0, "", ""},
			"hidden":   {125, "cannot hide /proc from the guest: the container's user may not list /, where everything else has to be allowed; set guest_proc to readonly to run without\n", ""},
		} {
			id := harness.FreshID("c")
			result := tt.Once(harness.Config{
				ID: id, Image: smoke.Image(tt), Args: []string{"/hello.wasm"}, RuntimeOptions: body("guest_proc = '" + mode + "'"),
				Opts: []oci.SpecOpts{oci.WithUserID(1000), oci.WithRootFSPath(root), oci.WithRootFSReadonly()},
			})
			require.Equal(t, want.code, result.Code, "%s: %+v", mode, result)
			require.Equal(t, want.stderr, result.Stderr[len(result.Stderr)-len(want.stderr):])
			require.Contains(t, strings.Join(logLines(tt, id), "\n"), want.log)
		}
	}
}

// Every kind of guest runs with every setting, and a second /proc is one, too.
func TestTrust8Modes(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	second := oci.WithMounts([]specs.Mount{{Destination: "/work/deep/proc", Type: "proc", Source: "proc"}})
	for _, mode := range []string{"auto", "hidden", "readonly", "full"} {
		for program, want := range outputs {
			result := tt.Once(harness.Config{Image: smoke.Image(tt), Args: []string{program}, Opts: []oci.SpecOpts{second}, RuntimeOptions: body("guest_proc = '" + mode + "'")})
			require.Zero(t, result.Code, "%s %s: %+v", mode, program, result)
			require.Contains(t, result.Stdout, want)
		}
	}
	result := tt.Once(harness.Config{
		Image: smoke.Image(tt), Opts: []oci.SpecOpts{second}, RuntimeOptions: body("guest_proc = 'hidden'"),
		Args: []string{"/go.wasm", "try-read=/work/deep/proc/1/status", "try-read=/proc/1/status", "try-read=/etc/data"},
	})
	require.Equal(t, "try-read open /work/deep/proc/1/status: Permission denied\ntry-read open /proc/1/status: Permission denied\ntry-read /etc/data works\n", result.Stdout)
}

// A native container has its /proc as it was.
func TestTrust8Native(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	result := tt.Once(harness.Config{
		Image: smoke.Image(tt), Args: []string{"/bin/sh", "-c", "echo 100 >/proc/self/oom_score_adj && cat /proc/self/oom_score_adj"},
		RuntimeOptions: body("guest_proc = 'hidden'"), Opts: []oci.SpecOpts{oci.WithRootFSReadonly()},
	})
	require.Zero(t, result.Code, "%+v", result)
	require.Equal(t, "100\n", result.Stdout)
}

// What libcontainer writes to /proc when it makes a container still gets there.
func TestTrust8InitWritesProc(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	score := 500
	result := tt.Once(harness.Config{
		Image: smoke.Image(tt), Args: []string{"/go.wasm", "read=/proc/sys/net/ipv4/ip_unprivileged_port_start", "read=/proc/self/oom_score_adj"},
		Opts: []oci.SpecOpts{harness.WithSpec(func(s *oci.Spec) {
			s.Linux.Sysctl = map[string]string{"net.ipv4.ip_unprivileged_port_start": "7"}
			s.Process.OOMScoreAdj = &score
		})},
	})
	require.Zero(t, result.Code, "%+v", result)
	require.Equal(t, "7\n500\n", result.Stdout)
}
