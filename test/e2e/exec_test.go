// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	apievents "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// sleepers are containers of either kind.
var sleepers = map[string][]string{"native": {"/native", "sleep"}, "guest": {"/sleep.wasm"}}

// eachSleeper runs a test in a container of either kind.
func eachSleeper(t *testing.T, test func(t *harness.T, c *harness.Container), opts ...oci.SpecOpts) {
	for name, args := range sleepers {
		t.Run(name, func(t *testing.T) {
			tt := harness.New(t, smoke.Ours)
			test(tt, sleeping(tt, args, opts...))
		})
	}
}

func sleeping(t *harness.T, args []string, opts ...oci.SpecOpts) *harness.Container {
	t.Helper()
	c := t.Run(harness.Config{Image: smoke.Image(t), Args: args, Opts: opts})
	require.NoError(t, c.Stdout.WaitFor("ready", 10*time.Second))
	return c
}

// In a container of either kind both kinds of process run.
func TestExecKinds(t *testing.T) {
	eachSleeper(t, func(t *harness.T, c *harness.Container) {
		for _, args := range [][]string{{"/native"}, {"echo", "hello"}, {"/hello.wasm"}, {"hello.wat"}, {"/component-hello.wasm"}, {"/go.wasm"}, {"/hello.wasm#_start"}} {
			result := t.ExecOnce(c, harness.ExecConfig{Args: args})
			require.Zero(t, result.Code, "%s %+v", args, result)
			require.Contains(t, result.Stdout, "hello", "%s %+v", args, result)
		}
		result := t.ExecOnce(c, harness.ExecConfig{Args: []string{"/args.wasm", "one", "two"}, Change: func(p *specs.Process) { p.Env = []string{"A=1"} }})
		require.Contains(t, result.Stdout, "/args.wasm\none\ntwo\n", "%+v", result)
		require.Contains(t, result.Stdout, "A=1\n", "%+v", result)
		for _, args := range [][]string{{"/bin/sh", "-c", "exit 2"}, {"/exit.wasm", "a", "b"}} {
			require.EqualValues(t, 2, t.ExecOnce(c, harness.ExecConfig{Args: args}).Code, "%s", args)
		}
		trap := t.ExecOnce(c, harness.ExecConfig{Args: []string{"/trap.wasm"}})
		require.EqualValues(t, 134, trap.Code)
		require.Contains(t, trap.Stderr, "unreachable")
		t.RequireStatus(c.Task, client.Running)
	})
}

// Where the container's code is the layers of its image, its own name runs them again,
// and any other name is a file that is not there.
func TestExecLayers(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	module := smoke.Fresh(t, "args.wasm")
	image := tt.LayerImage(module)
	c := tt.Create(harness.Config{Image: image, Args: []string{"/app.wasm", "init"}, Opts: []oci.SpecOpts{oci.WithEnv([]string{"A=1"})}})
	for range 2 {
		result := tt.ExecOnce(c, harness.ExecConfig{Args: []string{"/app.wasm", "again"}})
		require.Zero(t, result.Code, "%+v", result)
		require.Contains(t, result.Stdout, "/app.wasm\nagain\n")
	}
	require.Equal(t, 1, smoke.Compilations(tt, module), "the container's artifact is used")
	e := tt.AddExec(c, harness.ExecConfig{Args: []string{"/bin/sh"}})
	err := e.Start(tt.Ctx)
	require.True(t, errdefs.IsNotFound(err), "%v", err)
	require.ErrorContains(t, err, "/bin does not exist in the container")
}

