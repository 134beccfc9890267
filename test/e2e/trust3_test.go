// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// body is what containerd's CRI sends for an options table.
func body(toml string) *runtimeoptions.Options {
	return &runtimeoptions.Options{ConfigBody: []byte(toml)}
}

func annotation(key, value string) oci.SpecOpts {
	return oci.WithAnnotations(map[string]string{"engine.libwasmshim.io/" + key: value})
}

// Every option of the wasmtime engine changes what the guest can do, as a
// module and as a component.
func TestTrust3EngineOptions(t *testing.T) {
	for _, test := range []struct {
		args    []string
		engine  string
		code    uint32
		message string // what its stderr says, in a regular expression
	}{
		{[]string{"/grow.wasm"}, ``, 200, `^$`},
		{[]string{"/grow.wasm"}, `max-memory = "1MiB"`, 16, `^$`},
		{[]string{"/grow.wasm"}, `max-memory = 1000`, 126, `memory minimum size of 1 pages exceeds memory limits`},
		{[]string{"/component-hello.wasm"}, `max-memory = "1GiB"`, 0, `^$`},
		{[]string{"/component-hello.wasm"}, `max-memory = 65536`, 126, `exceeds memory limits`},
		{[]string{"/hello.wasm"}, `fuel = 1000000`, 0, `^$`},
		{[]string{"/spin.wasm"}, `fuel = 1000000`, 134, `^wasmtime: wasm trap: all fuel consumed by WebAssembly`},
		{[]string{"/component-spin.wasm"}, `fuel = 1000000`, 134, `^wasmtime: wasm trap: all fuel consumed by WebAssembly`},
		{[]string{"/hello.wasm"}, `timeout = "1m"`, 0, `^$`},
		{[]string{"/exit.wasm"}, `timeout = "1m"`, 7, `^$`},
		{[]string{"/trap.wasm"}, `timeout = "1m"`, 134, `^wasmtime: wasm trap: wasm .unreachable. instruction executed`},
		{[]string{"/spin.wasm"}, `timeout = "150ms"`, 134, `^wasmtime: the guest ran for longer than its timeout of 150 ms\n$`},
		{[]string{"/sleep.wasm"}, `timeout = "150ms"`, 134, `^wasmtime: the guest ran for longer than its timeout of 150 ms\n$`},
		{[]string{"/component-spin.wasm"}, `timeout = "150ms"`, 134, `^wasmtime: the guest ran for longer than its timeout of 150 ms\n$`},
		{[]string{"/hello.wasm"}, `opt-level = "none"`, 0, `^$`},
		{[]string{"/hello.wasm"}, `opt-level = "speed"`, 0, `^$`},
		{[]string{"/component-hello.wasm"}, `opt-level = "speed-and-size"`, 0, `^$`},
		{[]string{"/go.wasm", "ls=/"}, `preopens = ["/work"]`, 1, `ls=/: `},
		{[]string{"/go.wasm", "ls=/w", "read=/e/data"}, `preopens = ["/work:/w", "/etc:/e"]`, 0, `^$`},
		{[]string{"/go.wasm", "ls=/"}, `preopens = []`, 1, `ls=/: `},
		{[]string{"/hello.wasm"}, `preopens = []`, 0, `^$`},
		{[]string{"/component-hello.wasm"}, `preopens = ""`, 0, `^$`},
		{[]string{"/hello.wasm"}, `preopens = ["/nope"]`, 126, `^wasmtime: cannot open directory /nope for the guest: No such file or directory`},
		// Native containers have no engine: its options are nothing to them.
		{[]string{"/bin/true"}, `fuel = 1`, 0, `^$`},
	} {
		t.Run(strings.Join(test.args, " ")+" "+test.engine, func(t *testing.T) {
			tt := harness.New(t, smoke.Ours)
			result := tt.Once(harness.Config{Image: smoke.Image(tt), Args: test.args, RuntimeOptions: body("[engine]\n" + test.engine)})
			require.Equal(t, test.code, result.Code, "%+v", result)
			require.Regexp(t, test.message, result.Stderr)
		})
	}
}

