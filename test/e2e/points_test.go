// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	task2 "github.com/containerd/containerd/api/runtime/task/v2"
	task "github.com/containerd/containerd/api/runtime/task/v3"
	apitypes "github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// make demo runs a guest that it has compiled itself, and leaves nothing.
func TestPoint1Demo(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	repo, err := harness.Repo()
	require.NoError(t, err)
	cmd := exec.CommandContext(tt.Ctx, "scripts/demo.sh")
	cmd.Dir = repo
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	require.NoError(t, cmd.Run(), "%s", &stderr)
	require.Contains(t, stdout.String(), "Hello from Go on wasip1/wasm, in a container.\nMy arguments: one two\nGREETING is \"good day\".\n")
	require.Empty(t, harness.Orphans(), "left behind")

	t.Run("not as root", func(t *testing.T) {
		script, err := os.ReadFile(filepath.Join(repo, "scripts/demo.sh"))
		require.NoError(t, err)
		dir, err := os.MkdirTemp("/tmp", "demo-") // a place that everybody can read
		require.NoError(t, err)
		defer os.RemoveAll(dir)
		require.NoError(t, os.Chmod(dir, 0o755))
		require.NoError(t, os.Mkdir(filepath.Join(dir, "scripts"), 0o755))
		file := filepath.Join(dir, "scripts/demo.sh")
		require.NoError(t, os.WriteFile(file, script, 0o755))
		cmd := exec.CommandContext(tt.Ctx, "sh", file)
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		began := time.Now()
		out, err := cmd.CombinedOutput()
		require.Error(t, err)
		require.Contains(t, string(out), "needs root: containerd and its containers make namespaces, mounts and cgroups")
		require.Less(t, time.Since(began), 5*time.Second, "it says so at once")
	})
}

// childEnv makes this test binary a test run that gets killed.
const childEnv = "WASMSHIM_TEST_CHILD"

// A killed test run leaves nothing once the next one has begun.
func TestPoint2KilledRun(t *testing.T) {
	if os.Getenv(childEnv) != "" {
		tt := harness.New(t, smoke.Ours)
		c := tt.Run(harness.Config{Image: smoke.Image(tt), Args: []string{"/sleep.wasm"}})
		require.NoError(t, c.Stdout.WaitFor("ready", 10*time.Second))
		fmt.Printf("\nchild %s\n", tt.Namespace)
		select {}
	}
	tt := harness.New(t, smoke.Ours)
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(tt.Ctx, self, "-test.run=^TestPoint2KilledRun$")
	cmd.Env = append(os.Environ(), childEnv+"=1")
	var out harness.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	require.NoError(t, cmd.Start())
	err = out.WaitFor("\nchild ", time.Minute)
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	require.NoError(t, err)
	_, rest, _ := strings.Cut(out.String(), "\nchild ")
	name, _, _ := strings.Cut(rest, "\n")
	require.DirExists(t, filepath.Join("/tmp", name))
	require.NotEmpty(t, harness.Left(name))
	harness.Sweep()
	require.Empty(t, harness.Left(name))
	require.NoDirExists(t, filepath.Join("/tmp", name))
	require.DirExists(t, tt.Dir, "our own daemon is not swept")
}