// A file of the image has its artifact, whoever runs it; one that the container has
// made, or that lies in a mount, is compiled when it is run, and belongs to no image.
func TestExecArtifact(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	module, other := smoke.Fresh(t, "go.wasm"), smoke.Fresh(t, "go.wasm")
	files := smoke.Files(t)
	files["app.wasm"], files["other.wasm"] = harness.File{Data: module}, harness.File{Data: other}
	image := tt.Image(harness.FreshID("exec"), files, ocispec.ImageConfig{Env: []string{"PATH=/bin"}})
	c := tt.Run(harness.Config{Image: image, Args: []string{"/native", "sleep"}, Opts: []oci.SpecOpts{oci.WithMounts([]specs.Mount{tmpfs("/mounted")})}})
	for range 2 {
		require.Equal(t, "hello from WebAssembly\n", firstLine(tt.ExecOnce(c, harness.ExecConfig{Args: []string{"/app.wasm"}}).Stdout))
	}
	require.Equal(t, 1, smoke.Compilations(tt, module))
	require.Len(t, smoke.Artifacts(tt, module), 1)

	copies := tt.ExecOnce(c, harness.ExecConfig{Args: []string{"/bin/sh", "-c", "cat /other.wasm > /mounted/x.wasm; cat /other.wasm > /work/x.wasm; cat /hello.wasm > /app.wasm"}})
	require.Zero(t, copies.Code, "%+v", copies)
	require.Equal(t, "hello from WebAssembly\n", firstLine(tt.ExecOnce(c, harness.ExecConfig{Args: []string{"/mounted/x.wasm"}}).Stdout))
	require.Empty(t, smoke.Artifacts(tt, other), "what lies in a mount belongs to no image")
	require.Equal(t, "hello\n", tt.ExecOnce(c, harness.ExecConfig{Args: []string{"/app.wasm"}}).Stdout, "what the container has written there")
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line + "\n"
}

// User, directory, environment and limits of an exec are as with runc.
func TestExecLikeRunc(t *testing.T) {
	script := "id; pwd; env | sort; ulimit -n; ulimit -u; grep -E '^(Cap|NoNewPrivs|Groups|Seccomp:)' /proc/self/status; ls -l /proc/self/fd | wc -l; cat /proc/self/oom_score_adj; cat /proc/self/attr/current 2>/dev/null"
	changes := map[string]func(*specs.Process){
		"as it is":     func(*specs.Process) {},
		"user":         func(p *specs.Process) { p.User = specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{7, 8}} },
		"unknown user": func(p *specs.Process) { p.User = specs.User{UID: 4711, GID: 4712} },
		"cwd":          func(p *specs.Process) { p.Cwd = "/work" },
		"environment":  func(p *specs.Process) { p.Env = []string{"PATH=/bin", "A=1", "A=2", "HOME="} },
		"capabilities": func(p *specs.Process) {
			one := []string{"CAP_NET_RAW"}
			p.Capabilities = &specs.LinuxCapabilities{Bounding: one, Effective: one, Permitted: one}
		},
		"privileges":      func(p *specs.Process) { p.NoNewPrivileges = false },
		"no privileges":   func(p *specs.Process) { p.NoNewPrivileges = true },
		"limits":          func(p *specs.Process) { p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 77, Soft: 66}} },
		"oom score":       func(p *specs.Process) { score := 500; p.OOMScoreAdj = &score },
		"missing":         func(p *specs.Process) { p.Args = []string{"/bin/nope"} },
		"missing in PATH": func(p *specs.Process) { p.Args = []string{"nope"} },
		"a directory":     func(p *specs.Process) { p.Args = []string{"/bin"} },
		"no permission":   func(p *specs.Process) { p.Args = []string{"/etc/passwd"} },
		"no cwd":          func(p *specs.Process) { p.Cwd = "/nope" },
		"no such limit":   func(p *specs.Process) { p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOPE"}} },
	}
	say := func(t *testing.T, runtime string) map[string]string {
		tt := harness.New(t, runtime)
		c := sleeping(tt, sleepers["native"], oci.WithRootFSReadonly(), oci.WithAddedCapabilities([]string{"CAP_SYS_NICE"}))
		said := map[string]string{}
		for name, change := range changes {
			e, err := tt.Daemon.AddExec(tt.Ctx, c, harness.ExecConfig{Args: []string{"/bin/sh", "-c", script}, Change: change})
			if err == nil {
				err = e.Start(tt.Ctx)
			}
			if err != nil {
				said[name] = "fails"
				t.Logf("%s: %s: %v", runtime, name, err)
				if e != nil {
					_, err := e.Delete(tt.Ctx)
					require.NoError(t, err, name)
				}
				continue
			}
			result, err := e.Finish(tt.Ctx)
			require.NoError(t, err, name)
			said[name] = fmt.Sprintf("%d %s%s", result.Code, result.Stdout, result.Stderr)
		}
		pids, err := c.Task.Pids(tt.Ctx)
		require.NoError(t, err)
		require.Len(t, pids, 1, "what failed has left nothing")
		return said
	}
	theirs, ours := say(t, smoke.Runc), say(t, smoke.Ours)
	for name := range changes {
		require.Equal(t, theirs[name], ours[name], name)
	}
}

