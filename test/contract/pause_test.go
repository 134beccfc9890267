// SPDX-License-Identifier: Apache-2.0

package contract

import (
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	types "github.com/containerd/containerd/api/types/task"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/libwasmshim/libwasmshim/test/harness"
)

func (c *contract) pauseErr() error {
	_, err := c.Pause(c.ctx, &task.PauseRequest{ID: c.ID})
	return err
}

func (c *contract) resumeErr() error {
	_, err := c.Resume(c.ctx, &task.ResumeRequest{ID: c.ID})
	return err
}

func (c *contract) pause() {
	c.Helper()
	require.NoError(c, c.pauseErr())
	c.status("", types.Status_PAUSED)
}

func (c *contract) resume() {
	c.Helper()
	require.NoError(c, c.resumeErr())
	c.status("", types.Status_RUNNING)
}

var pauses = []test{
	{"pause and resume", noExecs, func(c *contract) {
		c.sleeper()
		c.pause()
		c.refused("pause twice", codes.FailedPrecondition, c.pauseErr())
		c.status("", types.Status_PAUSED)
		c.refused("start", codes.FailedPrecondition, c.startErr(""))
		c.refused("delete", codes.FailedPrecondition, c.deleteErr(""))
		c.resume()
		c.refused("resume twice", codes.FailedPrecondition, c.resumeErr())
		c.pause()
		c.resume()
		c.end()
		c.tells("events", "create", "start", "paused", "resumed", "paused", "resumed", "exit", "delete")
	}},
	{"stands still", both, func(c *contract) {
		c.run(shell("while :; do echo x; busybox usleep 1000; done"))
		c.printed(c.Streams, "x")
		c.pause()
		time.Sleep(50 * time.Millisecond)
		before := c.Stdout.Len()
		time.Sleep(100 * time.Millisecond)
		require.Equal(c, before, c.Stdout.Len())
		c.resume()
		c.eventually("it goes on", func() bool { return c.Stdout.Len() > before })
		c.end()
	}},
	{"execs", none, func(c *contract) {
		c.sleeper()
		c.add("added", c.execs.exit(7), execConfig{})
		s := c.exec("running", c.execs.sleep, execConfig{})
		c.printed(s, "ready")
		c.pause()
		c.status("running", types.Status_PAUSED)
		c.refused("exec", codes.FailedPrecondition, c.execErr("late", c.execs.exit(0), execConfig{noIO: true}))
		began := time.Now()
		c.refused("start", codes.FailedPrecondition, c.startErr("added"))
		require.Less(c, time.Since(began), harness.Slow(2*time.Second))
		c.resume()
		c.status("running", types.Status_RUNNING)
		if !c.cannot("start, resumed") {
			c.start("added")
			c.exits("added", 7)
		}
		c.end()
	}},
	{"kill -9", noExecs, func(c *contract) {
		c.sleeper()
		c.pause()
		c.kill("", 9)
		c.exits("", 137)
		c.status("", types.Status_STOPPED)
		c.delete("")
		c.tells("events", "create", "start", "paused", "exit", "delete")
	}},
	{"kill -9 of an exec", none, func(c *contract) {
		c.sleeper()
		s := c.exec("e", c.execs.sleep, execConfig{})
		c.printed(s, "ready")
		c.pause()
		c.kill("e", 9)
		c.resume()
		c.exits("e", 137)
		c.end()
	}},
	{"SIGTERM comes with the resume", noExecs, func(c *contract) {
		c.sleeper(hostPids)
		c.pause()
		c.kill("", 15)
		time.Sleep(20 * time.Millisecond)
		// Version 2 lets a signal through that ends the process, sooner or later.
		if !isV2() {
			c.status("", types.Status_PAUSED)
		}
		if err := c.resumeErr(); err != nil {
			require.True(c, isV2(), "%v", err)
			c.status("", types.Status_STOPPED)
		}
		c.exits("", 143)
	}},
	{"created and stopped", noExecs, func(c *contract) {
		c.create(c.init.sleep)
		c.refused("pause, created", codes.FailedPrecondition, c.pauseErr())
		c.refused("resume, created", codes.FailedPrecondition, c.resumeErr())
		c.status("", types.Status_CREATED)
		c.start("")
		c.printed(c.Streams, "ready")
		c.kill("", 9)
		c.wait("")
		c.refused("pause, stopped", codes.FailedPrecondition, c.pauseErr())
		c.refused("resume, stopped", codes.FailedPrecondition, c.resumeErr())
		c.delete("")
		c.refused("pause, deleted", codes.NotFound, c.pauseErr())
		c.refused("resume, deleted", codes.NotFound, c.resumeErr())
	}},
}