// Each proposal of WebAssembly can be switched, and what is off is refused.
func TestTrust3Proposals(t *testing.T) {
	const start = `(func (export "_start"))`
	newer := isFull(t) // these are on by default since 47
	guests := map[string]struct {
		wat    string
		normal bool
	}{
		"bulk-memory":         {`(memory 1) (func (memory.fill (i32.const 0) (i32.const 0) (i32.const 1)))`, true},
		"custom-page-sizes":   {`(memory 1 (pagesize 1))`, false},
		"exceptions":          {`(tag (param i32))`, newer},
		"function-references": {`(type $f (func)) (func (param (ref $f)))`, newer},
		"gc":                  {`(type (struct (field i32)))`, newer},
		"memory64":            {`(memory i64 1)`, true},
		"multi-memory":        {`(memory 1) (memory 1)`, true},
		"multi-value":         {`(func (result i32 i32) i32.const 1 i32.const 2)`, true},
		"reference-types":     {`(table 1 externref)`, true},
		"relaxed-simd":        {`(func (drop (i8x16.relaxed_swizzle (v128.const i64x2 0 0) (v128.const i64x2 0 0))))`, true},
		"simd":                {`(func (drop (v128.const i64x2 0 0)))`, true},
		"tail-call":           {`(func $f (return_call $f))`, true},
		"threads":             {`(memory 1) (func (drop (i32.atomic.load (i32.const 0))))`, true},
		"wide-arithmetic":     {`(func (drop (drop (i64.add128 (i64.const 0) (i64.const 0) (i64.const 0) (i64.const 0)))))`, false},
	}
	if newer {
		guests["stack-switching"] = struct {
			wat    string
			normal bool
		}{`(type $f (func)) (type $c (cont $f)) (func $g) (elem declare func $g) (func (drop (cont.new $c (ref.func $g))))`, false}
	}
	tt := harness.New(t, smoke.Ours)
	files := map[string]harness.File{"proc/": {}, "dev/": {}, "sys/": {}}
	for name, g := range guests {
		files[name+".wat"] = harness.File{Data: []byte("(module " + start + g.wat + ")")}
	}
	image := tt.Image("proposals", files, ocispec.ImageConfig{})
	for name, g := range guests {
		t.Run(name, func(t *testing.T) {
			tt := harness.New(t, smoke.Ours)
			run := func(value string) harness.Result {
				c := harness.Config{Image: image, Args: []string{"/" + name + ".wat"}}
				if value != "" {
					c.RuntimeOptions = body(fmt.Sprintf("[engine]\nwasm-%s = %s", name, value))
				}
				return tt.Once(c)
			}
			for value, on := range map[string]bool{"": g.normal, "true": true, "false": false} {
				result := run(value)
				if on {
					require.Zero(t, result.Code, "%q: %+v", value, result)
				} else {
					require.EqualValues(t, 126, result.Code, "%q: %+v", value, result)
					require.Contains(t, result.Stderr, "cannot compile")
					require.Contains(t, result.Stderr, ": the engine option wasm-"+name+" = true allows it\n")
				}
			}
		})
	}
	t.Run("one that needs another", func(t *testing.T) {
		tt := harness.New(t, smoke.Ours)
		result := tt.Once(harness.Config{
			Image: image, Args: []string{"/simd.wat"}, RuntimeOptions: body("[engine]\nwasm-bulk-memory = false\nwasm-gc = true"),
		})
		require.EqualValues(t, 126, result.Code)
		require.Equal(t, "wasmtime: option wasm-gc = true needs wasm-bulk-memory, which is false\n", result.Stderr)
	})
}