// Every process is told of once, in order, and the init's exit last.
func TestExecEvents(t *testing.T) {
	shared := harness.WithSpec(func(s *oci.Spec) {
		s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.PIDNamespace })
	})
	for name, opts := range map[string][]oci.SpecOpts{"own pid namespace": nil, "the host's": {shared}} {
		t.Run(name, func(t *testing.T) {
			eachSleeper(t, func(t *harness.T, c *harness.Container) {
				events := t.Subscribe(t.Ctx)
				defer events.Close()
				result := t.ExecOnce(c, harness.ExecConfig{ID: "first", Args: []string{"/bin/sh", "-c", "exit 3"}})
				require.EqualValues(t, 3, result.Code)
				var execs []*harness.Exec
				for i := range 5 {
					execs = append(execs, t.Exec(c, harness.ExecConfig{ID: fmt.Sprint("s", i), Args: []string{"/bin/sleep", "1000"}}))
					execs = append(execs, t.Exec(c, harness.ExecConfig{ID: fmt.Sprint("g", i), Args: []string{"/sleep.wasm"}}))
				}
				pids, err := c.Task.Pids(t.Ctx)
				require.NoError(t, err)
				require.Len(t, pids, 11)
				named := map[string]uint32{}
				for _, p := range pids {
					if p.Info != nil {
						info, err := typeurl.UnmarshalAny(p.Info)
						require.NoError(t, err)
						named[info.(*options.ProcessDetails).ExecID] = p.Pid
					}
				}
				require.Len(t, named, 10, "%v", pids)
				require.NoError(t, c.Task.Kill(t.Ctx, syscall.SIGKILL))
				require.NoError(t, c.Wait(t.Ctx))
				_, err = t.Daemon.AddExec(t.Ctx, c, harness.ExecConfig{Args: []string{"/native"}})
				require.True(t, errdefs.IsFailedPrecondition(err), "%v", err)
				require.ErrorContains(t, err, "has ended")
				_, err = t.Finish(c)
				require.NoError(t, err)

				want := []string{"exec-added", "exec-started", "exit"}
				for range 10 {
					want = append(want, "exec-added", "exec-started")
				}
				for range 11 {
					want = append(want, "exit")
				}
				want = append(want, "delete")
				for _, e := range execs {
					e.IO().Close()
				}
				require.Equal(t, want, events.Topics(c.ID(), want...))
				all := events.Of(c.ID())
				first := all[2].Body.(*apievents.TaskExit)
				require.Equal(t, "first", first.ID)
				require.EqualValues(t, 3, first.ExitStatus)
				for _, e := range all[23:33] {
					exit := e.Body.(*apievents.TaskExit)
					require.EqualValues(t, 137, exit.ExitStatus)
					require.Equal(t, named[exit.ID], exit.Pid, "%v", exit)
				}
				require.Equal(t, c.ID(), all[33].Body.(*apievents.TaskExit).ID, "the container's comes last")
				t.RequireNothingLeft()
			}, opts...)
		})
	}
}

