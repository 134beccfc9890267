// SPDX-License-Identifier: Apache-2.0

package contract

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"strings"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	types "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/harness"
)

// onTerminal creates a container with a terminal.
func (c *contract) onTerminal(args []string, opts ...oci.SpecOpts) {
	c.Helper()
	c.createAs(harness.HandConfig{Args: args, OpenStdin: true, Terminal: true, Opts: append(opts, oci.WithTTY)})
}

func (c *contract) resize(exec string, width, height uint32) {
	c.Helper()
	_, err := c.ResizePty(c.ctx, &task.ResizePtyRequest{ID: c.ID, ExecID: exec, Width: width, Height: height})
	require.NoError(c, err)
}

func (c *contract) enter(s *harness.Streams, text string) {
	c.Helper()
	_, err := io.WriteString(s.Stdin, text)
	require.NoError(c, err)
}

// size prints a terminal's size, and again when it changes.
const size = `trap "busybox stty size" WINCH; busybox stty size; echo ready; while :; do busybox usleep 10000; done`

// onBoth is a case for the container's own terminal and an exec's. prepare makes the
// process; what is given to start runs it.
func onBoth(name string, args []string, run func(c *contract, exec string, s *harness.Streams)) []test {
	return []test{
		{name + ", container", both, func(c *contract) {
			c.onTerminal(args)
			run(c, "", c.Streams)
		}},
		{name + ", exec", execs, func(c *contract) {
			c.sleeper()
			run(c, "e", c.add("e", args, execConfig{stdin: true, terminal: true}))
		}},
	}
}

