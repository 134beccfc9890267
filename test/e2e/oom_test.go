// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	apievents "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// rounds is how often something is done whose result is a matter of luck where it is
// wrong: WASMSHIM_ROUNDS, or the usual number.
func rounds(usual int) int {
	if n, err := strconv.Atoi(os.Getenv("WASMSHIM_ROUNDS")); err == nil {
		return n
	}
	return usual
}

// littleMemory limits a container's memory to 24 MiB, and denies it swap.
var littleMemory = harness.WithSpec(func(s *oci.Spec) {
	size := int64(24 << 20)
	s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &size, Swap: &size}
})

// hog takes all the memory that there is, and more.
var hog = []string{"/bin/busybox", "tail", "/dev/zero"}

// An OOM kill is told once, of the right container, before the exit of who was killed,
// and is counted until the delete; a kill by hand is none.
func TestOOM(t *testing.T) {
	nested := "cd /sys/fs/cgroup/memory && mkdir inner && echo $LIMIT > inner/memory.limit_in_bytes && echo 0 > inner/cgroup.procs && exec busybox tail /dev/zero"
	writable := harness.WithSpec(func(s *oci.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"rw"}})
	})
	for name, test := range map[string]struct {
		args  []string
		exec  []string // that is killed, in a container that sleeps
		opts  []oci.SpecOpts
		kills bool
	}{
		"at once":         {args: hog, kills: true},
		"guest":           {args: []string{"/allocate.wasm"}, kills: true},
		"a child":         {args: []string{"/bin/sh", "-c", "busybox tail /dev/zero; exit 3"}, kills: true},
		"nested":          {args: []string{"/bin/sh", "-c", nested}, opts: []oci.SpecOpts{writable, oci.WithEnv([]string{"LIMIT=-1"})}, kills: true},
		"nested, smaller": {args: []string{"/bin/sh", "-c", nested}, opts: []oci.SpecOpts{writable, oci.WithEnv([]string{"LIMIT=8M"})}, kills: true},
		"exec":            {args: []string{"/native", "sleep"}, exec: hog, kills: true},
		"exec in guest":   {args: []string{"/sleep.wasm"}, exec: hog, kills: true},
		"kill by hand":    {args: []string{"/sleep.wasm"}},
		"kill of an exec": {args: []string{"/native", "sleep"}, exec: []string{"/bin/sleep", "1000"}},
	} {
		t.Run(name, func(t *testing.T) {
			tt := harness.New(t, smoke.Ours)
			events := tt.Subscribe(tt.Ctx)
			defer events.Close()
			image := smoke.Image(tt)
			pod := harness.FreshID("pod")
			sandbox := tt.Run(harness.Config{ID: pod, Pod: pod, Image: image, Args: []string{"/native", "sleep"}})
			for range rounds(3) {
				c := tt.Run(harness.Config{Pod: pod, Image: image, Args: test.args, Opts: append(test.opts, littleMemory)})
				want := []string{"create", "start"}
				if test.exec != nil {
					e := tt.Exec(c, harness.ExecConfig{Args: test.exec})
					if !test.kills {
						require.NoError(t, e.Kill(tt.Ctx, syscall.SIGKILL))
					}
					result, err := e.Finish(tt.Ctx)
					require.NoError(t, err)
					require.EqualValues(t, 137, result.Code)
					want = append(want, "exec-added", "exec-started")
					if test.kills {
						want = append(want, "oom")
					}
					want = append(want, "exit")
				} else if test.kills {
					want = append(want, "oom")
				}
				if test.exec != nil || !test.kills {
					require.NoError(t, c.Task.Kill(tt.Ctx, syscall.SIGKILL))
				}
				require.NoError(t, c.Wait(tt.Ctx))
				require.Equal(t, test.kills, metrics(tt, c).MemoryOomControl.OomKill == 1, "also in a cgroup below")
				result, err := tt.Finish(c)
				require.NoError(t, err)
				code := uint32(137)
				if name == "a child" {
					code = 3
				}
				require.Equal(t, code, result.Code, "%+v", result)
				want = append(want, "exit", "delete")
				require.Equal(t, want, events.Topics(c.ID(), want...))
			}
			require.NoError(t, sandbox.Task.Kill(tt.Ctx, syscall.SIGKILL))
			_, err := tt.Finish(sandbox)
			require.NoError(t, err)
			require.Equal(t, []string{"create", "start", "exit", "delete"}, events.Topics(pod, "create", "start", "exit", "delete"))
		})
	}
}

// While a container lives on, the kill of a process that nobody knows is told as well.
func TestOOMOfGrandchild(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	events := tt.Subscribe(tt.Ctx)
	defer events.Close()
	c := tt.Run(harness.Config{Image: smoke.Image(tt), Args: []string{"/bin/sh", "-c", "busybox tail /dev/zero & wait; echo ready; sleep 1000"}, Opts: []oci.SpecOpts{littleMemory}})
	require.NoError(t, c.Stdout.WaitFor("ready", 20*time.Second))
	require.Equal(t, []string{"create", "start", "oom"}, events.Topics(c.ID(), "create", "start", "oom"))
	oom := events.Of(c.ID())[2].Body.(*apievents.TaskOOM)
	require.Equal(t, c.ID(), oom.ContainerID)
	tt.RequireStatus(c.Task, "running")
}

// The compiler's own want of memory is none of the container's.
func TestOOMOfTheCompiler(t *testing.T) {
	tt := newImageTest(t)
	events := tt.Subscribe(tt.Ctx)
	defer events.Close()
	for kind, imageOf := range tt.bothKinds() {
		module := fresh(t)
		c := harness.Config{ID: harness.FreshID("c"), Image: imageOf(module), RuntimeOptions: body("compile_memory = '64MiB'\n[engine]\ncompile = 'memory'")}
		require.Contains(t, tt.out(c), fmt.Sprintf(" %d original\n", len(module)), kind)
		want := []string{"create", "start", "exit", "delete"}
		require.Equal(t, want, events.Topics(c.ID, want...))
	}
}