// What an exec may be asked, and when.
func TestExecStates(t *testing.T) {
	eachSleeper(t, func(t *harness.T, c *harness.Container) {
		e := t.AddExec(c, harness.ExecConfig{ID: "one", Args: []string{"/sleep.wasm"}})
		status := func(want client.ProcessStatus) {
			t.Helper()
			got, err := e.Status(t.Ctx)
			require.NoError(t, err)
			require.Equal(t, want, got.Status)
		}
		status(client.Created)
		_, err := t.Daemon.AddExec(t.Ctx, c, harness.ExecConfig{ID: "one", Args: []string{"/native"}})
		require.True(t, errdefs.IsAlreadyExists(err), "%v", err)
		err = e.Kill(t.Ctx, syscall.SIGTERM)
		require.True(t, errdefs.IsFailedPrecondition(err), "%v", err)
		require.NoError(t, e.Start(t.Ctx))
		require.NoError(t, e.Stdout.WaitFor("ready", 10*time.Second))
		status(client.Running)
		require.NotZero(t, e.Pid())
		err = e.Start(t.Ctx)
		require.True(t, errdefs.IsFailedPrecondition(err), "%v", err)
		_, err = e.Delete(t.Ctx)
		require.True(t, errdefs.IsFailedPrecondition(err), "%v", err)
		require.NoError(t, e.Kill(t.Ctx, syscall.SIGTERM))
		result, err := e.Finish(t.Ctx)
		require.NoError(t, err)
		require.EqualValues(t, 143, result.Code)
		_, err = e.Delete(t.Ctx)
		require.True(t, errdefs.IsNotFound(err), "%v", err)

		never := t.AddExec(c, harness.ExecConfig{Args: []string{"/native"}})
		_, err = never.Delete(t.Ctx)
		require.NoError(t, err, "what was never started can be deleted")
		for _, p := range []*specs.Process{{Cwd: "/"}, {Cwd: "x", Args: []string{"a"}}, {Args: []string{"a"}}, {Cwd: "/", Args: []string{"a\x00b"}}, {Cwd: "/", Args: []string{"a"}, Env: []string{"nothing"}}} {
			_, err = c.Task.Exec(t.Ctx, harness.FreshID("e"), p, nullIO)
			require.True(t, errdefs.IsInvalidArgument(err), "%+v: %v", p, err)
		}
		t.RequireStatus(c.Task, client.Running)
	})
}

