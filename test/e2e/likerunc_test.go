// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// A step is one call on a shim and what it answered.
type step struct {
	call    string
	code    codes.Code
	message string // of an error; else what matters of the answer
}

func (s step) String() string {
	return fmt.Sprintf("| %s | %s | %s |", s.call, s.code, strings.ReplaceAll(s.message, "|", "\\|"))
}

// caller calls a shim directly, past containerd, which catches most wrong calls.
type caller struct {
	*harness.T
	shim  *harness.ByHand
	id    string
	pid   uint32
	steps []step
}

func (c *caller) note(call string, answer any, err error) {
	// containerd's client has made an errdefs error of the status.
	st := status.Convert(errgrpc.ToGRPC(err))
	s := step{call: call, code: st.Code(), message: st.Message()}
	if err == nil && answer != nil {
		s.message = fmt.Sprint(answer)
	}
	c.steps = append(c.steps, s)
}

func (c *caller) ctx() context.Context {
	ctx, cancel := context.WithTimeout(c.Ctx, 10*time.Second)
	c.Cleanup(cancel)
	return ctx
}

func (c *caller) state(when string) {
	r, err := c.shim.State(c.ctx(), &task.StateRequest{ID: c.id})
	c.note("state "+when, fmt.Sprintf("%s exit %d, exited at set %t, pid set %t", r.GetStatus(), r.GetExitStatus(), r.GetExitedAt().GetSeconds() > 0, r.GetPid() > 0), err)
}

func (c *caller) start(when string) {
	r, err := c.shim.Start(c.ctx(), &task.StartRequest{ID: c.id})
	c.note("start "+when, fmt.Sprintf("pid is that of create: %t", r.GetPid() == c.pid), err)
}

func (c *caller) kill(when string, signal uint32, all bool) {
	_, err := c.shim.Kill(c.ctx(), &task.KillRequest{ID: c.id, Signal: signal, All: all})
	c.note(fmt.Sprintf("kill %d %s", signal, when), nil, err)
}

func (c *caller) wait(when string) {
	r, err := c.shim.Wait(c.ctx(), &task.WaitRequest{ID: c.id})
	c.note("wait "+when, fmt.Sprintf("exit %d", r.GetExitStatus()), err)
}

func (c *caller) delete(when string) { c.deleteWithin(when, 10*time.Second) }

func (c *caller) deleteWithin(when string, limit time.Duration) {
	ctx, cancel := context.WithTimeout(c.Ctx, limit)
	defer cancel()
	r, err := c.shim.Delete(ctx, &task.DeleteRequest{ID: c.id})
	c.note("delete "+when, fmt.Sprintf("exit %d, exited at set %t, pid set %t", r.GetExitStatus(), r.GetExitedAt().GetSeconds() > 0, r.GetPid() > 0), err)
}

func (c *caller) closeIO(when string) {
	_, err := c.shim.CloseIO(c.ctx(), &task.CloseIORequest{ID: c.id, Stdin: true})
	c.note("closeIO "+when, nil, err)
}

func (c *caller) pids(when string) {
	r, err := c.shim.Pids(c.ctx(), &task.PidsRequest{ID: c.id})
	c.note("pids "+when, fmt.Sprintf("%d", len(r.GetProcesses())), err)
}

func (c *caller) connect(when string) {
	r, err := c.shim.Connect(c.ctx(), &task.ConnectRequest{ID: c.id})
	c.note("connect "+when, fmt.Sprintf("shim pid set %t, task pid set %t", r.GetShimPid() > 0, r.GetTaskPid() > 0), err)
}

// begin makes a container by hand and asks the shim to create its task.
func (c *caller) begin(config harness.HandConfig) {
	if config.RootFS == "" {
		config.RootFS = c.busybox()
	}
	if config.Args == nil {
		config.Args = []string{"/bin/sleep", "1000"}
	}
	c.shim = c.ByHand(config)
	r, err := c.shim.Create(c.ctx())
	require.NoError(c, err)
	c.id, c.pid = c.shim.ID, r.Pid
}

// nested makes a container, and another one whose cgroup is below its; the outer
// one ends first.
func (c *caller) nested(deleted string, outer ...oci.SpecOpts) {
	inner := &caller{T: c.T}
	c.begin(harness.HandConfig{Opts: outer})
	c.start("")
	inner.begin(harness.HandConfig{Opts: []oci.SpecOpts{oci.WithCgroup("/" + c.Namespace + "/" + c.id + "/inner")}})
	inner.start("")
	c.kill("outer", 9, false)
	c.wait("outer")
	c.deleteWithin(deleted, 2*time.Second) // runc's goes on for much longer, and then fails
	c.state("outer")
	inner.state("inner")
	inner.kill("inner", 9, false)
	inner.wait("inner")
	inner.delete("inner")
	c.delete("outer, again")
	c.steps = append(c.steps, inner.steps...)
}