// Options as wasmtime's command has them, with its errors; what they would do but change
// the configuration is refused by name.
func TestTrust3Flags(t *testing.T) {
	needsFull(t, "knows no options of its command")
	tt := harness.New(t, smoke.Ours)
	for flags, want := range map[string]string{
		`["-O opt-level=s", "-W simd=n,relaxed-simd=n"]`: "SIMD support is not enabled",
		`["-O opt-level=0", "-C inlining=y", "-W gc"]`:   "",
		`"-W relaxed-simd=n"`:                            "",
		`"-W simd=n"`:                                    "engine option wasmtime: cannot disable the simd proposal but enable the relaxed simd proposal",
		`"-W help"`:                                      `engine option wasmtime: found "-W help", accepted: no help`,
		`"-W fuel=1"`:                                    `engine option wasmtime: found "-W fuel=1", accepted: the engine option fuel`,
		`"-S http"`:                                      `engine option wasmtime: found "-S", accepted: -C, -D, -O, -W`,
		`"-W nothing=1"`:                                 "engine option wasmtime: unknown -W / --wasm option: nothing",
		`"-C compiler=winch"`:                            "engine option wasmtime: ",
	} {
		t.Run(flags, func(t *testing.T) {
			result := tt.Once(harness.Config{Image: smoke.Image(tt), Args: []string{"/simd.wasm"}, RuntimeOptions: body("[engine]\nwasmtime = " + flags)})
			require.Contains(t, result.Stderr, want)
			require.Equal(t, want != "", result.Code == 126, "%+v", result)
		})
	}
	// Those of the table come after.
	result := tt.Once(harness.Config{Image: smoke.Image(tt), Args: []string{"/simd.wasm"}, RuntimeOptions: body("[engine]\nwasmtime = '-W simd=n,relaxed-simd=n'\nwasm-simd = true")})
	require.Zero(t, result.Code, "%+v", result)
}

// Options come in a file, too, as with ctr's --runtime-config-path.
func TestTrust3ConfigPath(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	file := filepath.Join(t.TempDir(), "shim.toml")
	require.NoError(t, os.WriteFile(file, []byte("[engine]\nmax-memory = '1MiB'\n"), 0o600))
	result := tt.Once(harness.Config{Image: smoke.Image(tt), Args: []string{"/grow.wasm"}, RuntimeOptions: &runtimeoptions.Options{ConfigPath: file}})
	require.EqualValues(t, 16, result.Code, "%+v", result)
}

// One host serves two RuntimeClasses with different options at once; two pods
// of one class differ by annotation.
func TestTrust3TwoClasses(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	image := smoke.Image(tt)
	small := body("[engine]\nmax-memory = '1MiB'\n")
	large := body("allow_annotations = ['max-memory']\n[engine]\nmax-memory = '2MiB'\n")
	var all sync.WaitGroup
	for range 3 {
		for _, pod := range []struct {
			class *runtimeoptions.Options
			opts  []oci.SpecOpts
			pages uint32
		}{
			{small, nil, 16},
			{large, nil, 32},
			{large, []oci.SpecOpts{annotation("max-memory", "3MiB")}, 48},
			{large, []oci.SpecOpts{annotation("max-memory", "4MiB")}, 64},
		} {
			all.Go(func() {
				result, err := tt.Daemon.Once(tt.Ctx, harness.Config{Runtime: smoke.Ours, Image: image, Args: []string{"/grow.wasm"}, RuntimeOptions: pod.class, Opts: pod.opts})
				if err != nil || result.Code != pod.pages {
					t.Errorf("%d pages expected, found %+v, %v", pod.pages, result, err)
				}
			})
		}
	}
	all.Wait()

	// Containers of one pod share a daemon, not their options.
	id := harness.FreshID("pod")
	sandbox := tt.Run(harness.Config{ID: id, Pod: id, Image: image, Args: []string{"/sleep.wasm"}, RuntimeOptions: large})
	for value, pages := range map[string]uint32{"3MiB": 48, "5MiB": 80} {
		result := tt.Once(harness.Config{Pod: id, Image: image, Args: []string{"/grow.wasm"}, RuntimeOptions: large, Opts: []oci.SpecOpts{annotation("max-memory", value)}})
		require.Equal(t, pages, result.Code, "%+v", result)
	}
	require.Eventually(t, func() bool { return len(tt.Shims()) == 1 }, 10*time.Second, 10*time.Millisecond, "the others have ended")
	require.NoError(t, tt.Remove(tt.Ctx, sandbox))
}

