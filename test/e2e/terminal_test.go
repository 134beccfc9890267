// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"crypto/md5"
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// terminal is a process with a terminal, as a user has it before him.
type terminal struct {
	t       *harness.T
	process client.Process
	out     *harness.Buffer
	in      *io.PipeWriter
}

// types is what the user types.
func (u *terminal) types(text string) {
	u.t.Helper()
	_, err := io.WriteString(u.in, text)
	require.NoError(u.t, err)
}

// sees waits until something is on the screen.
func (u *terminal) sees(text string) {
	u.t.Helper()
	require.NoError(u.t, u.out.WaitFor(text, 10*time.Second))
}

func (u *terminal) size(width, height uint32) {
	u.t.Helper()
	require.NoError(u.t, u.process.Resize(u.t.Ctx, width, height))
}

// A process is made with a terminal in two ways, and started by begin.
var terminals = map[string]func(t *harness.T, args ...string) (_ *terminal, begin func()){
	"init": func(t *harness.T, args ...string) (*terminal, func()) {
		in, typed := io.Pipe()
		c := t.Create(harness.Config{Image: smoke.Image(t), Args: args, Stdin: in, Terminal: true})
		return &terminal{t, c.Task, c.Stdout, typed}, func() { require.NoError(t, c.Task.Start(t.Ctx)) }
	},
	"exec": func(t *harness.T, args ...string) (*terminal, func()) {
		in, typed := io.Pipe()
		e := t.AddExec(sleeping(t, sleepers["guest"]), harness.ExecConfig{Args: args, Stdin: in, Terminal: true})
		return &terminal{t, e.Process, e.Stdout, typed}, func() { require.NoError(t, e.Start(t.Ctx)) }
	},
}

func eachTerminal(t *testing.T, args []string, test func(u *terminal, begin func())) {
	for name, open := range terminals {
		t.Run(name, func(t *testing.T) {
			u, begin := open(harness.New(t, smoke.Ours), args...)
			test(u, begin)
		})
	}
}

func (u *terminal) ends(code uint32) {
	u.t.Helper()
	exited, err := u.process.Wait(u.t.Ctx)
	require.NoError(u.t, err)
	select {
	case status := <-exited:
		require.Equal(u.t, code, status.ExitCode(), "%s", u.out)
	case <-time.After(20 * time.Second):
		require.Fail(u.t, "it does not end", "%s", u.out)
	}
}

// The size is there before the first output, and whoever asks sees each change.
func TestTerminalSize(t *testing.T) {
	eachTerminal(t, []string{"/bin/sh", "-c", "busybox stty size; trap 'busybox stty size' WINCH; echo ready; while :; do sleep 0.01; done"}, func(u *terminal, begin func()) {
		u.size(77, 11)
		u.size(111, 33)
		begin()
		u.size(112, 34)
		u.sees("ready")
		require.True(u.t, strings.HasPrefix(u.out.String(), "33 111\r\n") || strings.HasPrefix(u.out.String(), "34 112\r\n"), "%s", u.out)
		u.size(80, 25)
		u.sees("25 80")
	})
}

// A shell is used as a shell is.
func TestTerminalShell(t *testing.T) {
	eachTerminal(t, []string{"/bin/sh"}, func(u *terminal, begin func()) {
		begin()
		u.types("busybox tty; echo $((6*7))\n")
		u.sees("/dev/")
		u.sees("42")
		u.types("test -t 0 && test -t 1 && test -t 2 && echo it''is\n")
		u.sees("itis")
		u.types("sleep 1000\n")
		time.Sleep(100 * time.Millisecond)
		u.types("\x03")
		u.types("echo inter''rupted $?\n")
		u.sees("interrupted 130")
		u.types("cat > /dev/null\n")
		time.Sleep(100 * time.Millisecond)
		u.types("\x04echo the''end\n")
		u.sees("theend")
		u.types("sleep 1000\n")
		time.Sleep(100 * time.Millisecond)
		u.types("\x1a")
		u.types("jobs; kill -9 %1; sleep 0.1; jobs; echo stop''ped\n")
		u.sees("stopped")
		u.types("exit 7\n")
		u.ends(7)
	})
}

// What is pasted arrives whole.
func TestTerminalPaste(t *testing.T) {
	const size = 1 << 20
	eachTerminal(t, []string{"/bin/sh", "-c", "busybox stty raw -echo; echo ready; busybox head -c " + strconv.Itoa(size) + " | busybox md5sum"}, func(u *terminal, begin func()) {
		begin()
		u.sees("ready")
		text := strings.Repeat("0123456789abcde\n", size/16)
		u.types(text)
		u.sees("  -")
		require.Contains(u.t, u.out.String(), fmt.Sprintf("%x", md5.Sum([]byte(text))))
		u.ends(0)
	})
}