func (c *caller) busybox() string {
	root, err := c.RootFS(smoke.Files(c.T))
	require.NoError(c, err)
	c.Cleanup(func() { require.NoError(c, os.RemoveAll(root)) })
	return root
}

// badConfigs are texts of config.json. None may lack namespaces: runc would
// mount into the host's.
var badConfigs = []struct{ name, config string }{
	{"no config.json", ""},
	{"config.json is empty", " "},
	{"config.json is no JSON", "{"},
	{"config.json without process", config(root, linux, mounts)},
	{"config.json without root", config(process, linux, mounts)},
	{"config.json with an empty root", config(`"root":{"path":""}`, process, linux, mounts)},
	{"config.json without args", config(root, `"process":{"cwd":"/","user":{}}`, linux, mounts)},
	{"config.json without cwd", config(root, `"process":{"args":["/bin/true"],"user":{}}`, linux, mounts)},
	{"config.json with a relative cwd", config(root, `"process":{"args":["/bin/true"],"cwd":"x","user":{}}`, linux, mounts)},
	{"config.json with an env without =", config(root, `"process":{"args":["/bin/true"],"cwd":"/","env":["x"],"user":{}}`, linux, mounts)},
	{"config.json with an unknown capability", config(root, `"process":{"args":["/bin/true"],"cwd":"/","user":{},"capabilities":{"bounding":["CAP_NOPE"]}}`, linux, mounts)},
	{"no such entrypoint", config(root, `"process":{"args":["/bin/nope"],"cwd":"/","user":{}}`, linux, mounts)},
	{"entrypoint is a directory", config(root, `"process":{"args":["/etc"],"cwd":"/","user":{}}`, linux, mounts)},
	{"entrypoint not executable", config(root, `"process":{"args":["/etc/data"],"cwd":"/","user":{}}`, linux, mounts)},
}

const (
	root    = `"root":{"path":"rootfs"}`
	process = `"process":{"args":["/bin/true"],"cwd":"/","user":{"uid":0,"gid":0}}`
	linux   = `"linux":{"namespaces":[{"type":"mount"},{"type":"pid"},{"type":"ipc"}]}`
	mounts  = `"mounts":[{"destination":"/proc","type":"proc","source":"proc"},{"destination":"/dev","type":"tmpfs","source":"tmpfs"}]`
)

func config(members ...string) string {
	return `{"ociVersion":"1.2.0",` + strings.Join(members, ",") + "}"
}

type likeRuncCase struct {
	name string
	run  func(c *caller)
}

