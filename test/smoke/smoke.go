// SPDX-License-Identifier: Apache-2.0

// Package smoke holds the tests that every shim must pass on every containerd:
// ours, and runc's, which shows that the tests themselves are right.
package smoke

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	apievents "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/guests"
	"github.com/libwasmshim/libwasmshim/test/harness"
)

// The runtimes under test.
const (
	Ours = "io.containerd.wasmtime.v1"
	Runc = harness.Runc
	// Go is the example of an engine in Go, which runs no components.
	Go = "io.containerd.go-engine.v1"
)

// Files is a root file system with every guest at /NAME, and busybox.
func Files(t testing.TB) map[string]harness.File {
	dir, err := guests.Dir()
	require.NoError(t, err)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	files := map[string]harness.File{
		"tmp/": {Mode: 0o1777}, "proc/": {}, "dev/": {}, "sys/": {}, "work/": {},
		"etc/passwd": {Data: []byte("root:x:0:0::/:/bin/sh\nuser:x:1000:1000::/work:/bin/sh\n"), Mode: 0o644},
		"etc/group":  {Data: []byte("root:x:0:\nuser:x:1000:\n"), Mode: 0o644},
		"etc/data":   {Data: []byte("just text\n"), Mode: 0o644},
		"etc/secret": {Data: []byte("for root\n"), Mode: 0o600},
	}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		require.NoError(t, err)
		files[e.Name()] = harness.File{Data: data}
	}
	cache, err := harness.CacheDir()
	require.NoError(t, err)
	busybox, err := os.ReadFile(filepath.Join(cache, "busybox-static/bin/busybox"))
	require.NoError(t, err)
	files["bin/busybox"] = harness.File{Data: busybox}
	for _, name := range []string{"sh", "sleep", "cat", "true", "id", "ls", "kill", "echo", "env", "pwd", "trap"} {
		files["bin/"+name] = harness.File{Link: "busybox"}
	}
	return files
}

// Image is an image of Files. It is imported once for a daemon, as long as it is there.
func Image(t *harness.T) client.Image {
	if last, err := t.Client.GetImage(t.Ctx, harness.ImageName("guests")); err == nil && last.Target().Digest == imported[t.Daemon] {
		return last
	}
	image := t.Image("guests", Files(t), ocispec.ImageConfig{Env: []string{"PATH=/bin"}, Cmd: []string{"/hello.wasm"}})
	imported[t.Daemon] = image.Target().Digest
	return image
}

// imported is what Image has imported.
var imported = map[*harness.Daemon]digest.Digest{}

// Run is the suite on one runtime.
func Run(t *testing.T, runtime string) {
	hellos := map[string][]string{"native": {"/native"}, "script": {"/script.sh", "a"}}
	cats := map[string][]string{"native": {"/bin/cat"}}
	sleepers := map[string][]string{"native": {"/bin/sh", "-c", "trap 'exit 143' TERM; echo ready; while :; do sleep 0.01; done"}}
	if runtime != Runc {
		hellos["module"] = []string{"/hello.wasm"}
		hellos["text"] = []string{"/hello.wat"}
		hellos["Go"] = []string{"/go.wasm"}
		cats["module"] = []string{"/cat.wasm"}
		sleepers["sleeping module"] = []string{"/sleep.wasm"}
		sleepers["looping module"] = []string{"/spin.wasm"}
	}
	if runtime == Ours {
		hellos["component"] = []string{"/component-hello.wasm"}
		cats["component"] = []string{"/component-cat.wasm"}
		sleepers["looping component"] = []string{"/component-spin.wasm"}
	}
	for name, args := range hellos {
		t.Run("hello/"+name, func(t *testing.T) { hello(harness.New(t, runtime), args) })
	}
	for name, args := range cats {
		t.Run("stdin/"+name, func(t *testing.T) { stdin(harness.New(t, runtime), args) })
	}
	for name, args := range sleepers {
		t.Run("SIGTERM/"+name, func(t *testing.T) { signals(harness.New(t, runtime), args, syscall.SIGTERM, 143) })
		t.Run("SIGKILL/"+name, func(t *testing.T) { signals(harness.New(t, runtime), args, syscall.SIGKILL, 137) })
	}
	for name, args := range cats {
		t.Run("exec/"+name, func(t *testing.T) { exec(harness.New(t, runtime), sleepers, args) })
	}
	t.Run("resources", func(t *testing.T) { resources(harness.New(t, runtime), sleepers) })
	t.Run("terminal", func(t *testing.T) { terminal(harness.New(t, runtime)) })
	t.Run("exit code", func(t *testing.T) {
		tt := harness.New(t, runtime)
		result := tt.Once(harness.Config{Image: Image(tt), Args: []string{"/script.sh"}, Env: []string{"CODE=42"}})
		require.EqualValues(t, 42, result.Code, "%+v", result)
	})
	t.Run("pod", func(t *testing.T) { pod(harness.New(t, runtime), hellos) })
}