// The container's process is the engine and nothing else: no Go, no descriptor
// of the host's, no environment of ours; and the binary is one static file.
func TestPoint3Runner(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	c := tt.Run(harness.Config{Image: smoke.Image(tt), Args: []string{"/sleep.wasm", "an argument"}, Env: []string{"SECRET=x"}})
	require.NoError(t, c.Stdout.WaitFor("ready", 10*time.Second))
	proc := filepath.Join("/proc", strconv.Itoa(int(c.Task.Pid())))
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join(proc, name))
		require.NoError(t, err)
		return string(data)
	}
	// Go's heap begins at this address, and its runtime always has a few threads.
	require.NotRegexp(t, `(?m)^c000[0-9a-f]{6}-`, read("maps"))
	threads, err := os.ReadDir(filepath.Join(proc, "task"))
	require.NoError(t, err)
	require.LessOrEqual(t, len(threads), 2, "the engine may have a worker of its own")
	require.Regexp(t, `^/sleep\.wasm\x00an argument\x00+$`, read("cmdline"))
	require.Equal(t, "sleep\n", read("comm"))
	require.NotContains(t, read("environ"), "SECRET")
	// Not even root can write through it to the binary on the host.
	_, err = os.OpenFile(filepath.Join(proc, "exe"), os.O_WRONLY, 0)
	require.ErrorIs(t, err, syscall.EROFS)
	fds, err := os.ReadDir(filepath.Join(proc, "fd"))
	require.NoError(t, err)
	for _, fd := range fds {
		target, err := os.Readlink(filepath.Join(proc, "fd", fd.Name()))
		require.NoError(t, err)
		if n, _ := strconv.Atoi(fd.Name()); n > 2 {
			require.Regexp(t, `^(anon_inode:|pipe:|socket:|/memfd:wasm-memory-image|/memfd:guest|/$|/sleep\.wasm$|/sha256/[0-9a-f]{64}$)`, target, "descriptor %d", n)
		}
	}

	binary, err := tt.ShimBinary(smoke.Ours)
	require.NoError(t, err)
	f, err := elf.Open(binary)
	require.NoError(t, err)
	defer f.Close()
	require.Equal(t, elf.ET_EXEC, f.Type, "not position independent")
	for _, p := range f.Progs {
		require.NotEqual(t, elf.PT_INTERP, p.Type, "static")
	}
	require.Nil(t, f.Section(".symtab"), "stripped")
}

// A native process gets its standard streams and no other descriptor.
func TestPoint3NativeDescriptors(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	c := tt.Run(harness.Config{Image: smoke.Image(tt), Args: []string{"/native", "sleep"}})
	// Until it has executed the program it is still libcontainer's.
	require.Eventually(t, func() bool {
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", c.Task.Pid()))
		require.NoError(t, err)
		var names []string
		for _, fd := range fds {
			names = append(names, fd.Name())
		}
		return slices.Equal(names, []string{"0", "1", "2"})
	}, 5*time.Second, 10*time.Millisecond)
}

// start answers every containerd in its dialect.
func TestPoint4Dialects(t *testing.T) {
	for name, dialect := range map[string]harness.Dialect{"1.6": harness.Dialect16, "1.7": harness.Dialect17, "2.3": harness.Dialect23} {
		t.Run(name, func(t *testing.T) {
			tt := harness.New(t, smoke.Ours)
			root := rootfs(tt)
			h := tt.ByHand(harness.HandConfig{RootFS: root, Args: []string{"/hello.wasm"}, Dialect: dialect})
			address, err := os.ReadFile(filepath.Join(h.Bundle, "address"))
			require.NoError(t, err)
			require.Equal(t, h.Address, string(address))
			if dialect == harness.Dialect23 {
				require.Equal(t, tt.SocketDir, filepath.Dir(strings.TrimPrefix(h.Address, "unix://")))
			}
			require.Zero(t, once(tt, h))
			require.NoError(t, h.Stdout.WaitFor("hello\n", 5*time.Second))
		})
	}
}

// One daemon per container, or per pod.
func TestPoint4Grouping(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	root := rootfs(tt)
	sleep := func(annotations map[string]string) *harness.ByHand {
		h := tt.ByHand(harness.HandConfig{RootFS: root, Args: []string{"/sleep.wasm"}, Opts: []oci.SpecOpts{oci.WithAnnotations(annotations)}})
		_, err := h.Create(tt.Ctx)
		require.NoError(t, err)
		return h
	}
	cri := map[string]string{"io.kubernetes.cri.sandbox-id": "sandbox1"}
	group := map[string]string{"io.containerd.runc.v2.group": "sandbox2"}
	a, b, c, d, e := sleep(cri), sleep(cri), sleep(group), sleep(group), sleep(nil)
	require.Equal(t, a.Address, b.Address)
	require.Equal(t, c.Address, d.Address)
	require.NotEqual(t, a.Address, c.Address)
	require.NotEqual(t, a.Address, e.Address)
	require.Len(t, tt.Shims(), 3)
}

