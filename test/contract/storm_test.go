// SPDX-License-Identifier: Apache-2.0

package contract

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/libwasmshim/libwasmshim/test/harness"
)

var hostPids = oci.WithHostNamespace(specs.PIDNamespace)

var storms = []test{
	{"execs that end at once", none, func(c *contract) { c.endAtOnce() }},
	{"execs that end at once, host's pids", none, func(c *contract) { c.endAtOnce(hostPids) }},
	{"execs that end together", execs, func(c *contract) {
		c.sleeper()
		var streams []*harness.Streams
		for _, id := range ids(20) {
			streams = append(streams, c.exec(id, shell("read x; exit 3"), execConfig{stdin: true}))
		}
		for _, s := range streams {
			_, err := io.WriteString(s.Stdin, "\n")
			require.NoError(c, err)
		}
		for _, id := range ids(20) {
			c.exits(id, 3)
		}
		c.toldInOrder(20)
		c.end()
	}},
	{"init is killed with execs running", none, func(c *contract) { c.killedWithExecs(10) }},
	{"init is killed with execs running, host's pids", none, func(c *contract) { c.killedWithExecs(10, hostPids) }},
	{"init is killed with execs running, a pod's pids", none, func(c *contract) {
		c.sleeper()
		pod := c.ByHand
		path := fmt.Sprintf("/proc/%d/ns/pid", c.pid)
		c.createAs(harness.HandConfig{Args: c.init.sleep, Shim: pod, Opts: []oci.SpecOpts{
			oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.PIDNamespace, Path: path}),
		}})
		c.killed(5)
		c.ByHand = pod
		require.Len(c, c.pids(), 1)
		c.end()
	}},
	{"all are killed at once", none, func(c *contract) {
		for range 3 {
			c.sleeper(hostPids)
			for _, id := range ids(5) {
				c.printed(c.exec(id, c.execs.sleep, execConfig{}), "ready")
			}
			_, err := c.Kill(c.ctx, &task.KillRequest{ID: c.ID, Signal: 9, All: true})
			require.NoError(c, err)
			c.exits("", 137)
			c.exitTold("")
			for _, id := range ids(5) {
				c.exits(id, 137)
				c.exitTold(id)
				c.before("exit "+id, "exit")
			}
			c.delete("")
		}
	}},
	{"init's end ends its children", both, func(c *contract) { c.endsChildren() }},
	{"init's end ends its children, host's pids", both, func(c *contract) { c.endsChildren(hostPids) }},
	{"an exec that has left the cgroup holds up nobody", both, func(c *contract) {
		c.sleeper(hostPids)
		c.add("e", c.execs.sleep, execConfig{noIO: true})
		pid := int(c.start("e"))
		c.Cleanup(func() { _ = unix.Kill(pid, unix.SIGKILL) })
		for _, procs := range cgroupRoots(c) {
			require.NoError(c, os.WriteFile(procs, []byte(strconv.Itoa(pid)), 0))
		}
		c.kill("", 9)
		c.same("init's exit is told", true, c.endsWithin("", 4*time.Second))
		_ = unix.Kill(pid, unix.SIGKILL) // a shim may have found it all the same
		c.exits("", 137)
		c.exits("e", 137)
	}},
	{"init ends while execs start", none, func(c *contract) {
		// Whatever is told of each exec is told in order, and an exit for each that
		// was started.
		c.sleeper()
		started := make([]bool, 20)
		var all sync.WaitGroup
		for i, id := range ids(20) {
			c.add(id, c.execs.sleep, execConfig{noIO: true})
			all.Go(func() {
				_, err := c.Start(c.ctx, &task.StartRequest{ID: c.ID, ExecID: id})
				started[i] = err == nil
			})
		}
		time.Sleep(30 * time.Millisecond)
		c.kill("", 9)
		c.exits("", 137)
		all.Wait()
		c.exitTold("")
		for i, id := range ids(20) {
			if !started[i] {
				assert.NotContains(c, c.told(), "exec-started "+id)
				assert.NotContains(c, c.told(), "exit "+id)
				continue
			}
			c.exitTold(id)
			c.before("exec-started "+id, "exit "+id)
			c.before("exit "+id, "exit")
		}
		c.delete("")
	}},
}

// endsChildren has an init that ends before its child.
func (c *contract) endsChildren(opts ...oci.SpecOpts) {
	c.run(shell("sleep 1000 & echo ready; exec sleep 1000"), opts...)
	c.printed(c.Streams, "ready")
	require.Len(c, c.pids(), 2)
	c.kill("", 9)
	c.exits("", 137)
	c.eventually("the child has ended", func() bool { return c.cgroup("pids", "cgroup.procs", "cgroup.procs") == "" })
	c.delete("")
}

// cgroupRoots are the files that take processes into no cgroup.
func cgroupRoots(c *contract) []string {
	if isV2() {
		return []string{"/sys/fs/cgroup/cgroup.procs"}
	}
	roots, err := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	require.NoError(c, err)
	return roots
}

// endAtOnce has fifty execs that end as soon as they begin.
func (c *contract) endAtOnce(opts ...oci.SpecOpts) {
	const n = 50
	c.sleeper(opts...)
	var all sync.WaitGroup
	for i, id := range ids(n) {
		r, _ := c.request(id, c.execs.exit(i%3), execConfig{noIO: true})
		all.Go(func() {
			_, err := c.Exec(c.ctx, r)
			assert.NoError(c, err)
			_, err = c.Start(c.ctx, &task.StartRequest{ID: c.ID, ExecID: id})
			assert.NoError(c, err)
			w, err := c.Wait(c.ctx, &task.WaitRequest{ID: c.ID, ExecID: id})
			assert.NoError(c, err)
			assert.EqualValues(c, i%3, w.GetExitStatus(), id)
			_, err = c.Delete(c.ctx, &task.DeleteRequest{ID: c.ID, ExecID: id})
			assert.NoError(c, err)
		})
	}
	all.Wait()
	c.toldInOrder(n)
	c.end()
	c.exitTold("")
}

// toldInOrder looks at the events of n execs: each once, the start before the exit.
func (c *contract) toldInOrder(n int) {
	c.Helper()
	for _, id := range ids(n) {
		c.exitTold(id)
		var of []string
		for _, one := range c.told() {
			if slices.Contains([]string{"exec-added " + id, "exec-started " + id, "exit " + id}, one) {
				of = append(of, one)
			}
		}
		require.Equal(c, []string{"exec-added " + id, "exec-started " + id, "exit " + id}, of)
	}
}

func (c *contract) killedWithExecs(n int, opts ...oci.SpecOpts) {
	c.create(c.init.sleep, opts...)
	c.killed(n)
}

// killed starts the container with n execs and kills its init.
func (c *contract) killed(n int) {
	c.start("")
	c.printed(c.Streams, "ready")
	for _, id := range ids(n) {
		c.printed(c.exec(id, c.execs.sleep, execConfig{}), "ready")
	}
	c.kill("", 9)
	c.exits("", 137)
	for _, id := range ids(n) {
		c.exits(id, 137)
	}
	c.exitTold("")
	for _, id := range ids(n) {
		c.before("exit "+id, "exit")
		c.delete(id)
	}
	c.toldInOrder(n)
	c.delete("")
}