// What the operator did not allow, or nobody knows, is refused before anything
// runs, with the word that was wrong.
func TestTrust3BadOptions(t *testing.T) {
	known := "fuel, max-memory, max-wasm-stack, memory-guard-size, memory-reservation, network, opt-level, preopens, timeout, wasm-"
	if isFull(t) {
		known = "accept-from, connect-names, connect-ports, connect-to, fuel, http-address, http-backlog, http-client-timeout, http-concurrency, http-drain, http-idle, http-log, " +
			"http-max-body, http-max-connections, http-max-headers, http-max-requests, http-reuse, http-timeout, initialize, listen-ports, max-memory, max-wasm-stack, memory-guard-size, " +
			"memory-reservation, network, opt-level, preopens, tcplisten, timeout, wasm-"
	}
	for name, test := range map[string]struct {
		options any
		opts    []oci.SpecOpts
		code    codes.Code
		message string
	}{
		"an annotation that is not allowed": {
			body("[engine]\nfuel = 5"),
			[]oci.SpecOpts{annotation("fuel", "9")},
			codes.PermissionDenied,
			"annotation engine.libwasmshim.io/fuel is not allowed here; the runtime's option allow_annotations allows: none",
		},
		"an annotation without options": {
			nil, []oci.SpecOpts{annotation("fuel", "9")}, codes.PermissionDenied, "annotation engine.libwasmshim.io/fuel is not allowed here",
		},
		"an annotation of no option": {
			body("allow_annotations = ['fuel']"),
			[]oci.SpecOpts{annotation("fule", "9")},
			codes.PermissionDenied,
			"annotation engine.libwasmshim.io/fule is not allowed here; the runtime's option allow_annotations allows: fuel",
		},
		"an annotation of a wrong form": {
			body("allow_annotations = ['fuel']"),
			[]oci.SpecOpts{annotation("fuel", "lots")},
			codes.InvalidArgument,
			`annotation engine.libwasmshim.io/fuel: engine option fuel: found "lots", accepted: a whole number from 0 to 18446744073709551615`,
		},
		"an unknown engine option": {
			body("[engine]\nfule = 5"), nil, codes.InvalidArgument,
			`runtime options: engine: unknown engine option "fule"; the engine knows: ` + known,
		},
		"an unknown key":      {body("fuel = 5"), nil, codes.InvalidArgument, `runtime options: unknown key "fuel"; accepted: IoGid, IoUid,`},
		"no TOML":             {body("fuel: 5"), nil, codes.InvalidArgument, `runtime options: line 1, column`},
		"a wrong word":        {body("[engine]\nopt-level = 3"), nil, codes.InvalidArgument, `engine option opt-level: found "3", accepted: none, speed, speed-and-size`},
		"a file not there":    {&runtimeoptions.Options{ConfigPath: "/nope.toml"}, nil, codes.NotFound, "runtime option ConfigPath: open /nope.toml: no such file or directory"},
		"runc's BinaryName":   {&options.Options{BinaryName: "crun"}, nil, codes.InvalidArgument, `runtime option BinaryName is not supported: found "crun", accepted: this shim's own file, containerd-shim-wasmtime-v1`},
		"runc's Root":         {&options.Options{Root: "r"}, nil, codes.InvalidArgument, `runtime option Root: found "r", accepted: an absolute path`},
		"SystemdCgroup, path": {&options.Options{SystemdCgroup: true}, []oci.SpecOpts{oci.WithCgroup("/plain/path")}, codes.InvalidArgument, "expected cgroupsPath to be of format"},
		"a path of systemd's form, without systemd": {nil, []oci.SpecOpts{oci.WithCgroup("system.slice:shim:x")}, codes.Unknown, "systemd not running on this host"},
		"a pod annotation's options": {
			&options.Options{}, []oci.SpecOpts{annotation("max-memory", "1GiB")}, codes.PermissionDenied, "annotation engine.libwasmshim.io/max-memory is not allowed here",
		},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := os.Stat("/run/systemd/system"); err == nil && strings.HasSuffix(name, "without systemd") {
				t.Skip("this host has systemd")
			}
			tt := harness.New(t, smoke.Ours)
			requireRefused(tt, harness.Config{Image: smoke.Image(tt), Args: []string{"/hello.wasm"}, RuntimeOptions: test.options, Opts: test.opts}, test.code, test.message)
		})
	}
}

