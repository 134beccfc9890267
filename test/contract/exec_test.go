// SPDX-License-Identifier: Apache-2.0

package contract

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"strings"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/runc/options"
	types "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/libwasmshim/libwasmshim/test/harness"
)

// execConfig says what exec to add.
type execConfig struct {
	stdin, terminal, noIO bool
	spec                  func(*specs.Process)
}

// request is what adds an exec, and its streams.
func (c *contract) request(id string, args []string, config execConfig) (*task.ExecProcessRequest, *harness.Streams) {
	c.Helper()
	process := &specs.Process{Args: args, Env: []string{"PATH=/bin"}, Cwd: "/", Terminal: config.terminal}
	if config.spec != nil {
		config.spec(process)
	}
	// As containerd's client encodes it.
	spec, err := typeurl.MarshalAny(process)
	require.NoError(c, err)
	s := &harness.Streams{}
	if !config.noIO {
		s, err = place.Streams(id, config.stdin, config.terminal)
		require.NoError(c, err)
		c.Cleanup(func() { assert.NoError(c, s.Close()) })
	}
	return &task.ExecProcessRequest{
		ID: c.ID, ExecID: id, Spec: &anypb.Any{TypeUrl: spec.GetTypeUrl(), Value: spec.GetValue()},
		Stdin: s.Config.Stdin, Stdout: s.Config.Stdout, Stderr: s.Config.Stderr, Terminal: s.Terminal,
	}, s
}

// add adds an exec.
func (c *contract) add(id string, args []string, config execConfig) *harness.Streams {
	c.Helper()
	r, s := c.request(id, args, config)
	_, err := c.Exec(c.ctx, r)
	require.NoError(c, err)
	return s
}

// exec adds an exec and starts it.
func (c *contract) exec(id string, args []string, config execConfig) *harness.Streams {
	c.Helper()
	s := c.add(id, args, config)
	c.start(id)
	return s
}

// output runs an exec to its end.
func (c *contract) output(id string, args []string, config execConfig) string {
	c.Helper()
	s := c.exec(id, args, config)
	code := c.wait(id).ExitStatus
	require.NoError(c, s.Ended(c.ctx))
	require.Zero(c, code, "stdout: %s, stderr: %s", s.Stdout, s.Stderr)
	c.delete(id)
	return s.Stdout.String()
}

func (c *contract) execErr(id string, args []string, config execConfig) error {
	c.Helper()
	r, _ := c.request(id, args, config)
	_, err := c.Exec(c.ctx, r)
	return err
}

func (c *contract) closeStdin(exec string) {
	c.Helper()
	_, err := c.CloseIO(c.ctx, &task.CloseIORequest{ID: c.ID, ExecID: exec, Stdin: true})
	require.NoError(c, err)
}

// pids are the processes of the container, with the ids of those that are execs.
func (c *contract) pids() map[uint32]string {
	c.Helper()
	r, err := c.Pids(c.ctx, &task.PidsRequest{ID: c.ID})
	require.NoError(c, err)
	found := map[uint32]string{}
	for _, p := range r.Processes {
		found[p.Pid] = ""
		if p.Info != nil {
			var details options.ProcessDetails
			require.NoError(c, typeurl.UnmarshalTo(p.Info, &details))
			found[p.Pid] = details.ExecID
		}
	}
	return found
}