func TestPoint4Info(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	binary, err := tt.ShimBinary(smoke.Ours)
	require.NoError(t, err)
	out, err := exec.CommandContext(tt.Ctx, binary, "-info").Output()
	require.NoError(t, err)
	var info apitypes.RuntimeInfo
	require.NoError(t, proto.Unmarshal(out, &info))
	require.Equal(t, smoke.Ours, info.Name)
	require.NotEmpty(t, info.Version.Version)
	var f features.Features
	require.NoError(t, json.Unmarshal(info.Features.Value, &f))
	require.Contains(t, f.MountOptions, "rro")
	require.Contains(t, f.Linux.Namespaces, "user")
	require.NotNil(t, f.Linux.Seccomp)
}

// delete is idempotent, and knows the exit status also after a daemon's death.
func TestPoint4Delete(t *testing.T) {
	begin := func(t *testing.T, args ...string) (*harness.T, *harness.ByHand) {
		tt := harness.New(t, smoke.Ours)
		h := tt.ByHand(harness.HandConfig{RootFS: rootfs(tt), Args: args})
		_, err := h.Create(tt.Ctx)
		require.NoError(t, err)
		return tt, h
	}
	kill := func(tt *harness.T) {
		shims := tt.Shims()
		require.Len(tt, shims, 1)
		require.NoError(tt, syscall.Kill(shims[0].Pid, syscall.SIGKILL))
		require.Eventually(tt, func() bool { return len(tt.Shims()) == 0 }, 5*time.Second, time.Millisecond)
	}
	requireStatus := func(tt *harness.T, h *harness.ByHand, want uint32) {
		for range 2 {
			out, err := h.DeleteCommand(tt.Ctx)
			require.NoError(tt, err)
			var r task2.DeleteResponse
			require.NoError(tt, proto.Unmarshal(out, &r))
			require.Equal(tt, want, r.ExitStatus)
			require.WithinDuration(tt, time.Now(), r.ExitedAt.AsTime(), time.Minute)
		}
	}
	t.Run("after Delete", func(t *testing.T) {
		tt, h := begin(t, "/exit.wasm")
		start(tt, h)
		require.EqualValues(t, 7, wait(tt, h))
		r, err := h.Delete(tt.Ctx, &task.DeleteRequest{ID: h.ID})
		require.NoError(t, err)
		out, err := h.DeleteCommand(tt.Ctx)
		require.NoError(t, err)
		again, err := proto.Marshal(r)
		require.NoError(t, err)
		require.Equal(t, again, out, "the very bytes of the DeleteResponse")
		requireStatus(tt, h, 7)
	})
	t.Run("daemon killed when created", func(t *testing.T) {
		tt, h := begin(t, "/sleep.wasm")
		kill(tt)
		requireStatus(tt, h, 137)
	})
	t.Run("daemon killed when running", func(t *testing.T) {
		tt, h := begin(t, "/sleep.wasm")
		start(tt, h)
		require.NoError(t, h.Stdout.WaitFor("ready", 10*time.Second))
		kill(tt)
		requireStatus(tt, h, 137)
	})
	t.Run("daemon killed when stopped", func(t *testing.T) {
		tt, h := begin(t, "/exit.wasm")
		start(tt, h)
		require.EqualValues(t, 7, wait(tt, h))
		kill(tt)
		requireStatus(tt, h, 7)
	})
	t.Run("of nothing", func(t *testing.T) {
		tt := harness.New(t, smoke.Ours)
		empty := ""
		_, err := tt.TryByHand(harness.HandConfig{Config: &empty})
		require.ErrorContains(t, err, "config.json")
	})
}