// requireRefused creates a task, which must fail as said.
func requireRefused(t *harness.T, c harness.Config, code codes.Code, message string) {
	t.Helper()
	c.Runtime = smoke.Ours
	container, err := t.NewContainer(t.Ctx, c)
	require.NoError(t, err)
	task, err := container.NewTask(t.Ctx, cio.NullIO)
	if err == nil {
		_, _ = task.Delete(t.Ctx, client.WithProcessKill)
	}
	require.NoError(t, container.Delete(t.Ctx, client.WithSnapshotCleanup))
	st := status.Convert(errgrpc.ToGRPC(err))
	require.Equal(t, code.String(), st.Code().String(), st.Message())
	require.Contains(t, st.Message(), message)
}

// runc's own options do what they say.
func TestTrust3RuncOptions(t *testing.T) {
	for _, args := range [][]string{{"/hello.wasm"}, {"/component-hello.wasm"}, {"/bin/echo", "hello"}} {
		for name, o := range map[string]any{
			"NoPivotRoot":           &options.Options{NoPivotRoot: true},
			"NoNewKeyring":          &options.Options{NoNewKeyring: true},
			"both, as CRI sends it": body("NoPivotRoot = true\nNoNewKeyring = true\nSystemdCgroup = false\nBinaryName = ''"),
			"none":                  &options.Options{},
			// What k3s and installers write.
			"BinaryName":              &options.Options{BinaryName: "/opt/bin/containerd-shim-wasmtime-v1"},
			"BinaryName, as CRI does": body("BinaryName = 'containerd-shim-wasmtime-v1'\nSystemdCgroup = false"),
		} {
			t.Run(args[0]+" "+name, func(t *testing.T) {
				tt := harness.New(t, smoke.Ours)
				result := tt.Once(harness.Config{Image: smoke.Image(tt), Args: args, RuntimeOptions: o})
				require.Zero(t, result.Code, "%+v", result)
				require.Regexp(t, "^hello( from a component)?\n$", result.Stdout)
			})
		}
	}
	t.Run("ShimCgroup", func(t *testing.T) {
		for name, o := range map[string]any{
			"runc's": &options.Options{ShimCgroup: "/CGROUP"}, "generic": body("ShimCgroup = '/CGROUP'"),
		} {
			t.Run(name, func(t *testing.T) {
				tt := harness.New(t, smoke.Ours)
				group, dir := ownCgroup(tt)
				switch o := o.(type) {
				case *options.Options:
					o.ShimCgroup = group
				case *runtimeoptions.Options:
					o.ConfigBody = []byte("ShimCgroup = '" + group + "'")
				}
				c := tt.Run(harness.Config{Image: smoke.Image(tt), Args: []string{"/sleep.wasm"}, RuntimeOptions: o})
				require.NoError(t, c.Stdout.WaitFor("ready", 10*time.Second))
				procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
				require.NoError(t, err)
				require.Len(t, tt.Shims(), 1)
				require.Equal(t, fmt.Sprintf("%d\n", tt.Shims()[0].Pid), string(procs))
				require.NoError(t, tt.Remove(tt.Ctx, c))
			})
		}
	})
	t.Run("IoUid and IoGid", func(t *testing.T) {
		tt := harness.New(t, smoke.Ours)
		c := tt.Create(harness.Config{
			Image: smoke.Image(tt), Args: []string{"/sleep.wasm"}, RuntimeOptions: &options.Options{IoUid: 1234, IoGid: 2345},
			Opts: []oci.SpecOpts{harness.WithSpec(func(s *oci.Spec) { s.Process.User = specs.User{UID: 1234, GID: 99} })},
		})
		fifos := c.Task.IO().Config()
		for _, name := range []string{fifos.Stdout, fifos.Stderr} {
			var st unix.Stat_t
			require.NoError(t, unix.Stat(name, &st))
			require.EqualValues(t, 1234, st.Uid)
			require.EqualValues(t, 2345, st.Gid)
		}
	})
}

