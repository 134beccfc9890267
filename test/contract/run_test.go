// SPDX-License-Identifier: Apache-2.0

package contract

import (
	"fmt"
	"slices"

	apievents "github.com/containerd/containerd/api/events"
	task "github.com/containerd/containerd/api/runtime/task/v3"
	types "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/libwasmshim/libwasmshim/test/harness"
)

var runs = []test{
	{"exit 0", noExecs, func(c *contract) { c.life(c.init.exit(0), 0) }},
	{"exit 7", noExecs, func(c *contract) { c.life(c.init.exit(7), 7) }},
	{"exit 255", noExecs, func(c *contract) { c.life(c.init.exit(255), 255) }},
	{"killed", noExecs, func(c *contract) {
		c.sleeper()
		c.status("", types.Status_RUNNING)
		c.kill("", 9)
		c.exits("", 137)
		require.EqualValues(c, 137, c.exitTold("").ExitStatus)
		require.EqualValues(c, 137, c.delete("").ExitStatus)
	}},
	{"SIGTERM", noExecs, func(c *contract) {
		// Else the kernel keeps from a native init the signals that it has no handler for.
		c.sleeper(oci.WithHostNamespace(specs.PIDNamespace))
		c.kill("", 15)
		c.exits("", 143)
		require.EqualValues(c, 143, c.delete("").ExitStatus)
	}},
	{"dies of a signal of its own", both, func(c *contract) {
		c.run(shell("kill -SEGV $$"), oci.WithHostNamespace(specs.PIDNamespace))
		c.exits("", 139)
	}},
	{"deleted as soon as it is seen to have ended", none, func(c *contract) {
		for range 3 {
			c.sleeper()
			c.exec("e", c.execs.exit(0), execConfig{noIO: true})
			c.stopped("e")
			c.delete("e")
			c.kill("", 9)
			c.stopped("")
			c.delete("")
			c.tells("events", "create", "start", "exec-added e", "exec-started e", "exit e", "exit", "delete")
		}
	}},
	{"stdin", noExecs, func(c *contract) {
		c.createAs(harness.HandConfig{Args: c.init.cat, OpenStdin: true})
		c.start("")
		c.reads("", c.Streams)
	}},
	{"each containerd's dialect", noExecs, func(c *contract) {
		for name, dialect := range map[string]harness.Dialect{"2.3": harness.Dialect23, "1.7": harness.Dialect17, "1.6": harness.Dialect16} {
			h, err := place.ByHand(c.ctx, harness.HandConfig{Runtime: c.runtime, RootFS: c.root, Dialect: dialect, Args: c.init.exit(0)})
			c.same("starts for "+name, true, err == nil)
			if err != nil {
				continue
			}
			c.ByHand = h
			_, err = c.Create(c.ctx)
			require.NoError(c, err)
			c.start("")
			c.exits("", 0)
			c.delete("")
			require.NoError(c, h.Close(c.ctx))
		}
	}},
	{"a pod's containers have one shim", noExecs, func(c *contract) {
		c.sleeper()
		pod := c.ByHand
		c.createAs(harness.HandConfig{Args: c.init.exit(7), Shim: pod})
		c.start("")
		c.exits("", 7)
		c.delete("")
		c.tells("events", "create", "start", "exit", "delete")
		// As containerd 2.4 does after every container.
		_, err := c.Shutdown(c.ctx, &task.ShutdownRequest{ID: c.ID})
		require.NoError(c, err)
		c.ByHand = pod
		c.status("", types.Status_RUNNING)
		c.end()
	}},
}

// stopped asks for a process's state until it has ended.
func (c *contract) stopped(exec string) {
	c.Helper()
	for c.state(exec).Status != types.Status_STOPPED {
		require.NoError(c, c.ctx.Err())
	}
}

// life is a container's whole, with every answer looked at.
func (c *contract) life(args []string, exit int) {
	c.create(args)
	created := c.state("")
	require.Equal(c, c.pid, created.Pid)
	require.Equal(c, c.ID, created.ID)
	require.Equal(c, c.Bundle, created.Bundle)
	require.Equal(c, types.Status_CREATED.String(), created.Status.String())
	r := c.Request()
	require.Equal(c, []any{r.Stdin, r.Stdout, r.Stderr, false}, []any{created.Stdin, created.Stdout, created.Stderr, created.Terminal})

	waited := make(chan *task.WaitResponse, 1)
	go func() {
		r, _ := c.Wait(c.ctx, &task.WaitRequest{ID: c.ID})
		waited <- r
	}()
	require.Equal(c, c.pid, c.start(""))
	early := <-waited
	require.NotNil(c, early, "a wait that was asked before the start")
	require.EqualValues(c, exit, early.ExitStatus)
	late := c.wait("")
	require.Equal(c, early.ExitStatus, late.ExitStatus)
	require.Equal(c, early.ExitedAt.AsTime(), late.ExitedAt.AsTime())

	stopped := c.state("")
	require.Equal(c, types.Status_STOPPED.String(), stopped.Status.String())
	require.EqualValues(c, exit, stopped.ExitStatus)
	require.Equal(c, early.ExitedAt.AsTime(), stopped.ExitedAt.AsTime())

	deleted := c.delete("")
	require.Equal(c, c.pid, deleted.Pid)
	require.EqualValues(c, exit, deleted.ExitStatus)
	require.Equal(c, early.ExitedAt.AsTime(), deleted.ExitedAt.AsTime())
	c.refused("state, deleted", codes.NotFound, c.stateErr(""))
	c.refused("wait, deleted", codes.NotFound, c.waitErr(""))
	c.refused("delete, deleted", codes.NotFound, c.deleteErr(""))

	c.tells("events", "create", "start", "exit", "delete")
	for _, event := range events.Of(c.ID) {
		switch body := event.Body.(type) {
		case *apievents.TaskCreate:
			require.Equal(c, c.pid, body.Pid)
			require.Equal(c, c.Bundle, body.Bundle)
			require.Equal(c, r.Stdout, body.IO.Stdout)
		case *apievents.TaskStart:
			require.Equal(c, c.pid, body.Pid)
		case *apievents.TaskExit:
			require.Equal(c, []any{c.ID, c.pid, uint32(exit)}, []any{body.ID, body.Pid, body.ExitStatus})
			require.Equal(c, early.ExitedAt.AsTime(), body.ExitedAt.AsTime())
		case *apievents.TaskDelete:
			require.Equal(c, []any{"", c.pid, uint32(exit)}, []any{body.ID, body.Pid, body.ExitStatus})
			require.Equal(c, early.ExitedAt.AsTime(), body.ExitedAt.AsTime())
		default:
			c.Errorf("an event of type %T", body)
		}
	}
}

// ids are n names for execs.
func ids(n int) []string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprint("e", i))
	}
	return slices.Clip(all)
}