// A daemon that is killed is noticed by containerd, which runs delete.
func TestPoint4KilledDaemon(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	events := tt.Subscribe(tt.Ctx)
	defer events.Close()
	c := tt.Run(harness.Config{Image: smoke.Image(tt), Args: []string{"/sleep.wasm"}})
	require.NoError(t, c.Stdout.WaitFor("ready", 10*time.Second))
	shims := tt.Shims()
	require.Len(t, shims, 1)
	require.NoError(t, syscall.Kill(shims[0].Pid, syscall.SIGKILL))
	want := []string{"create", "start", "exit", "delete"}
	require.Equal(t, want, events.Topics(c.ID(), want...))
	exit, err := events.Exit(c.ID())
	require.NoError(t, err)
	require.EqualValues(t, 137, exit.ExitStatus)
	_, err = c.Container.Task(tt.Ctx, nil)
	require.True(t, errdefs.IsNotFound(err), "%v", err)
	c.Task.IO().Cancel()
	require.NoError(t, c.Task.IO().Close())
	tt.RequireNothingLeft()
}

// Both versions of the service answer alike, and calls that are still to come
// say so.
func TestPoint5Services(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	h := tt.ByHand(harness.HandConfig{RootFS: rootfs(tt), Args: []string{"/sleep.wasm"}})
	r, err := h.Create(tt.Ctx)
	require.NoError(t, err)
	ctx := tt.Ctx
	v2, err := h.V2.Connect(ctx, &task2.ConnectRequest{ID: h.ID})
	require.NoError(t, err)
	v3, err := h.Connect(ctx, &task.ConnectRequest{ID: h.ID})
	require.NoError(t, err)
	require.Equal(t, v2.TaskPid, v3.TaskPid)
	require.Equal(t, r.Pid, v3.TaskPid)
	require.EqualValues(t, tt.Shims()[0].Pid, v3.ShimPid)
	_, err = h.V2.Start(ctx, &task2.StartRequest{ID: h.ID})
	require.NoError(t, err)
	state, err := h.State(ctx, &task.StateRequest{ID: h.ID})
	require.NoError(t, err)
	require.Equal(t, "RUNNING", state.Status.String())
	require.Equal(t, h.Bundle, state.Bundle)
	require.Equal(t, h.Request().Stdout, state.Stdout)
	pids, err := h.Pids(ctx, &task.PidsRequest{ID: h.ID})
	require.NoError(t, err)
	require.Len(t, pids.Processes, 1)
	require.Equal(t, r.Pid, pids.Processes[0].Pid)

	// For good: see docs/support.md.
	_, err = h.Checkpoint(ctx, &task.CheckpointTaskRequest{ID: h.ID})
	require.Equal(t, codes.Unimplemented.String(), status.Code(err).String())
	require.Contains(t, status.Convert(err).Message(), "container "+h.ID+" cannot be checkpointed: no engine's state can be saved and restored")
}

// Many containers of one daemon live and die at once; each has its own events
// in order and its own exit code.
func TestPoint5ManyAtOnce(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	events := tt.Subscribe(tt.Ctx)
	defer events.Close()
	image := smoke.Image(tt)
	pod := harness.FreshID("pod")
	sandbox := tt.Run(harness.Config{ID: pod, Pod: pod, Image: image, Args: []string{"/native", "sleep"}})
	require.NoError(t, sandbox.Stdout.WaitFor("ready", 10*time.Second))
	shims := tt.Shims()
	require.Len(t, shims, 1)
	before := countFDs(t, shims[0].Pid)
	const many = 16
	var all sync.WaitGroup
	for i := range many {
		id := fmt.Sprintf("%s-%d", pod, i)
		all.Go(func() {
			args := append([]string{"/exit.wasm"}, make([]string, i)...)
			for j := range i {
				args[j+1] = "x"
			}
			want := uint32(i)
			if i == 0 {
				want = 7
			}
			result, err := tt.Daemon.Once(tt.Ctx, harness.Config{ID: id, Pod: pod, Runtime: smoke.Ours, Image: image, Args: args})
			assert.NoError(t, err)
			assert.Equal(t, want, result.Code, "%s: %+v", id, result)
			topics := []string{"create", "start", "exit", "delete"}
			assert.Equal(t, topics, events.Topics(id, topics...), id)
			if exit, err := events.Exit(id); assert.NoError(t, err) {
				assert.Equal(t, want, exit.ExitStatus)
			}
		})
	}
	all.Wait()
	require.Equal(t, shims, tt.Shims())
	status, err := sandbox.Task.Status(tt.Ctx)
	require.NoError(t, err)
	require.Equal(t, client.Running, status.Status)
	require.Eventually(t, func() bool { return countFDs(t, shims[0].Pid) <= before }, 5*time.Second, 10*time.Millisecond, "descriptors of gone containers")
}