// With the option Root runc finds a container, and may delete it; nothing of it is left
// there, however it ends.
func TestTrust3Root(t *testing.T) {
	begin := func(t *testing.T) (tt *harness.T, o *options.Options, runc func(args ...string) string) {
		tt = harness.New(t, smoke.Ours)
		root := t.TempDir()
		dir := filepath.Join(root, tt.Namespace)
		program, err := tt.LookPath("runc")
		require.NoError(t, err)
		t.Cleanup(func() {
			left, err := os.ReadDir(dir)
			require.NoError(t, err)
			require.Empty(t, left)
		})
		return tt, &options.Options{Root: root}, func(args ...string) string {
			out, err := exec.Command(program, append([]string{"--root", dir}, args...)...).CombinedOutput()
			require.NoError(t, err, "%s", out)
			return string(out)
		}
	}
	for kind, args := range sleepers {
		for _, deletes := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, runc deletes it: %t", kind, deletes), func(t *testing.T) {
				tt, o, runc := begin(t)
				c := tt.Run(harness.Config{Image: smoke.Image(tt), Args: args, RuntimeOptions: o})
				require.NoError(t, c.Stdout.WaitFor("ready", 10*time.Second))
				require.Contains(t, runc("state", c.ID()), fmt.Sprintf(`"pid": %d`, c.Task.Pid()))
				require.Zero(t, tt.ExecOnce(c, harness.ExecConfig{Args: []string{"/native"}}).Code)
				if deletes {
					runc("delete", "--force", c.ID())
					err := c.Task.Kill(tt.Ctx, syscall.SIGKILL)
					require.True(t, errdefs.IsNotFound(err), "%v", err)
				} else {
					require.NoError(t, c.Task.Kill(tt.Ctx, syscall.SIGKILL))
				}
				result, err := tt.Finish(c)
				require.NoError(t, err)
				require.EqualValues(t, 137, result.Code)
			})
		}
		t.Run(kind+", the daemon is killed", func(t *testing.T) {
			tt, o, runc := begin(t)
			h := tt.ByHand(harness.HandConfig{RootFS: rootfs(tt), Args: args})
			request := h.Request()
			var err error
			request.Options, err = typeurl.MarshalAnyToProto(o)
			require.NoError(t, err)
			created, err := h.Shim.Create(tt.Ctx, request)
			require.NoError(t, err)
			require.Contains(t, runc("state", h.ID), fmt.Sprintf(`"pid": %d`, created.Pid))
			require.NoError(t, syscall.Kill(tt.Shims()[0].Pid, syscall.SIGKILL))
			require.Eventually(t, func() bool { return len(tt.Shims()) == 0 }, 10*time.Second, time.Millisecond)
			_, err = h.DeleteCommand(tt.Ctx)
			require.NoError(t, err)
		})
	}
}