var cases = []likeRuncCase{
	{"a life", func(c *caller) {
		c.begin(harness.HandConfig{Args: []string{"/bin/sh", "-c", "exit 7"}})
		c.state("created")
		c.pids("created")
		c.connect("created")
		c.start("")
		c.wait("")
		c.wait("twice")
		c.state("exited")
		c.pids("exited")
		c.delete("exited")
		c.state("deleted")
		c.pids("deleted")
		c.wait("deleted")
		c.delete("twice")
		c.connect("deleted")
		c.kill("deleted", 9, false)
		c.start("deleted")
		c.closeIO("deleted")
	}},
	{"wrong state: created", func(c *caller) {
		c.begin(harness.HandConfig{})
		c.kill("before start", 15, false)
		c.wait("killed before start")
		c.state("killed before start")
		c.kill("again", 9, false)
		c.start("killed before start")
		c.delete("killed before start")
	}},
	{"delete created", func(c *caller) {
		c.begin(harness.HandConfig{})
		if c.Runtime == smoke.Runc {
			return // runc's shim waits for ever
		}
		c.delete("created, never started")
		c.state("deleted")
	}},
	{"wrong state: running", func(c *caller) {
		c.begin(harness.HandConfig{})
		c.start("")
		c.start("twice")
		c.delete("running")
		c.state("running")
		c.kill("0", 0, false)
		c.kill("999", 999, false)
		c.kill("all", 9, true)
		c.wait("killed")
		c.kill("exited", 9, false)
		c.kill("exited, all", 9, true)
		c.kill("exited, SIGTERM", 15, false)
		c.start("exited")
		c.closeIO("exited")
		c.delete("exited")
	}},
	{"nested container", func(c *caller) { c.nested("outer with a nested one") }},
	{"nested container, host's pids", func(c *caller) {
		c.nested("outer", oci.WithHostNamespace(specs.PIDNamespace))
	}},
	{"closeIO", func(c *caller) {
		c.begin(harness.HandConfig{Stdin: neverEnds{}, Args: []string{"/bin/cat"}})
		c.closeIO("before start")
		c.start("")
		c.closeIO("once")
		c.closeIO("twice")
		c.kill("", 9, false)
		c.wait("")
		c.delete("")
	}},
	{"closeIO without stdin", func(c *caller) {
		c.begin(harness.HandConfig{NoIO: true})
		c.start("")
		c.closeIO("no stdin")
		c.kill("", 9, false)
		c.wait("")
		c.delete("")
	}},
	{"duplicate", func(c *caller) {
		c.begin(harness.HandConfig{})
		_, err := c.shim.Create(c.ctx())
		c.note("create of an existing id", nil, err)
		c.state("of it")
		c.start("")
		_, err = c.shim.Create(c.ctx())
		c.note("create of a running id", nil, err)
	}},
	{"unknown id", func(c *caller) {
		c.begin(harness.HandConfig{})
		known := c.id
		c.id = "nope"
		c.state("unknown")
		c.start("unknown")
		c.kill("unknown", 9, false)
		c.wait("unknown")
		c.delete("unknown")
		c.closeIO("unknown")
		c.pids("unknown")
		c.connect("unknown")
		c.id = known
		_, err := c.shim.State(c.ctx(), &task.StateRequest{ID: c.id, ExecID: "nope"})
		c.note("state unknown exec", nil, err)
		_, err = c.shim.Start(c.ctx(), &task.StartRequest{ID: c.id, ExecID: "nope"})
		c.note("start unknown exec", nil, err)
		_, err = c.shim.Kill(c.ctx(), &task.KillRequest{ID: c.id, ExecID: "nope", Signal: 9})
		c.note("kill unknown exec", nil, err)
		_, err = c.shim.Wait(c.ctx(), &task.WaitRequest{ID: c.id, ExecID: "nope"})
		c.note("wait unknown exec", nil, err)
		_, err = c.shim.Delete(c.ctx(), &task.DeleteRequest{ID: c.id, ExecID: "nope"})
		c.note("delete unknown exec", nil, err)
		_, err = c.shim.CloseIO(c.ctx(), &task.CloseIORequest{ID: c.id, ExecID: "nope", Stdin: true})
		c.note("closeIO unknown exec", nil, err)
	}},
	{"shutdown with a container", func(c *caller) {
		c.begin(harness.HandConfig{})
		_, err := c.shim.Shutdown(c.ctx(), &task.ShutdownRequest{ID: c.id})
		c.note("shutdown with a container", nil, err)
		c.state("after shutdown")
	}},
	{"bad bundles", func(c *caller) {
		// One shim, whose own container stays, is asked for others.
		c.begin(harness.HandConfig{})
		first := c.shim
		for _, bad := range badConfigs {
			h := c.ByHand(harness.HandConfig{Config: &bad.config, RootFS: first.RootFS, Shim: first})
			c.id = h.ID
			_, err := h.Create(c.ctx())
			c.note("create: "+bad.name, nil, err)
			c.state("after: " + bad.name)
		}
		c.id = "gone"
		_, err := first.Shim.Create(c.ctx(), &task.CreateTaskRequest{ID: c.id, Bundle: "/no/such/bundle"})
		c.note("create: bundle does not exist", nil, err)
		c.state("after it")
		h := c.ByHand(harness.HandConfig{Args: []string{"/bin/true"}, RootFS: first.RootFS, Shim: first})
		for _, bad := range []struct {
			name    string
			request *task.CreateTaskRequest
		}{
			{"options of an unknown type", &task.CreateTaskRequest{ID: h.ID, Options: &anypb.Any{TypeUrl: "no.such.type", Value: []byte("x")}}},
			{"no id", &task.CreateTaskRequest{ID: ""}},
			{"id is a path", &task.CreateTaskRequest{ID: "../x"}},
			{"no bundle", &task.CreateTaskRequest{ID: h.ID}},
			{"rootfs that cannot be mounted", &task.CreateTaskRequest{ID: h.ID, Rootfs: []*types.Mount{{Type: "bind", Source: "/no/such/dir", Options: []string{"bind"}}}}},
			{"stdout that does not exist", &task.CreateTaskRequest{ID: h.ID, Rootfs: h.Request().Rootfs, Stdout: "/no/such/fifo"}},
			{"stdout of an unknown scheme", &task.CreateTaskRequest{ID: h.ID, Rootfs: h.Request().Rootfs, Stdout: "nope:///x"}},
			{"terminal without a stdout", &task.CreateTaskRequest{ID: h.ID, Rootfs: h.Request().Rootfs, Terminal: true}},
		} {
			if bad.name != "no bundle" {
				bad.request.Bundle = h.Bundle
			}
			c.id = bad.request.ID
			_, err := first.Shim.Create(c.ctx(), bad.request)
			c.note("create: "+bad.name, nil, err)
			c.state("after: " + bad.name)
			if err == nil {
				c.kill("of it", 9, false)
				c.wait("of it")
				c.delete("of it")
			}
		}
	}},
	{"start command", func(c *caller) {
		for _, bad := range badConfigs[:3] {
			_, err := c.TryByHand(harness.HandConfig{Config: &bad.config})
			c.note("shim start: "+bad.name, nil, err)
		}
	}},
	{"through containerd", func(c *caller) {
		container, err := c.NewContainer(c.Ctx, harness.Config{Runtime: c.Runtime, Image: smoke.Image(c.T), Args: []string{"/bin/nope"}})
		require.NoError(c, err)
		task, err := container.NewTask(c.Ctx, nullIO)
		c.note("create: no such program", nil, err)
		if err == nil {
			c.note("start: no such program", nil, task.Start(c.Ctx))
			_, err := task.Delete(c.Ctx)
			c.note("delete", nil, err)
		}
		require.NoError(c, container.Delete(c.Ctx, client.WithSnapshotCleanup))
		container, err = c.NewContainer(c.Ctx, harness.Config{Runtime: c.Runtime, Image: smoke.Image(c.T), Args: []string{"/etc"}})
		require.NoError(c, err)
		task, err = container.NewTask(c.Ctx, nullIO, client.WithRootFS([]mount.Mount{{Type: "bind", Source: "/no/such/dir", Options: []string{"bind"}}}))
		c.note("create: rootfs cannot be mounted", nil, err)
		if err == nil {
			_, err := task.Delete(c.Ctx)
			c.note("delete", nil, err)
		}
		require.NoError(c, container.Delete(c.Ctx, client.WithSnapshotCleanup))
		for _, program := range []string{"/etc", "/etc/data", "relative", ""} {
			container, err = c.NewContainer(c.Ctx, harness.Config{Runtime: c.Runtime, Image: smoke.Image(c.T), Opts: []oci.SpecOpts{oci.WithProcessArgs(program)}})
			require.NoError(c, err)
			task, err = container.NewTask(c.Ctx, nullIO)
			c.note(fmt.Sprintf("create: program is %q", program), nil, err)
			if err == nil {
				c.note("start", nil, task.Start(c.Ctx))
				_, err := task.Delete(c.Ctx, client.WithProcessKill)
				c.note("delete", nil, err)
			}
			require.NoError(c, container.Delete(c.Ctx, client.WithSnapshotCleanup))
		}
	}},
}