func countFDs(t *testing.T, pid int) int {
	t.Helper()
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	require.NoError(t, err)
	return len(fds)
}

// Every kind of guest, all in one pod at once.
func TestPoint6AllKindsAtOnce(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	image := smoke.Image(tt)
	pod := harness.FreshID("pod")
	guests := [][]string{
		{"/native", "sleep"},
		{"/sleep.wasm"},
		{"/sleep.wat"},
		{"/component-spin.wasm"},
		{"/component-spin.wat"},
		{"/go.wasm", "echo=ready", "sleep=1h"},
		{"/sleeper.sh"},
	}
	var all []*harness.Container
	for i, args := range guests {
		id := pod
		if i > 0 {
			id = harness.FreshID("c")
		}
		all = append(all, tt.Run(harness.Config{ID: id, Pod: pod, Image: image, Args: args}))
	}
	for i, c := range all {
		require.NoError(t, c.Stdout.WaitFor("ready", 30*time.Second), "%v: %s", guests[i], c.Stderr)
		status, err := c.Task.Status(tt.Ctx)
		require.NoError(t, err)
		require.Equal(t, client.Running, status.Status)
	}
	require.Len(t, tt.Shims(), 1)
}

// What a guest sees of its container.
func TestPoint6Environment(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	image := smoke.Image(tt)
	result := tt.Once(harness.Config{
		Image: image,
		Args:  []string{"/go.wasm", "args", "echo=", "echo=ö", "cwd", "read=/etc/data", "write=/tmp/x", "read=/tmp/x", "read=/etc/secret", "env"},
		Env:   []string{"A=b c", "EMPTY="},
		Opts:  []oci.SpecOpts{oci.WithProcessCwd("/work")},
	})
	require.Zero(t, result.Code, "%+v", result)
	seen, env, _ := strings.Cut(result.Stdout, "for root\n")
	require.Equal(t, `["/go.wasm" "args" "echo=" "echo=ö" "cwd" "read=/etc/data" "write=/tmp/x" "read=/tmp/x" "read=/etc/secret" "env"]`+
		"\n\nö\n/work\njust text\nwritten\n", seen)
	for _, kv := range []string{"A=b c\n", "EMPTY=\n", "PATH=/bin\n", "HOME=/\n"} {
		require.Contains(t, env, kv)
	}
	require.NotContains(t, env, "WASMSHIM")

	// "/" is there with all rights; the kernel draws the limits.
	result = tt.Once(harness.Config{
		Image: image, Args: []string{"/go.wasm", "cwd", "read=/etc/data", "read=/etc/secret"}, Opts: []oci.SpecOpts{oci.WithUserID(1000)},
	})
	require.EqualValues(t, 1, result.Code, "%+v", result)
	require.Equal(t, "/\njust text\n", result.Stdout)
	require.Contains(t, result.Stderr, "read=/etc/secret: ")
	result = tt.Once(harness.Config{Image: image, Args: []string{"/go.wasm", "write=/tmp/x"}, Opts: []oci.SpecOpts{oci.WithRootFSReadonly()}})
	require.EqualValues(t, 1, result.Code, "%+v", result)
	require.Contains(t, result.Stderr, "write=/tmp/x: ")

	t.Run("component", func(t *testing.T) {
		result := tt.Once(harness.Config{Image: image, Args: []string{"/component-cat.wasm", "x y"}, Env: []string{"A=b c"}})
		require.Zero(t, result.Code, "%+v", result)
		require.Equal(t, "arg /component-cat.wasm\narg x y\nenv PATH=/bin\nenv A=b c\nenv HOME=/\nend\n", result.Stdout)
	})
	t.Run("entry function", func(t *testing.T) {
		result := tt.Once(harness.Config{Image: image, Args: []string{"/hello.wasm#other"}})
		require.Zero(t, result.Code, "%+v", result)
		require.Equal(t, "Jello\n", result.Stdout)
	})
	t.Run("by PATH", func(t *testing.T) {
		result := tt.Once(harness.Config{Image: image, Args: []string{"hello.wasm"}, Opts: []oci.SpecOpts{oci.WithEnv([]string{"PATH=/bin:/"})}})
		require.Zero(t, result.Code, "%+v", result)
		require.Equal(t, "hello\n", result.Stdout)
	})
	t.Run("bind mount", func(t *testing.T) {
		mount := oci.WithMounts([]specs.Mount{{Destination: "/mnt/app.wasm", Type: "bind", Source: filepath.Join(rootfs(tt), "hello.wasm"), Options: []string{"bind", "ro"}}})
		result := tt.Once(harness.Config{Image: image, Args: []string{"/mnt/app.wasm"}, Opts: []oci.SpecOpts{mount}})
		require.Zero(t, result.Code, "%+v", result)
		require.Equal(t, "hello\n", result.Stdout)
	})
}