var terminals = join(
	onBoth("is one", shell("test -t 0 && test -t 1 && test -t 2 && busybox tty && echo x >/dev/tty && echo e >&2"), func(c *contract, exec string, s *harness.Streams) {
		require.True(c, c.state(exec).Terminal)
		c.start(exec)
		c.exits(exec, 0)
		require.NoError(c, s.Ended(c.ctx))
		require.Equal(c, "/dev/pts/0\r\nx\r\ne\r\n", s.Stdout.String())
		require.Empty(c, s.Stderr.String())
		c.delete(exec)
	}),
	onBoth("resized before the start", shell(size), func(c *contract, exec string, s *harness.Streams) {
		c.resize(exec, 100, 40)
		c.start(exec)
		c.printed(s, "ready")
		c.same("first size", "40 100", strings.SplitN(s.Stdout.String(), "\r\n", 2)[0])
	}),
	onBoth("resized after the start", shell(size), func(c *contract, exec string, s *harness.Streams) {
		c.start(exec)
		c.printed(s, "ready")
		c.resize(exec, 120, 30)
		c.printed(s, "30 120\r\n")
		c.resize(exec, 80, 24)
		c.printed(s, "24 80\r\n")
	}),
	onBoth("resized at once after the start", shell("busybox usleep 300000; busybox stty size"), func(c *contract, exec string, s *harness.Streams) {
		c.start(exec)
		c.resize(exec, 120, 30)
		c.exits(exec, 0)
		require.NoError(c, s.Ended(c.ctx))
		require.Equal(c, "30 120\r\n", s.Stdout.String())
	}),
	onBoth("echo and ^D", []string{"/bin/cat"}, func(c *contract, exec string, s *harness.Streams) {
		c.start(exec)
		c.enter(s, "abc\n")
		c.printed(s, "abc\r\nabc\r\n")
		c.enter(s, "\x04")
		c.exits(exec, 0)
		c.delete(exec)
		require.Equal(c, "abc\r\nabc\r\n", strings.ReplaceAll(s.Stdout.String(), "^D\b\b", ""))
	}),
	onBoth("^C", shell(`trap "echo interrupted; exit 5" INT; echo ready; while :; do busybox usleep 10000; done`), func(c *contract, exec string, s *harness.Streams) {
		c.start(exec)
		c.printed(s, "ready")
		c.enter(s, "\x03")
		c.exits(exec, 5)
		require.NoError(c, s.Ended(c.ctx))
		require.Contains(c, s.Stdout.String(), "interrupted")
	}),
	onBoth("job control", []string{"/bin/sh", "-i"}, func(c *contract, exec string, s *harness.Streams) {
		c.start(exec)
		prompt := func() {
			c.eventually("a prompt", func() bool {
				return strings.HasSuffix(strings.TrimSuffix(s.Stdout.String(), "\x1b[6n"), "# ") // asks where the cursor is
			})
		}
		prompt()
		c.enter(s, "sh -c 'echo begun; exec cat'\n")
		c.printed(s, "\nbegun\r\n")
		c.enter(s, "here\n")
		c.printed(s, "here\r\nhere\r\n")
		c.enter(s, "\x1a") // ^Z
		c.printed(s, "Stopped")
		for range 2 { // the first time it says that there are stopped jobs
			prompt()
			c.enter(s, "exit 9\n")
			c.printed(s, "exit 9\r\n")
		}
		c.exits(exec, 9)
	}),
	onBoth("nobody reads for a while", shell("busybox usleep 50000; exec busybox seq 50000"), func(c *contract, exec string, s *harness.Streams) {
		c.start(exec)
		s.Detach()
		time.Sleep(100 * time.Millisecond)
		require.NoError(c, s.Attach())
		c.exits(exec, 0)
		require.NoError(c, s.Ended(c.ctx))
		require.True(c, strings.HasSuffix(s.Stdout.String(), "\n50000\r\n"))
		require.Equal(c, 338894, s.Stdout.Len())
	}),
	onBoth("1 MiB is pasted", shell("busybox stty raw -echo; echo ready; busybox head -c 1048576 | busybox sha256sum"), func(c *contract, exec string, s *harness.Streams) {
		c.start(exec)
		c.printed(s, "ready")
		data := bytes.Repeat([]byte("0123456789abcde\n"), 1<<16)
		go func() { _, _ = s.Stdin.Write(data) }()
		c.exits(exec, 0)
		require.NoError(c, s.Ended(c.ctx))
		require.Contains(c, s.Stdout.String(), fmt.Sprintf("%x", sha256.Sum256(data)))
	}),
	onBoth("the output is complete", []string{"/bin/busybox", "seq", "50000"}, func(c *contract, exec string, s *harness.Streams) {
		c.start(exec)
		c.exits(exec, 0)
		require.NoError(c, s.Ended(c.ctx))
		lines := strings.Split(s.Stdout.String(), "\r\n")
		require.Len(c, lines, 50001)
		require.Equal(c, "50000", lines[49999])
	}),
	onBoth("detached and attached again", []string{"/bin/cat"}, func(c *contract, exec string, s *harness.Streams) {
		c.start(exec)
		c.enter(s, "one\n")
		c.printed(s, "one\r\none\r\n")
		for range 2 {
			s.Detach()
			require.NoError(c, s.Attach())
			before := s.Stdout.Len()
			c.enter(s, "two\n")
			c.eventually("echo and output", func() bool { return strings.HasSuffix(s.Stdout.String()[before:], "two\r\ntwo\r\n") })
		}
		c.kill(exec, 9)
		c.exits(exec, 137)
	}),
	onBoth("a background child holds it", shell("trap '' HUP; sleep 1000 & echo done"), func(c *contract, exec string, s *harness.Streams) {
		c.start(exec)
		c.printed(s, "done\r\n")
		c.exits(exec, 0)
		c.exitTold(exec)
	}),
	[]test{
		{"guest", noExecs, func(c *contract) {
			if c.init.native {
				return // as above
			}
			c.onTerminal(c.init.cat)
			c.start("")
			c.enter(c.Streams, "abc\n")
			c.printed(c.Streams, "abc\r\nabc\r\n")
			c.enter(c.Streams, "\x04")
			c.exits("", 0)
			require.NoError(c, c.Ended(c.ctx))
			c.delete("")
		}},
		{"exec", none, func(c *contract) {
			c.sleeper()
			s := c.exec("e", c.execs.cat, execConfig{stdin: true, terminal: true})
			c.enter(s, "abc\n")
			c.printed(s, "abc\r\nabc\r\n")
			c.enter(s, "\x04")
			c.exits("e", 0)
			require.NoError(c, s.Ended(c.ctx))
			c.delete("e")
		}},
		{"without a stdin", execs, func(c *contract) {
			c.sleeper()
			s := c.exec("e", shell("echo ready; read x; echo ended"), execConfig{terminal: true})
			c.printed(s, "ready\r\n")
			time.Sleep(20 * time.Millisecond)
			c.status("e", types.Status_RUNNING)
			c.kill("e", 9)
			c.exits("e", 137)
		}},
		{"spec's size", execs, func(c *contract) {
			c.sleeper()
			s := c.add("e", shell(size), execConfig{stdin: true, terminal: true, spec: func(p *specs.Process) {
				p.ConsoleSize = &specs.Box{Width: 90, Height: 33}
			}})
			c.start("e")
			c.printed(s, "ready")
			require.True(c, strings.HasPrefix(s.Stdout.String(), "33 90\r\n"), s.Stdout)
		}},
		{"user's", execs, func(c *contract) {
			c.sleeper()
			s := c.exec("e", shell("echo x >$(busybox tty); busybox stat -c %u $(busybox tty)"), execConfig{stdin: true, terminal: true, spec: func(p *specs.Process) {
				p.User = specs.User{UID: 1000, GID: 1000}
			}})
			c.exits("e", 0)
			require.NoError(c, s.Ended(c.ctx))
			require.Equal(c, "x\r\n1000\r\n", s.Stdout.String())
		}},
		{"resize of what has none", none, func(c *contract) {
			c.sleeper()
			c.exec("e", c.execs.sleep, execConfig{})
			for _, exec := range []string{"", "e"} {
				_, err := c.ResizePty(c.ctx, &task.ResizePtyRequest{ID: c.ID, ExecID: exec, Width: 80, Height: 24})
				c.refused(fmt.Sprintf("resize of %q", exec), 0, err)
			}
		}},
	},
)

func join(all ...[]test) []test {
	var joined []test
	for _, some := range all {
		joined = append(joined, some...)
	}
	return joined
}