// hello runs a guest to its end and looks at states, output, events and what
// is left.
func hello(t *harness.T, args []string) {
	events := t.Subscribe(t.Ctx)
	defer events.Close()
	c := t.Create(harness.Config{Image: Image(t), Args: args})
	pid := c.Task.Pid()
	require.NotZero(t, pid)
	t.RequireStatus(c.Task, client.Created)
	require.NoError(t, c.Task.Start(t.Ctx))
	require.Equal(t, pid, c.Task.Pid(), "start answers with the pid of create")
	require.NoError(t, c.Wait(t.Ctx))
	t.RequireStatus(c.Task, client.Stopped)
	result, err := t.Finish(c)
	require.NoError(t, err)
	require.Zero(t, result.Code, "%+v", result)
	require.Contains(t, result.Stdout, "hello")
	require.Empty(t, result.Stderr)
	require.WithinDuration(t, time.Now(), result.At, harness.Slow(time.Minute))

	want := []string{"create", "start", "exit", "delete"}
	topics := events.Topics(c.ID(), want...)
	if t.Runtime == Runc {
		// Its shim now and then ends before it has sent the last event, and now
		// and then sends the last two in the wrong order.
		require.Subset(t, want, topics)
		return
	}
	require.Equal(t, want, topics)
	all := events.Of(c.ID())
	require.EqualValues(t, pid, all[0].Body.(*apievents.TaskCreate).Pid)
	require.Equal(t, t.Bundle(c.ID()), all[0].Body.(*apievents.TaskCreate).Bundle)
	require.EqualValues(t, pid, all[1].Body.(*apievents.TaskStart).Pid)
	exit := all[2].Body.(*apievents.TaskExit)
	require.EqualValues(t, pid, exit.Pid)
	require.Equal(t, c.ID(), exit.ID)
	require.Zero(t, exit.ExitStatus)
	require.True(t, exit.ExitedAt.AsTime().Equal(result.At), "%v, %v", exit.ExitedAt.AsTime(), result.At)
	require.EqualValues(t, pid, all[3].Body.(*apievents.TaskDelete).Pid)
	t.RequireNothingLeft()
}

// exec: a further process of either kind in a container of either kind, with its input,
// its exit code and its events.
func exec(t *harness.T, sleepers map[string][]string, cat []string) {
	for name, args := range sleepers {
		events := t.Subscribe(t.Ctx)
		c := t.Run(harness.Config{Image: Image(t), Args: args})
		require.NoError(t, c.Stdout.WaitFor("ready", 10*time.Second), name)
		result := t.ExecOnce(c, harness.ExecConfig{Args: cat, Stdin: strings.NewReader("one\ntwo\n")})
		require.Zero(t, result.Code, "%s: %+v", name, result)
		require.Contains(t, result.Stdout, "one\ntwo\n", name)
		failed := t.ExecOnce(c, harness.ExecConfig{Args: []string{"/bin/sh", "-c", "echo no >&2; exit 3"}})
		require.EqualValues(t, 3, failed.Code)
		require.Equal(t, "no\n", failed.Stderr)
		long := t.Exec(c, harness.ExecConfig{Args: []string{"/bin/sleep", "1000"}})
		require.NoError(t, long.Kill(t.Ctx, syscall.SIGKILL))
		killed, err := long.Finish(t.Ctx)
		require.NoError(t, err)
		require.EqualValues(t, 137, killed.Code)
		last := t.Exec(c, harness.ExecConfig{Args: []string{"/bin/sleep", "1000"}})
		require.NoError(t, c.Task.Kill(t.Ctx, syscall.SIGKILL))
		require.NoError(t, c.Wait(t.Ctx))
		_, err = last.Finish(t.Ctx)
		require.NoError(t, err)
		_, err = t.Finish(c)
		require.NoError(t, err)
		want := []string{"create", "start"}
		for range 3 {
			want = append(want, "exec-added", "exec-started", "exit")
		}
		want = append(want, "exec-added", "exec-started", "exit", "exit", "delete")
		if t.Runtime != Runc { // its shim now and then loses the last one, see hello
			require.Equal(t, want, events.Topics(c.ID(), want...), name)
		}
		events.Close()
	}
	t.RequireNothingLeft()
}

// resources: what containerd asks of a whole container: pause, resume, update,
// statistics, and what it is told of a want of memory.
func resources(t *harness.T, sleepers map[string][]string) {
	for name, args := range sleepers {
		for tries := 1; !limited(t, name, args); tries++ {
			require.Less(t, tries, 5, "%s: the kernel takes its init, too", name)
		}
	}
	t.RequireNothingLeft()
}

