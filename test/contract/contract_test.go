// SPDX-License-Identifier: Apache-2.0

// Package contract says what any shim must do that containerd starts: it plays
// containerd's part itself, the events service included, so that nothing stands
// between a shim and its test.
//
// The same cases run on runc's shim, which shows that they are right, and on ours,
// with native programs and with guests. Where the two differ, differences says
// which is right and why.
//
// With WASMSHIM_CONTRACT_RUNTIME, which names a runtime as containerd does
// (io.containerd.crun.v1, say), they run on that one's shim alone, as found in PATH,
// with native programs.
package contract

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	types "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

var (
	place  *harness.Place // nil when not root
	events *harness.Events
)

func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		os.Exit(m.Run()) // TestContract skips
	}
	var err error
	if place, err = harness.NewPlace(harness.Containerd24); err == nil {
		events, err = place.ServeEvents()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(harness.RunAndStop(m, func() error {
		events.Close()
		return place.Clear()
	}, func() {}))
}

// programs are what containers and execs run.
type programs struct {
	native bool
	exit   func(code int) []string
	sleep  []string // prints ready, and stays
	cat    []string
}

var native = programs{
	native: true,
	exit:   func(code int) []string { return shell(fmt.Sprint("exit ", code)) },
	sleep:  shell("echo ready; exec sleep 1000"),
	cat:    []string{"/bin/cat"},
}

var guest = programs{
	exit: func(code int) []string {
		if code == 0 {
			return []string{"/hello.wasm"}
		}
		return append([]string{"/exit.wasm"}, make([]string, code)...) // counts its arguments
	},
	sleep: []string{"/sleep.wasm"},
	cat:   []string{"/cat.wasm"},
}

func shell(script string) []string { return []string{"/bin/sh", "-c", script} }

// setup is a shim with what its containers and their execs are.
type setup struct {
	name        string
	runtime     string
	init, execs programs
}

var setups = []setup{
	{"runc", smoke.Runc, native, native},
	{"ours", smoke.Ours, native, native},
	{"ours, guests", smoke.Ours, guest, guest},
	{"ours, native execs in guests", smoke.Ours, guest, native},
	{"ours, guests as execs", smoke.Ours, native, guest},
}

// A test is one case. It asks for programs as c.init and c.execs have them, or
// gives commands of its own, which are native.
type test struct {
	name string
	// natives says which of its programs are native of necessity.
	natives natives
	run     func(c *contract)
}

type natives int

const (
	none natives = iota
	execs
	both // and the container's own
	// noExecs is for cases that have none.
	noExecs
)

func (t test) applies(s setup) bool {
	guestInit, guestExecs := !s.init.native, !s.execs.native
	switch t.natives {
	case execs:
		return !guestExecs
	case both:
		return !guestExecs && !guestInit
	case noExecs:
		return guestInit == guestExecs
	default:
		return true
	}
}

var groups = []struct {
	name  string
	tests []test
}{
	{"run", runs},
	{"exec", execTests},
	{"storm", storms},
	{"oom", ooms},
	{"terminal", terminals},
	{"pause", pauses},
	{"update", updates},
	{"stats", stats},
}

func TestContract(t *testing.T) {
	if place == nil {
		t.Skip("needs root: shims make namespaces, mounts and cgroups")
	}
	root, err := place.RootFS(smoke.Files(t))
	require.NoError(t, err)
	setups := setups
	if runtime := os.Getenv("WASMSHIM_CONTRACT_RUNTIME"); runtime != "" {
		setups = []setup{{runtime, runtime, native, native}}
	}
	for _, s := range setups {
		t.Run(s.name, func(t *testing.T) {
			if _, err := place.ShimBinary(s.runtime); err != nil {
				t.Fatalf("%v (run make deps shim first)", err)
			}
			for _, group := range groups {
				t.Run(group.name, func(t *testing.T) {
					for _, one := range group.tests {
						if !one.applies(s) {
							continue
						}
						t.Run(one.name, func(t *testing.T) { s.test(t, group.name, one, root) })
					}
				})
			}
		})
	}
}

func (s setup) test(t *testing.T, group string, one test, root string) {
	ctx, cancel := context.WithTimeout(place.In(context.Background()), harness.Slow(30*time.Second))
	t.Cleanup(cancel)
	before := place.Snapshot()
	c := &contract{T: t, setup: s, ctx: ctx, name: group + "/" + one.name, root: root}
	t.Cleanup(func() {
		if left := place.Leaks(before); len(left) > 0 {
			t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
		}
	})
	one.run(c)
}

// contract is a case on a shim, with its container.
type contract struct {
	*testing.T
	setup
	ctx  context.Context
	name string // of the case, as differences has it
	root string
	*harness.ByHand
	pid uint32 // of the container's init
}

// with changes a spec.
func with(change func(*oci.Spec)) oci.SpecOpts { return harness.WithSpec(change) }

// create makes a container.
func (c *contract) create(args []string, opts ...oci.SpecOpts) {
	c.Helper()
	c.createAs(harness.HandConfig{Args: args, Opts: opts})
}

func (c *contract) createAs(config harness.HandConfig) {
	c.Helper()
	config.Runtime, config.RootFS = c.runtime, c.root
	config.Opts = append([]oci.SpecOpts{oci.WithDefaultPathEnv, oci.WithEnv([]string{"PATH=/bin"})}, config.Opts...)
	h, err := place.ByHand(c.ctx, config)
	require.NoError(c, err)
	c.Cleanup(func() {
		assert.NoError(c, h.Close(c.ctx))
		if text := h.Log.String(); c.Failed() && text != "" {
			c.Logf("%s's shim:\n%s", h.ID, text)
		}
	})
	c.ByHand = h
	r, err := h.Create(c.ctx)
	require.NoError(c, err)
	require.NotZero(c, r.Pid)
	c.pid = r.Pid
}