var containerID = regexp.MustCompile(`/c[0-9]+`)

// record runs one case on a runtime.
func record(t *testing.T, runtime string, run func(c *caller)) []step {
	c := &caller{T: harness.New(t, runtime)}
	run(c)
	for i := range c.steps {
		c.steps[i].message = containerID.ReplaceAllString(strings.ReplaceAll(c.steps[i].message, c.Dir, "DIR"), "/ID")
	}
	return c.steps
}

// otherwise is an answer that is not runc's.
type otherwise struct {
	code    codes.Code
	message string
}

// Where runc's shim answers without a code (Unknown), or differently for its own
// reasons, this is what ours answers: the code and a part of the message.
var ours = map[string]otherwise{
	"wait killed before start":       {codes.OK, "exit 143"}, // runc's init is a Go program, which exits with 2
	"state killed before start":      {codes.OK, "STOPPED exit 143"},
	"delete killed before start":     {codes.OK, "exit 143"},
	"start killed before start":      {codes.FailedPrecondition, "it is stopped"},
	"start twice":                    {codes.FailedPrecondition, "it is running"},
	"start exited":                   {codes.FailedPrecondition, "it is stopped"},
	"delete running":                 {codes.FailedPrecondition, "it is running"},
	"delete created, never started":  {codes.OK, "exit 137"},
	"delete outer with a nested one": {codes.FailedPrecondition, "of others are in cgroups below it"},
	"state deleted":                  {codes.NotFound, "not found"},
	"kill 999 999":                   {codes.InvalidArgument, "999"},
	"create of an existing id":       {codes.AlreadyExists, "exists"},
	"create of a running id":         {codes.AlreadyExists, "exists"},
	"closeIO unknown exec":           {codes.NotFound, "nope"},

	"create: no config.json":                    {codes.NotFound, "config.json: no such file"},
	"create: config.json is empty":              {codes.InvalidArgument, "config.json: unexpected end of JSON"},
	"create: config.json is no JSON":            {codes.InvalidArgument, "config.json: unexpected end of JSON"},
	"create: config.json without process":       {codes.InvalidArgument, "config.json has no process"},
	"create: config.json without root":          {codes.InvalidArgument, "config.json has no root.path"},
	"create: config.json with an empty root":    {codes.InvalidArgument, "config.json has no root.path"},
	"create: config.json without args":          {codes.InvalidArgument, "process.args is empty"},
	"create: config.json without cwd":           {codes.InvalidArgument, "process.cwd is empty"},
	"create: config.json with a relative cwd":   {codes.InvalidArgument, `process.cwd is "x"`},
	"create: config.json with an env without =": {codes.InvalidArgument, "="},
	"create: no such entrypoint":                {codes.NotFound, "/bin/nope does not exist in the container"},
	"create: entrypoint is a directory":         {codes.InvalidArgument, "/etc is a directory"},
	"create: entrypoint not executable":         {codes.InvalidArgument, `"/etc/data" is neither a native program (ELF or #!) nor something that wasmtime runs`},
	"create: options of an unknown type":        {codes.InvalidArgument, "no.such.type"},
	"create: no id":                             {codes.InvalidArgument, "is not a name"},
	"create: id is a path":                      {codes.InvalidArgument, "is not a name"},
	"create: no bundle":                         {codes.InvalidArgument, "is not an absolute path"},
	"create: rootfs that cannot be mounted":     {codes.Unknown, "mount root file system"},
	"create: stdout that does not exist":        {codes.NotFound, "/no/such/fifo"},
	"create: stdout of an unknown scheme":       {codes.InvalidArgument, "nope://"},
	"create: terminal without a stdout":         {codes.InvalidArgument, "both must say the same"},

	"shim start: no config.json":         {codes.Unknown, "config.json: no such file"}, // an exit code: there are no others
	"shim start: config.json is empty":   {codes.Unknown, "config.json: unexpected end of JSON"},
	"shim start: config.json is no JSON": {codes.Unknown, "config.json: unexpected end of JSON"},

	// A containerd that starts forgets the tasks of shims without a process.
	"pids exited": {codes.OK, "1"},

	"create: no such program":          {codes.NotFound, "/bin/nope does not exist in the container"},
	"create: rootfs cannot be mounted": {codes.Unknown, "mount root file system"},
	`create: program is "/etc"`:        {codes.InvalidArgument, "/etc is a directory"},
	`create: program is "/etc/data"`:   {codes.InvalidArgument, "neither a native program"},
	`create: program is "relative"`:    {codes.NotFound, "no such file in PATH"},
	`create: program is ""`:            {codes.InvalidArgument, "the first argument is empty"},
}