// Output is not lost, however much there is and however it ends, and stderr is apart.
func TestPoint6Streams(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	image := smoke.Image(tt)
	big := strings.Repeat("0123456789abcde\n", 20000)
	result := tt.Once(harness.Config{Image: image, Args: []string{"/cat.wasm"}, Stdin: strings.NewReader(big)})
	require.Zero(t, result.Code)
	require.Equal(t, len(big)+len("end\n"), len(result.Stdout))
	require.Equal(t, big+"end\n", result.Stdout)
	require.Equal(t, big, result.Stderr)
	result = tt.Once(harness.Config{Image: image, Args: []string{"/go.wasm", "echo=out", "stderr=err", "exit=3"}})
	require.Equal(t, harness.Result{Code: 3, At: result.At, Stdout: "out\n", Stderr: "err\n"}, result)
	t.Run("no FIFO is /dev/null", func(t *testing.T) {
		result := tt.Once(harness.Config{Image: image, Args: []string{"/cat.wasm"}, NoIO: true})
		require.Zero(t, result.Code)
	})
}

// What the engine cannot do is an error of the engine's, not a crash.
func TestPoint6Network(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	result := tt.Once(harness.Config{Image: smoke.Image(tt), Args: []string{"/component-network.wasm"}})
	require.Zero(t, result.Code, "%+v", result)
	require.Regexp(t, `(create|connect): +access-denied +\nlookup:  permanent-resolver-failure +\n`, result.Stdout)
}