var execTests = []test{
	{"a life", none, func(c *contract) {
		c.sleeper()
		r, s := c.request("e", c.execs.sleep, execConfig{})
		_, err := c.Exec(c.ctx, r)
		require.NoError(c, err)
		added := c.state("e")
		require.Equal(c, types.Status_CREATED.String(), added.Status.String())
		require.Zero(c, added.Pid)
		require.True(c, added.ExitedAt.AsTime().IsZero())
		require.Equal(c, []string{"e", c.Bundle, r.Stdin, r.Stdout, r.Stderr}, []string{added.ID, added.Bundle, added.Stdin, added.Stdout, added.Stderr})
		pid := c.start("e")
		require.NotZero(c, pid)
		require.NotEqual(c, c.pid, pid)
		c.printed(s, "ready")
		running := c.state("e")
		require.Equal(c, types.Status_RUNNING.String(), running.Status.String())
		require.Equal(c, pid, running.Pid)
		require.True(c, running.ExitedAt.AsTime().IsZero())
		require.Equal(c, map[uint32]string{c.pid: "", pid: "e"}, c.pids())
		c.refused("delete of a running exec", codes.FailedPrecondition, c.deleteErr("e"))
		c.status("e", types.Status_RUNNING)

		c.kill("e", 9)
		waited := c.wait("e")
		require.EqualValues(c, 137, waited.ExitStatus)
		exit := c.exitTold("e")
		require.Equal(c, []any{c.ID, pid, uint32(137)}, []any{exit.ContainerID, exit.Pid, exit.ExitStatus})
		require.Equal(c, waited.ExitedAt.AsTime(), exit.ExitedAt.AsTime())
		stopped := c.state("e")
		require.Equal(c, types.Status_STOPPED.String(), stopped.Status.String())
		require.EqualValues(c, 137, stopped.ExitStatus)
		require.Equal(c, waited.ExitedAt.AsTime(), stopped.ExitedAt.AsTime())
		c.refused("kill of an ended exec", codes.NotFound, c.killErr("e"))
		require.NoError(c, s.Ended(c.ctx))
		deleted := c.delete("e")
		require.Equal(c, []any{pid, uint32(137)}, []any{deleted.Pid, deleted.ExitStatus})
		require.Equal(c, waited.ExitedAt.AsTime(), deleted.ExitedAt.AsTime())
		c.refused("state of a deleted exec", codes.NotFound, c.stateErr("e"))
		c.status("", types.Status_RUNNING)
		c.end()
		c.tells("events", "create", "start", "exec-added e", "exec-started e", "exit e", "exit", "delete")
	}},
	{"exit codes", none, func(c *contract) {
		c.sleeper()
		for _, code := range []int{0, 7, 255} {
			id := fmt.Sprint("e", code)
			c.exec(id, c.execs.exit(code), execConfig{})
			c.exits(id, code)
			require.EqualValues(c, code, c.exitTold(id).ExitStatus)
			require.EqualValues(c, code, c.delete(id).ExitStatus)
		}
	}},
	{"SIGTERM", none, func(c *contract) {
		c.sleeper()
		s := c.exec("e", c.execs.sleep, execConfig{})
		c.printed(s, "ready")
		c.kill("e", 15)
		c.exits("e", 143)
		c.delete("e")
	}},
	{"start twice", none, func(c *contract) {
		if c.cannot("start twice") {
			return
		}
		c.sleeper()
		s := c.exec("e", c.execs.sleep, execConfig{})
		c.refused("running", codes.FailedPrecondition, c.startErr("e"))
		c.printed(s, "ready")
		c.kill("e", 9)
		c.wait("e")
		c.refused("ended", codes.FailedPrecondition, c.startErr("e"))
		c.end()
		c.tells("events", "create", "start", "exec-added e", "exec-started e", "exit e", "exit", "delete")
	}},
	{"a wait before the start", none, func(c *contract) {
		c.sleeper()
		c.add("e", c.execs.exit(7), execConfig{})
		waited := make(chan *task.WaitResponse, 1)
		go func() {
			r, _ := c.Wait(c.ctx, &task.WaitRequest{ID: c.ID, ExecID: "e"})
			waited <- r
		}()
		time.Sleep(5 * time.Millisecond)
		c.start("e")
		require.EqualValues(c, 7, (<-waited).GetExitStatus())
	}},
	{"a wait ends with the container", none, func(c *contract) {
		c.sleeper()
		c.add("e", c.execs.exit(0), execConfig{})
		c.kill("", 9)
		c.wait("")
		c.same("ends", true, c.endsWithin("e", time.Second))
		c.delete("")
	}},
	{"signals", execs, func(c *contract) {
		c.sleeper()
		s := c.exec("e", shell(`trap "echo usr1" USR1; trap "exit 3" TERM; echo ready; while :; do busybox usleep 10000; done`), execConfig{})
		c.printed(s, "ready")
		c.kill("e", 0)
		c.kill("e", 10)
		c.printed(s, "usr1")
		c.status("e", types.Status_RUNNING)
		c.kill("e", 15)
		c.exits("e", 3)
		c.status("", types.Status_RUNNING)
	}},
	{"id taken", none, func(c *contract) {
		c.sleeper()
		taken := func(when string) {
			c.refused(when, codes.AlreadyExists, c.execErr("e", c.execs.sleep, execConfig{noIO: true}))
		}
		c.add("e", c.execs.sleep, execConfig{})
		taken("added")
		c.start("e")
		taken("running")
		c.kill("e", 9)
		c.wait("e")
		taken("ended")
		c.delete("e")
		c.exec("e", c.execs.exit(7), execConfig{})
		c.exits("e", 7)
	}},
	{"bad ids", none, func(c *contract) {
		c.sleeper()
		for _, id := range []string{"", "../x", "a/b"} {
			c.refused(fmt.Sprintf("%q", id), codes.InvalidArgument, c.execErr(id, c.execs.exit(0), execConfig{noIO: true}))
		}
		c.status("", types.Status_RUNNING)
	}},
	{"unknown id", none, func(c *contract) {
		c.sleeper()
		c.refused("state", codes.NotFound, c.stateErr("nope"))
		c.refused("start", codes.NotFound, c.startErr("nope"))
		c.refused("wait", codes.NotFound, c.waitErr("nope"))
		c.refused("kill", codes.NotFound, c.killErr("nope"))
		c.refused("delete", codes.NotFound, c.deleteErr("nope"))
		_, err := c.CloseIO(c.ctx, &task.CloseIORequest{ID: c.ID, ExecID: "nope", Stdin: true})
		c.refused("closeIO", codes.NotFound, err)
		_, err = c.ResizePty(c.ctx, &task.ResizePtyRequest{ID: c.ID, ExecID: "nope", Width: 80, Height: 24})
		c.refused("resizePty", codes.NotFound, err)
	}},
	{"added, never started", none, func(c *contract) {
		c.sleeper()
		c.add("e", c.execs.sleep, execConfig{})
		c.refused("kill", codes.FailedPrecondition, c.killErr("e"))
		deleted := c.delete("e")
		c.same("pid and exit code", []uint32{0, 0}, []uint32{deleted.Pid, deleted.ExitStatus})
		c.refused("state", codes.NotFound, c.stateErr("e"))
		c.exec("e", c.execs.exit(0), execConfig{})
		c.exits("e", 0)
		c.tells("events", "create", "start", "exec-added e", "exec-added e", "exec-started e", "exit e")
	}},
	{"missing program", none, func(c *contract) {
		c.sleeper()
		before, bundle := len(c.pids()), entries(c, c.Bundle)
		for _, bad := range []struct {
			what string
			args []string
			code codes.Code
		}{
			{"no such file", []string{"/bin/nope"}, codes.NotFound},
			{"not in PATH", []string{"nope"}, codes.NotFound},
			{"a directory", []string{"/etc"}, codes.InvalidArgument},
			{"no program", []string{"/etc/data"}, codes.InvalidArgument},
		} {
			c.add("e", bad.args, execConfig{})
			c.refused(bad.what, bad.code, c.startErr("e"))
			// What containerd's client needs to delete it.
			require.Contains(c, []types.Status{types.Status_CREATED, types.Status_STOPPED}, c.state("e").Status)
			require.True(c, c.endsWithin("e", time.Second), "a wait answers")
			require.Contains(c, []string{codes.FailedPrecondition.String(), codes.NotFound.String()}, code(c.killErr("e")))
			c.delete("e")
			c.refused("state, deleted", codes.NotFound, c.stateErr("e"))
		}
		require.Len(c, c.pids(), before)
		require.Equal(c, bundle, entries(c, c.Bundle))
		c.tells("events", "create", "start", "exec-added e", "exec-added e", "exec-added e", "exec-added e")
		c.end()
	}},
	{"start after a start that failed", none, func(c *contract) {
		if c.cannot("start again") {
			return
		}
		c.sleeper()
		c.add("e", []string{"/bin/nope"}, execConfig{})
		require.Error(c, c.startErr("e"))
		require.Error(c, c.startErr("e"))
		c.delete("e")
		c.end()
	}},
	{"no spec", none, func(c *contract) {
		if c.cannot("exec without a spec") {
			return
		}
		c.sleeper()
		_, err := c.Exec(c.ctx, &task.ExecProcessRequest{ID: c.ID, ExecID: "e"})
		c.refused("exec", codes.InvalidArgument, err)
		c.status("", types.Status_RUNNING)
	}},
	{"bad specs", none, func(c *contract) {
		c.sleeper()
		for _, bad := range []struct {
			what string
			spec *anypb.Any
		}{
			{"of another type", &anypb.Any{TypeUrl: "no.such.type", Value: []byte("x")}},
			{"no JSON", &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Process", Value: []byte("{")}},
			{"no args", &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Process", Value: []byte(`{"cwd":"/","user":{}}`)}},
			{"relative cwd", &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Process", Value: []byte(`{"args":["/hello.wasm"],"cwd":"x","user":{}}`)}},
		} {
			r, _ := c.request("e", nil, execConfig{noIO: true})
			r.Spec = bad.spec
			_, err := c.Exec(c.ctx, r)
			c.refused(bad.what, codes.InvalidArgument, err)
			if err == nil {
				_ = c.startErr("e")
				c.delete("e")
			}
		}
		c.status("", types.Status_RUNNING)
	}},
	{"created container", none, func(c *contract) {
		c.create(c.init.sleep)
		err := c.execErr("e", c.execs.exit(7), execConfig{})
		c.refused("exec", codes.OK, err)
		if err == nil {
			c.refused("start", codes.OK, c.startErr("e"))
			c.exits("e", 7)
			c.delete("e")
		}
		c.status("", types.Status_CREATED)
		c.start("")
		c.printed(c.Streams, "ready")
		c.end()
	}},
	{"stopped container", none, func(c *contract) {
		c.sleeper()
		c.add("early", c.execs.exit(0), execConfig{})
		c.kill("", 9)
		c.wait("")
		c.refused("start of one that was added before", codes.FailedPrecondition, c.startErr("early"))
		c.refused("exec", codes.FailedPrecondition, c.execErr("late", c.execs.exit(0), execConfig{noIO: true}))
		c.delete("early")
		c.delete("")
		c.refused("exec, deleted", codes.NotFound, c.execErr("later", c.execs.exit(0), execConfig{noIO: true}))
		c.tells("events", "create", "start", "exec-added early", "exit", "delete")
	}},
	{"container deleted with an exec that was never deleted", none, func(c *contract) {
		c.sleeper()
		c.exec("e", c.execs.exit(0), execConfig{})
		c.wait("e")
		c.add("never", c.execs.exit(0), execConfig{})
		c.end()
		c.refused("state of the exec", codes.NotFound, c.stateErr("e"))
		c.tells("events", "create", "start", "exec-added e", "exec-started e", "exit e", "exec-added never", "exit", "delete")
	}},
	{"stdin", none, func(c *contract) {
		c.sleeper()
		c.reads("e", c.exec("e", c.execs.cat, execConfig{stdin: true}))
	}},
	{"stdin is closed before all is written", none, func(c *contract) {
		c.sleeper()
		s := c.exec("e", c.execs.cat, execConfig{stdin: true})
		for _, line := range []string{"one\n", "two\n"} {
			_, err := io.WriteString(s.Stdin, line)
			require.NoError(c, err)
			c.printed(s, line) // so the client has opened its end
			c.closeStdin("e")
		}
		require.NoError(c, s.Stdin.Close())
		c.exits("e", 0)
		c.delete("e")
	}},
	{"stdin is closed before the start", none, func(c *contract) {
		c.sleeper()
		s := c.add("e", c.execs.cat, execConfig{stdin: true})
		go func() {
			_, _ = io.WriteString(s.Stdin, "one\n")
			s.Stdin.Close()
		}()
		c.closeStdin("e")
		c.start("e")
		c.same("ends", true, c.endsWithin("e", time.Second))
	}},
	{"the client goes away and comes back", execs, func(c *contract) {
		c.sleeper()
		s := c.exec("e", shell("while :; do echo x; busybox usleep 1000; done"), execConfig{stdin: true})
		c.printed(s, "x\n")
		for range 2 {
			s.Detach()
			time.Sleep(20 * time.Millisecond)
			before := s.Stdout.Len()
			c.status("e", types.Status_RUNNING) // no SIGPIPE
			require.NoError(c, s.Attach())
			c.eventually("its output comes", func() bool { return s.Stdout.Len() > before })
		}
		c.end()
	}},
	{"nobody reads for a while", execs, func(c *contract) {
		c.sleeper()
		s := c.exec("e", shell("busybox usleep 50000; exec busybox seq 100000"), execConfig{})
		s.Detach()
		time.Sleep(100 * time.Millisecond)
		c.status("e", types.Status_RUNNING) // it waits
		require.NoError(c, s.Attach())
		c.exits("e", 0)
		require.NoError(c, s.Ended(c.ctx))
		require.Equal(c, 588895, s.Stdout.Len())
		c.delete("e")
	}},
	{"no streams", none, func(c *contract) {
		c.sleeper()
		c.exec("e", c.execs.cat, execConfig{noIO: true})
		c.exits("e", 0)
		c.delete("e")
	}},
	{"8 MiB through", none, func(c *contract) {
		c.sleeper()
		s := c.exec("e", c.execs.cat, execConfig{stdin: true})
		data := make([]byte, 8<<20)
		_, _ = rand.Read(data)
		go func() {
			_, _ = s.Stdin.Write(data)
			s.Stdin.Close()
			_, _ = c.CloseIO(c.ctx, &task.CloseIORequest{ID: c.ID, ExecID: "e", Stdin: true})
		}()
		c.exits("e", 0)
		require.NoError(c, s.Ended(c.ctx))
		require.True(c, bytes.HasPrefix([]byte(s.Stdout.String()), data), "%d bytes came", s.Stdout.Len())
		c.delete("e")
	}},
	{"100 MB into one that prints nothing", execs, func(c *contract) {
		c.sleeper()
		s := c.exec("e", []string{"/bin/busybox", "wc", "-c"}, execConfig{stdin: true})
		go func() {
			block := make([]byte, 1<<20)
			for range 100 {
				_, _ = s.Stdin.Write(block)
			}
			s.Stdin.Close()
			_, _ = c.CloseIO(c.ctx, &task.CloseIORequest{ID: c.ID, ExecID: "e", Stdin: true})
		}()
		c.exits("e", 0)
		require.NoError(c, s.Ended(c.ctx))
		require.Equal(c, "104857600\n", s.Stdout.String())
		c.delete("e")
	}},
	{"last lines", execs, func(c *contract) {
		c.sleeper()
		for range 10 {
			out := c.output("e", []string{"/bin/busybox", "seq", "20000"}, execConfig{})
			require.True(c, strings.HasSuffix(out, "\n20000\n"), "%d bytes", len(out))
		}
	}},
	{"a background child holds the output", execs, func(c *contract) {
		c.sleeper()
		s := c.exec("e", shell("sleep 1000 & echo done"), execConfig{})
		began := time.Now()
		c.exits("e", 0)
		c.exitTold("e")
		require.Less(c, time.Since(began), harness.Slow(2*time.Second))
		c.printed(s, "done\n")
		c.same("deleted within three seconds", true, c.deletedWithin("e", 3*time.Second))
		require.Len(c, c.pids(), 2, "the child lives")
		c.end()
	}},
	{"orphans", execs, func(c *contract) {
		// A child whose parent has gone is the init's, or, where the pid namespace
		// is not the container's own, the shim's: it is no exec, and its exit nobody's.
		c.sleeper(oci.WithHostNamespace(specs.PIDNamespace))
		c.exec("e", shell("(sleep 0.05; exit 3) >/dev/null 2>&1 & exit 0"), execConfig{})
		c.exits("e", 0)
		c.delete("e")
		c.eventually("the child ends", func() bool { return len(c.pids()) == 1 })
		c.end()
		c.tells("events", "create", "start", "exec-added e", "exec-started e", "exit e", "exit", "delete")
	}},
	{"process spec", execs, func(c *contract) {
		c.sleeper(with(func(s *oci.Spec) {
			mask, adj := uint32(0o027), 500
			s.Process.User.Umask, s.Process.OOMScoreAdj = &mask, &adj
		}))
		for _, one := range []struct {
			what   string
			args   []string
			spec   func(*specs.Process)
			output string
		}{
			{"args", []string{"/bin/sh", "-c", "echo $0 $1", "a", "b c"}, nil, "a b c\n"},
			{"argument from PATH", []string{"echo", "x"}, nil, "x\n"},
			{"user", shell("id -u; id -g; id -G"), func(p *specs.Process) {
				p.User = specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{7, 8}}
			}, "1000\n1000\n1000 7 8\n"},
			{"umask is the container's", shell("umask"), nil, "0027\n"},
			{"cwd", []string{"pwd"}, func(p *specs.Process) { p.Cwd = "/work" }, "/work\n"},
			{"env", shell("echo $A-$B"), func(p *specs.Process) { p.Env = append(p.Env, "A=1", "B=x y") }, "1-x y\n"},
			{"HOME", shell("echo $HOME"), func(p *specs.Process) { p.User = specs.User{UID: 1000, GID: 1000} }, "/work\n"},
			{"no capabilities", shell(capabilities), func(p *specs.Process) { p.Capabilities = &specs.LinuxCapabilities{} }, strings.Repeat("0000000000000000\n", 5)},
			{"capabilities", shell(capabilities), func(p *specs.Process) {
				p.Capabilities = &specs.LinuxCapabilities{Bounding: []string{"CAP_CHOWN", "CAP_KILL"}, Permitted: []string{"CAP_CHOWN", "CAP_KILL"}, Effective: []string{"CAP_CHOWN", "CAP_KILL"}}
			}, "0000000000000000\n0000000000000021\n0000000000000021\n0000000000000021\n0000000000000000\n"},
			{"new privileges", shell("busybox grep NoNewPrivs /proc/self/status | busybox cut -f2"), nil, "0\n"},
			{"no new privileges", shell("busybox grep NoNewPrivs /proc/self/status | busybox cut -f2"), func(p *specs.Process) { p.NoNewPrivileges = true }, "1\n"},
			{"rlimits", shell("ulimit -n; ulimit -c"), func(p *specs.Process) {
				p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 100, Hard: 200}, {Type: "RLIMIT_CORE", Soft: 0, Hard: 0}}
			}, "100\n0\n"},
			{"oom_score_adj is the container's", shell("cat /proc/self/oom_score_adj"), nil, "500\n"},
			{"descriptors", []string{"/bin/ls", "/proc/self/fd"}, nil, "0\n1\n2\n3\n"},
		} {
			c.same(one.what, one.output, c.output("e", one.args, execConfig{spec: one.spec}))
		}
	}},
	{"is where the container is", none, func(c *contract) {
		c.sleeper()
		s := c.exec("e", c.execs.sleep, execConfig{})
		c.printed(s, "ready")
		pid := c.state("e").Pid
		for _, name := range []string{"mnt", "pid", "net", "ipc", "uts"} {
			require.Equal(c, link(c, c.pid, "ns/"+name), link(c, pid, "ns/"+name), name)
		}
		require.Equal(c, file(c, fmt.Sprintf("/proc/%d/cgroup", c.pid)), file(c, fmt.Sprintf("/proc/%d/cgroup", pid)))
		require.Equal(c, "/", link(c, pid, "cwd"))
	}},
	{"streams that do not exist", none, func(c *contract) {
		c.sleeper()
		r, _ := c.request("e", c.execs.exit(0), execConfig{noIO: true})
		r.Stdout = "/no/such/fifo"
		_, err := c.Exec(c.ctx, r)
		if err == nil {
			err = c.startErr("e")
			c.delete("e")
		}
		c.refused("exec or start", codes.NotFound, err)
		c.status("", types.Status_RUNNING)
		c.end()
	}},
}

// reads has a process that copies its stdin to its end.
func (c *contract) reads(exec string, s *harness.Streams) {
	c.Helper()
	for _, line := range []string{"one\n", "two\n"} {
		_, err := io.WriteString(s.Stdin, line)
		require.NoError(c, err)
		c.printed(s, line)
	}
	c.status(exec, types.Status_RUNNING)
	// As containerd's clients do: first their own end, then the shim's.
	require.NoError(c, s.Stdin.Close())
	time.Sleep(20 * time.Millisecond)
	c.status(exec, types.Status_RUNNING) // the shim holds it
	c.closeStdin(exec)
	c.exits(exec, 0)
	c.closeStdin(exec)
	require.NoError(c, s.Ended(c.ctx))
	c.delete(exec)
	require.True(c, strings.HasPrefix(s.Stdout.String(), "one\ntwo\n"), s.Stdout)
}

const capabilities = "busybox grep Cap /proc/self/status | busybox cut -f2"

// endsWithin says whether a process ends in time.
func (c *contract) endsWithin(exec string, limit time.Duration) bool {
	done := make(chan struct{})
	go func() {
		_, _ = c.Wait(c.ctx, &task.WaitRequest{ID: c.ID, ExecID: exec})
		close(done)
	}()
	select {
	case <-done:
		return true
	case <-time.After(harness.Slow(limit)):
		return false
	}
}

// deletedWithin says whether an exec's delete answers in time.
func (c *contract) deletedWithin(exec string, limit time.Duration) bool {
	done := make(chan struct{})
	go func() {
		_ = c.deleteErr(exec)
		close(done)
	}()
	select {
	case <-done:
		return true
	case <-time.After(harness.Slow(limit)):
		return false
	}
}