// TestLikeRunc asks both shims the same and wants the same answers, but for
// the ones above. Run it with -v for the table.
func TestLikeRunc(t *testing.T) { likeRunc(t, cases, ours) }

func likeRunc(t *testing.T, cases []likeRuncCase, ours map[string]otherwise) {
	for _, test := range cases {
		t.Run(test.name, func(t *testing.T) {
			theirs := map[string]step{}
			t.Run("runc", func(t *testing.T) {
				for _, s := range record(t, smoke.Runc, test.run) {
					theirs[s.call] = s
				}
			})
			t.Run("ours", func(t *testing.T) {
				for _, got := range record(t, smoke.Ours, test.run) {
					t.Logf("\nruncs: %v\nours:  %v", theirs[got.call], got)
					if want, ok := ours[got.call]; ok {
						assert.Equal(t, want.code.String(), got.code.String(), got.call)
						assert.Contains(t, got.message, want.message, got.call)
						continue
					}
					want := theirs[got.call]
					assert.Equal(t, want.code.String(), got.code.String(), got.call)
					if want.code == codes.OK {
						assert.Equal(t, want.message, got.message, got.call)
					} else {
						assert.NotEqual(t, codes.Unknown.String(), got.code.String(), got.call)
					}
				}
			})
		})
	}
}