func TestPoint7ExitCodes(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	image := smoke.Image(tt)
	for _, test := range []struct {
		args   []string
		code   uint32
		stderr string // a regular expression
	}{
		{[]string{"/hello.wasm"}, 0, `^$`},
		{[]string{"/exit.wasm"}, 7, `^$`},
		{[]string{"/exit.wasm", "one"}, 1, `^$`},
		{append([]string{"/exit.wasm"}, make([]string, 125)...), 125, `^$`},
		{append([]string{"/exit.wasm"}, make([]string, 255)...), 255, `^$`},
		{append([]string{"/exit.wasm"}, make([]string, 300)...), 44, `^$`},
		{[]string{"/go.wasm", "panic=oops"}, 2, `panic: oops`},
		{[]string{"/trap.wasm"}, 134, `(?s)^wasmtime: wasm trap: wasm .unreachable. instruction executed\n.*!inner\n.*!outer\n`},
		{[]string{"/component-trap.wasm"}, 134, `(?s)^wasmtime: wasm trap: wasm .unreachable. instruction executed\n.*!inner\n.*!outer\n`},
		{[]string{"/component-hello.wasm"}, 0, `^$`},
		{[]string{"/component-err.wasm"}, 1, ``},
		{[]string{"/component-exit-ok.wasm"}, 0, `^$`},
		{[]string{"/component-exit-err.wasm"}, 1, `^$`},
	} {
		t.Run(fmt.Sprintf("%s %d", test.args[0], len(test.args)), func(t *testing.T) {
			result := tt.Once(harness.Config{Image: image, Args: test.args})
			require.Equal(t, test.code, result.Code, "%+v", result)
			require.Regexp(t, test.stderr, result.Stderr)
		})
	}
}

// Signals end a guest at once, whatever it does.
func TestPoint7Signals(t *testing.T) {
	for _, guest := range []string{"/sleep.wasm", "/spin.wasm", "/component-spin.wasm"} {
		for _, signal := range []syscall.Signal{
			syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGKILL, 37,
		} {
			t.Run(fmt.Sprintf("%s %d", guest, signal), func(t *testing.T) {
				tt := harness.New(t, smoke.Ours)
				c := tt.Run(harness.Config{Image: smoke.Image(tt), Args: []string{guest}})
				require.NoError(t, c.Stdout.WaitFor("ready", 10*time.Second))
				began := time.Now()
				require.NoError(t, c.Task.Kill(tt.Ctx, signal))
				require.NoError(t, c.Wait(tt.Ctx))
				require.Less(t, time.Since(began), 5*time.Second, "no grace period is waited for")
				result, err := tt.Finish(c)
				require.NoError(t, err)
				require.EqualValues(t, 128+int(signal), result.Code, "%+v", result)
			})
		}
	}
}

// A signal that comes before the guest runs is not lost, as a first process
// loses what it has no handler for.
func TestPoint7SignalRightAfterStart(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	root := rootfs(tt)
	for range 30 {
		h := tt.ByHand(harness.HandConfig{RootFS: root, Args: []string{"/spin.wasm"}})
		_, err := h.Create(tt.Ctx)
		require.NoError(t, err)
		start(tt, h)
		_, err = h.Kill(tt.Ctx, &task.KillRequest{ID: h.ID, Signal: uint32(syscall.SIGTERM)})
		require.NoError(t, err)
		require.EqualValues(t, 143, wait(tt, h))
		_, err = h.Delete(tt.Ctx, &task.DeleteRequest{ID: h.ID})
		require.NoError(t, err)
	}
}

// rootfs is a directory with every guest.
func rootfs(t *harness.T) string {
	root, err := t.RootFS(smoke.Files(t))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(root)) })
	return root
}

func start(t *harness.T, h *harness.ByHand) {
	t.Helper()
	_, err := h.Start(t.Ctx, &task.StartRequest{ID: h.ID})
	require.NoError(t, err)
}

func wait(t *harness.T, h *harness.ByHand) uint32 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Ctx, 20*time.Second)
	defer cancel()
	r, err := h.Wait(ctx, &task.WaitRequest{ID: h.ID})
	require.NoError(t, err)
	return r.ExitStatus
}

// once takes a container made by hand through its life.
func once(t *harness.T, h *harness.ByHand) uint32 {
	t.Helper()
	_, err := h.Create(t.Ctx)
	require.NoError(t, err)
	start(t, h)
	code := wait(t, h)
	_, err = h.Delete(t.Ctx, &task.DeleteRequest{ID: h.ID})
	require.NoError(t, err)
	return code
}