// run makes a container and starts it.
func (c *contract) run(args []string, opts ...oci.SpecOpts) {
	c.Helper()
	c.create(args, opts...)
	c.start("")
}

// sleeper runs a container that stays.
func (c *contract) sleeper(opts ...oci.SpecOpts) {
	c.Helper()
	c.run(c.init.sleep, opts...)
	c.printed(c.Streams, "ready")
}

func (c *contract) printed(s *harness.Streams, text string) {
	c.Helper()
	require.NoError(c, s.Stdout.WaitFor(text, 10*time.Second), "stderr: %s", s.Stderr)
}

// The calls, which must succeed. exec is an exec's id, "" for the container.

func (c *contract) start(exec string) uint32 {
	c.Helper()
	r, err := c.Start(c.ctx, &task.StartRequest{ID: c.ID, ExecID: exec})
	require.NoError(c, err)
	return r.Pid
}

func (c *contract) state(exec string) *task.StateResponse {
	c.Helper()
	r, err := c.State(c.ctx, &task.StateRequest{ID: c.ID, ExecID: exec})
	require.NoError(c, err)
	return r
}

func (c *contract) wait(exec string) *task.WaitResponse {
	c.Helper()
	r, err := c.Wait(c.ctx, &task.WaitRequest{ID: c.ID, ExecID: exec})
	require.NoError(c, err)
	return r
}

func (c *contract) exits(exec string, code int) {
	c.Helper()
	require.Equal(c, code, int(c.wait(exec).ExitStatus), "the exit code of %q", exec)
}

func (c *contract) kill(exec string, signal int) {
	c.Helper()
	_, err := c.Kill(c.ctx, &task.KillRequest{ID: c.ID, ExecID: exec, Signal: uint32(signal)})
	require.NoError(c, err)
}

func (c *contract) delete(exec string) *task.DeleteResponse {
	c.Helper()
	r, err := c.Delete(c.ctx, &task.DeleteRequest{ID: c.ID, ExecID: exec})
	require.NoError(c, err)
	return r
}

// end kills the container and deletes it.
func (c *contract) end() {
	c.Helper()
	c.kill("", 9)
	c.wait("")
	c.delete("")
}

// What the calls say when they must not succeed.

func (c *contract) stateErr(exec string) error {
	_, err := c.State(c.ctx, &task.StateRequest{ID: c.ID, ExecID: exec})
	return err
}

func (c *contract) startErr(exec string) error {
	_, err := c.Start(c.ctx, &task.StartRequest{ID: c.ID, ExecID: exec})
	return err
}

func (c *contract) killErr(exec string) error {
	_, err := c.Kill(c.ctx, &task.KillRequest{ID: c.ID, ExecID: exec, Signal: 9})
	return err
}

func (c *contract) deleteErr(exec string) error {
	_, err := c.Delete(c.ctx, &task.DeleteRequest{ID: c.ID, ExecID: exec})
	return err
}

func (c *contract) waitErr(exec string) error {
	_, err := c.Wait(c.ctx, &task.WaitRequest{ID: c.ID, ExecID: exec})
	return err
}

// status compares a process's state.
func (c *contract) status(exec string, want types.Status) {
	c.Helper()
	require.Equal(c, want.String(), c.state(exec).Status.String(), "state of %q", exec)
}

// same compares what a shim did with what is right. Runc's may do what
// differences says instead. A case goes on after it.
func (c *contract) same(what string, want, got any) {
	c.Helper()
	if c.runtime == smoke.Runc {
		if d, ok := differences[c.name+": "+what]; ok {
			seen[c.name+": "+what] = true
			for _, other := range d.runcs {
				if assert.ObjectsAreEqual(other, got) {
					return
				}
			}
			if !d.sometimes {
				assert.Contains(c, d.runcs, got, "%s: runc's shim has changed", what)
				return
			}
		}
	}
	assert.Equal(c, want, got, what)
}

// cannot says whether a case is not for this shim: runc's would not live through it.
func (c *contract) cannot(what string) bool {
	key := c.name + ": " + what
	d, ok := differences[key]
	seen[key] = seen[key] || c.runtime == smoke.Runc
	return ok && d.dies && c.runtime == smoke.Runc
}

// refused compares an error's code.
func (c *contract) refused(what string, want codes.Code, err error) {
	c.Helper()
	c.same(what, want.String(), code(err))
	if err != nil {
		c.Logf("%s: %v", what, err)
	}
}

func code(err error) string { return status.Code(errgrpc.ToGRPC(err)).String() }

// eventually waits until something is so.
func (c *contract) eventually(what string, so func() bool) {
	c.Helper()
	require.Eventually(c, so, harness.Slow(10*time.Second), 2*time.Millisecond, what)
}

// file is a file's text.
func file(c *contract, path string) string {
	c.Helper()
	text, err := os.ReadFile(path)
	require.NoError(c, err)
	return strings.TrimSpace(string(text))
}

// entries are the names in a directory.
func entries(c *contract, dir string) []string {
	c.Helper()
	all, err := os.ReadDir(dir)
	require.NoError(c, err)
	var names []string
	for _, one := range all {
		names = append(names, one.Name())
	}
	return names
}

// link is where a link of a process in /proc leads.
func link(c *contract, pid uint32, name string) string {
	c.Helper()
	target, err := os.Readlink(fmt.Sprintf("/proc/%d/%s", pid, name))
	require.NoError(c, err)
	return target
}