// Input arrives whole, and its end as well, also where the client was faster than the
// start.
func TestExecInput(t *testing.T) {
	eachSleeper(t, func(t *harness.T, c *harness.Container) {
		for _, cat := range [][]string{{"/bin/cat"}, {"/cat.wasm"}, {"/component-cat.wasm"}} {
			e := t.AddExec(c, harness.ExecConfig{Args: cat, Stdin: strings.NewReader("hi\n")})
			require.NoError(t, e.CloseIO(t.Ctx, client.WithStdinCloser))
			require.NoError(t, e.Start(t.Ctx))
			result, err := e.Finish(t.Ctx)
			require.NoError(t, err)
			require.Contains(t, result.Stdout, "hi\n", "%s %+v", cat, result)
		}
		const size = 500 << 20
		result := t.ExecOnce(c, harness.ExecConfig{Args: []string{"/bin/sh", "-c", "wc -c"}, Stdin: io.LimitReader(zeros{}, size)})
		require.Equal(t, strconv.Itoa(size), strings.TrimSpace(result.Stdout), "%+v", result)
	})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// A child in the background that keeps the output open delays nothing, and neither
// does one that has left the container's cgroup.
func TestExecBackground(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	c := sleeping(tt, sleepers["native"])
	for _, terminal := range []bool{false, true} {
		began := time.Now()
		e := tt.Exec(c, harness.ExecConfig{Args: []string{"/bin/sh", "-c", "trap '' HUP; sleep 1000 & echo started"}, Terminal: terminal})
		status, err := e.Wait(tt.Ctx)
		require.NoError(t, err)
		require.Zero(t, (<-status).ExitCode())
		require.Less(t, time.Since(began), 30*time.Second)
		require.NoError(t, e.Stdout.WaitFor("started", 10*time.Second))
		_, err = e.Delete(tt.Ctx)
		require.NoError(t, err)
	}
	out := tt.Exec(c, harness.ExecConfig{Args: []string{"/bin/sleep", "1000"}})
	elsewhere := "/sys/fs/cgroup/memory/cgroup.procs"
	require.NoError(t, os.WriteFile(elsewhere, []byte(strconv.Itoa(int(out.Pid()))), 0))
	require.NoError(t, c.Task.Kill(tt.Ctx, syscall.SIGKILL))
	require.NoError(t, c.Wait(tt.Ctx))
	status, err := out.Status(tt.Ctx)
	require.NoError(t, err)
	require.Equal(t, client.Stopped, status.Status)
	out.IO().Close()
}

// Many at once and one after the other: nothing is left of them, in the daemon or
// beside it.
func TestExecMany(t *testing.T) {
	eachSleeper(t, func(t *harness.T, c *harness.Container) {
		run := func(i int) {
			args := []string{"/bin/sh", "-c", "exit " + strconv.Itoa(i%100)}
			switch i % 3 {
			case 1:
				args = append([]string{"/exit.wasm"}, make([]string, 1+i%5)...)
			case 2:
				args = []string{"/bin/sleep", "1000"}
			}
			e := t.Exec(c, harness.ExecConfig{Args: args, NoIO: i%2 == 0})
			want := uint32(i % 100)
			switch i % 3 {
			case 1:
				want = uint32(1 + i%5)
			case 2:
				require.NoError(t, e.Kill(t.Ctx, syscall.SIGKILL))
				want = 137
			}
			result, err := e.Finish(t.Ctx)
			require.NoError(t, err)
			require.Equal(t, want, result.Code, "%s", args)
		}
		storm := func(n int) {
			var all sync.WaitGroup
			for i := range n {
				all.Go(func() { run(i) })
			}
			all.Wait()
		}
		const many = 40
		storm(many) // whatever grows once has grown
		before := settled(t)
		for i := range 100 {
			run(i)
		}
		storm(many)
		after := settled(t)
		require.Equal(t, before["children"], after["children"])
		require.LessOrEqual(t, after["fd"], before["fd"]+2)
		require.LessOrEqual(t, after["task"], before["task"]+many/2, "threads of a Go program end with it")
	})
}

// settled is the usage once the daemon has let go of what its garbage collector finds,
// which it does when it has had nothing to do for a moment: the least of some looks.
func settled(t *harness.T) map[string]int {
	t.Helper()
	least := usage(t)
	for range 4 {
		time.Sleep(600 * time.Millisecond)
		if now := usage(t); now["fd"] <= least["fd"] {
			least = now
		}
	}
	return least
}

// usage is what the test's only daemon has of descriptors, threads and children.
func usage(t *harness.T) map[string]int {
	t.Helper()
	shims := t.Shims()
	require.Len(t, shims, 1)
	dir := filepath.Join("/proc", strconv.Itoa(shims[0].Pid))
	used := map[string]int{}
	for _, what := range []string{"fd", "task"} {
		entries, err := os.ReadDir(filepath.Join(dir, what))
		require.NoError(t, err)
		used[what] = len(entries)
	}
	children, err := filepath.Glob(filepath.Join(dir, "task/*/children"))
	require.NoError(t, err)
	for _, file := range children {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		used["children"] += len(strings.Fields(string(text)))
	}
	return used
}

// silentFileSystem mounts a file system that answers nothing, at silent in a directory
// that is to be bound in. Whoever waits for it gets an error once its file is closed.
func silentFileSystem(t *testing.T) (specs.Mount, *os.File) {
	silent := filepath.Join(t.TempDir(), "silent")
	require.NoError(t, os.Mkdir(silent, 0o755))
	fuse, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.EPERM) {
		t.Skip("no FUSE on this machine, whose file systems can be silent")
	}
	require.NoError(t, err)
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", fuse.Fd())
	require.NoError(t, unix.Mount("silent", silent, "fuse", 0, options))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(silent, unix.MNT_DETACH)) })
	t.Cleanup(func() { fuse.Close() })
	return specs.Mount{Destination: "/volume", Type: "bind", Source: filepath.Dir(silent), Options: []string{"rbind"}}, fuse
}

// A container's file system that never answers holds up nobody but who looks into it,
// and those not for ever.
func TestExecSilentFileSystem(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	parent, fuse := silentFileSystem(t)
	c := sleeping(tt, sleepers["guest"], oci.WithMounts([]specs.Mount{parent}))

	var all sync.WaitGroup
	for _, args := range [][]string{{"/volume/silent/a.wasm"}, {"/volume/silent/a/b"}, {"/volume/silent/../silent/x"}} {
		e := tt.AddExec(c, harness.ExecConfig{Args: args})
		all.Go(func() {
			err := e.Start(tt.Ctx)
			require.True(t, errdefs.IsUnavailable(err), "%v", err)
			require.ErrorContains(t, err, "do not answer")
		})
	}
	for range 10 {
		require.Equal(t, "hello\n", tt.ExecOnce(c, harness.ExecConfig{Args: []string{"/hello.wasm"}}).Stdout)
		tt.RequireStatus(c.Task, client.Running)
	}
	all.Wait()
	require.NoError(t, fuse.Close())
	require.NoError(t, c.Task.Kill(tt.Ctx, syscall.SIGKILL))
	_, err := tt.Finish(c)
	require.NoError(t, err)
}