// What is written is shown whole, also the last of it.
func TestTerminalOutput(t *testing.T) {
	eachTerminal(t, []string{"/bin/sh", "-c", "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; echo last"}, func(u *terminal, begin func()) {
		begin()
		u.ends(0)
		u.sees("last\r\n")
		require.Equal(u.t, 20001, strings.Count(u.out.String(), "\r\n"))
	})
}

// A user who leaves, and comes back, finds the process as it was; containerd may have
// been started again meanwhile.
func TestTerminalAttach(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	in, typed := io.Pipe()
	// Not tt.Create: its cleanup would use the client of before the restart.
	c, err := tt.Daemon.Create(tt.Ctx, harness.Config{Runtime: smoke.Ours, Image: smoke.Image(tt), Args: []string{"/bin/sh"}, Stdin: in, Terminal: true})
	require.NoError(t, err)
	u := &terminal{tt, c.Task, c.Stdout, typed}
	require.NoError(t, c.Task.Start(tt.Ctx))
	u.types("a=1; echo a''way\n")
	u.sees("away")
	c.Task.IO().Cancel()
	c.Task.IO().Wait()

	for range 2 {
		u := attach(tt, c.ID())
		u.types("echo still $a\n")
		u.sees("still 1")
		io := u.process.IO()
		io.Cancel()
		io.Wait()
		require.NoError(t, tt.Kill())
		require.NoError(t, tt.Restart(tt.Ctx))
	}
	u = attach(tt, c.ID())
	u.types("exit 5\n")
	u.ends(5)
	_, err = u.process.Delete(tt.Ctx)
	require.NoError(t, err)
	container, err := tt.Client.LoadContainer(tt.Ctx, c.ID())
	require.NoError(t, err)
	require.NoError(t, container.Delete(tt.Ctx, client.WithSnapshotCleanup))
}

// attach shows a container's terminal to another client.
func attach(t *harness.T, id string) *terminal {
	t.Helper()
	c, err := t.Client.LoadContainer(t.Ctx, id)
	require.NoError(t, err)
	in, typed := io.Pipe()
	out := &harness.Buffer{}
	task, err := c.Task(t.Ctx, cio.NewAttach(cio.WithStreams(in, out, nil), cio.WithTerminal))
	require.NoError(t, err)
	return &terminal{t, task, out, typed}
}

// The size in the container's spec is the terminal's.
func TestTerminalSpec(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	size := harness.WithSpec(func(s *oci.Spec) { s.Process.ConsoleSize = &specs.Box{Width: 50, Height: 20} })
	c := tt.Create(harness.Config{Image: smoke.Image(tt), Args: []string{"/bin/busybox", "stty", "size"}, Terminal: true, Opts: []oci.SpecOpts{size}})
	require.NoError(t, c.Task.Start(tt.Ctx))
	result, err := tt.Finish(c)
	require.NoError(t, err)
	require.Equal(t, "20 50\r\n", result.Stdout)
	require.Empty(t, result.Stderr)
}

// A guest sees a terminal exactly where there is one.
func TestTerminalOfGuest(t *testing.T) {
	for _, guest := range []string{"/terminals.wasm", "/component-terminals.wasm"} {
		eachTerminal(t, []string{guest}, func(u *terminal, begin func()) {
			begin()
			u.ends(0)
			u.sees("terminals: 0 1 2\r\n")
		})
		t.Run("none", func(t *testing.T) {
			tt := harness.New(t, smoke.Ours)
			c := sleeping(tt, sleepers["guest"])
			for _, stdin := range []io.Reader{nil, strings.NewReader("")} {
				result := tt.Once(harness.Config{Image: smoke.Image(tt), Args: []string{guest}, Stdin: stdin})
				require.Equal(t, "terminals: - - -\n", result.Stdout, "%+v", result)
				result = tt.ExecOnce(c, harness.ExecConfig{Args: []string{guest}, Stdin: stdin})
				require.Equal(t, "terminals: - - -\n", result.Stdout, "%+v", result)
			}
		})
	}
}

// To a guest, too, ^D is the end of its input, and ^C the end of it.
func TestTerminalKeysOfGuest(t *testing.T) {
	for _, guest := range []string{"/cat.wasm", "/component-cat.wasm"} {
		for key, code := range map[string]uint32{"\x04": 0, "\x03": 130} {
			eachTerminal(t, []string{guest}, func(u *terminal, begin func()) {
				begin()
				u.types("typed\n")
				// Once by the terminal, and by the guest.
				require.Eventually(u.t, func() bool { return strings.Count(u.out.String(), "typed\r\n") >= 2 }, 10*time.Second, time.Millisecond)
				u.types(key)
				u.ends(code)
			})
		}
	}
}