// limited says whether the kernel has killed only what has eaten the memory of a container
// of this kind. On a machine that is busy it may take the init as well, though it is
// smaller, and takes less time to die.
func limited(t *harness.T, name string, args []string) bool {
	events := t.Subscribe(t.Ctx)
	defer events.Close()
	c := t.Run(harness.Config{Image: Image(t), Args: args})
	require.NoError(t, c.Stdout.WaitFor("ready", 10*time.Second), name)
	require.NoError(t, c.Task.Pause(t.Ctx), name)
	t.RequireStatus(c.Task, client.Paused)
	require.NoError(t, c.Task.Resume(t.Ctx), name)
	t.RequireStatus(c.Task, client.Running)
	limit := int64(32 << 20)
	require.NoError(t, c.Task.Update(t.Ctx, client.WithResources(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &limit}})))
	metric, err := c.Task.Metrics(t.Ctx)
	require.NoError(t, err, name)
	require.NotEmpty(t, metric.Data.GetValue(), name)
	eat := "echo 1000 >/proc/self/oom_score_adj; exec /bin/busybox tail /dev/zero"
	killed := t.ExecOnce(c, harness.ExecConfig{Args: []string{"/bin/sh", "-c", eat}})
	require.EqualValues(t, 137, killed.Code, name)
	err = c.Task.Kill(t.Ctx, syscall.SIGKILL)
	alone := !errdefs.IsNotFound(err)
	if alone {
		require.NoError(t, err)
	}
	_, err = t.Finish(c)
	require.NoError(t, err)
	want := []string{"create", "start", "paused", "resumed", "exec-added", "exec-started", "oom", "exit", "exit", "delete"}
	if alone && t.Runtime != Runc { // its shim tells of a kill when it hears of it, and now and then loses the last event
		require.Equal(t, want, events.Topics(c.ID(), want...), name)
	}
	return alone
}

// terminal: a process has one, of the size that the client says.
func terminal(t *harness.T) {
	in, typed := io.Pipe()
	c := t.Create(harness.Config{Image: Image(t), Args: []string{"/bin/sh"}, Stdin: in, Terminal: true})
	require.NoError(t, c.Task.Resize(t.Ctx, 99, 31))
	require.NoError(t, c.Task.Start(t.Ctx))
	_, err := io.WriteString(typed, "busybox stty size; tes''t -t 2 && echo terminal\n")
	require.NoError(t, err)
	require.NoError(t, c.Stdout.WaitFor("31 99\r\n", 10*time.Second))
	require.NoError(t, c.Stdout.WaitFor("terminal\r\n", 10*time.Second))
	e := t.AddExec(c, harness.ExecConfig{Args: []string{"/bin/busybox", "stty", "size"}, Terminal: true})
	if t.Runtime != Runc { // its shim forgets a size that comes before the terminal
		require.NoError(t, e.Resize(t.Ctx, 98, 30))
	}
	require.NoError(t, e.Start(t.Ctx))
	result, err := e.Finish(t.Ctx)
	require.NoError(t, err)
	if t.Runtime != Runc {
		require.Equal(t, "30 98\r\n", result.Stdout)
	}
	_, err = io.WriteString(typed, "exit 7\n")
	require.NoError(t, err)
	ended, err := t.Finish(c)
	require.NoError(t, err)
	require.EqualValues(t, 7, ended.Code)
	t.RequireNothingLeft()
}

// stdin: what the client writes arrives, and its end too.
func stdin(t *harness.T, cat []string) {
	in, write := io.Pipe()
	c := t.Run(harness.Config{Image: Image(t), Args: cat, Stdin: in})
	for _, line := range []string{"one\n", "two\n"} {
		_, err := io.WriteString(write, line)
		require.NoError(t, err)
		require.NoError(t, c.Stdout.WaitFor(line, 10*time.Second))
	}
	t.RequireStatus(c.Task, client.Running)
	require.NoError(t, write.Close())
	result, err := t.Finish(c)
	require.NoError(t, err)
	require.Zero(t, result.Code)
	require.Contains(t, result.Stdout, "one\ntwo\n")
}

// signals: what ends a guest is in its exit code, at once.
func signals(t *harness.T, sleeper []string, signal syscall.Signal, code uint32) {
	c := t.Run(harness.Config{Image: Image(t), Args: sleeper})
	require.NoError(t, c.Stdout.WaitFor("ready", 10*time.Second))
	began := time.Now()
	require.NoError(t, c.Task.Kill(t.Ctx, signal))
	require.NoError(t, c.Wait(t.Ctx))
	require.Less(t, time.Since(began), harness.Slow(2*time.Second), "without a grace period")
	result, err := t.Finish(c)
	require.NoError(t, err)
	require.Equal(t, code, result.Code, "%+v", result)
}

// pod: containers of a pod share one shim, which ends with the last of them.
func pod(t *harness.T, guests map[string][]string) {
	image := Image(t)
	id := harness.FreshID("pod")
	sandbox := t.Run(harness.Config{ID: id, Pod: id, Image: image, Args: []string{"/native", "sleep"}})
	require.NoError(t, sandbox.Stdout.WaitFor("ready", 10*time.Second))
	if !harness.NodeDaemon {
		require.Len(t, t.Shims(), 1)
	}
	shims := t.Daemon.Shims()
	for name, args := range guests {
		result := t.Once(harness.Config{Pod: id, Image: image, Args: args})
		require.Zero(t, result.Code, "%s: %+v", name, result)
		require.Contains(t, result.Stdout, "hello", name)
		require.Equal(t, shims, t.Daemon.Shims(), "one shim for the pod")
	}
	t.RequireStatus(sandbox.Task, client.Running)
	require.NoError(t, t.Remove(t.Ctx, sandbox))
	t.RequireNothingLeft()
}
