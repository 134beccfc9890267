// SPDX-License-Identifier: Apache-2.0

//go:build !libwasmshim

// In the C library the stage in the container is a Go program of its own,
// cmd/libwasmshim-init.

package shim

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/libwasmshim/libwasmshim/shim/internal/bootstrap"
	"github.com/libwasmshim/libwasmshim/shim/internal/initstage"
	"github.com/libwasmshim/libwasmshim/shim/internal/stage"
)

// resultEnv names, in the environment of a daemon that was just started, the
// descriptor on which it answers.
const resultEnv = "_WASMSHIM_RESULT"

// Run is the whole program of an engine in Go: main calls it, first thing, and
// it does not return. It decides by arguments and environment which of the
// shim's processes this one is.
//
// Build with the tags netgo, osusergo and seccomp, as a static binary: it is
// executed in the container's empty root.
func Run(e Engine, c Config) {
	os.Exit(run(e, c))
}

func run(e Engine, c Config) int {
	args := os.Args[1:]
	switch {
	// The role is looked at first: a container's arguments may be anything.
	case hasRole(stage.RoleEnv):
		return runner(e)
	case hasRole(stage.CompilerEnv):
		return compiler(e)
	case initstage.Wanted():
		initstage.Run()
		return 1
	case os.Getenv(resultEnv) != "":
		fd, err := strconv.Atoi(os.Getenv(resultEnv))
		if err != nil {
			return 1
		}
		os.Unsetenv(resultEnv)
		unix.CloseOnExec(fd)
		return Main(describe(e), c, &Start{Result: fd, Listener: -1})
	case bootstrap.Called(args) && args[len(args)-1] == "start":
		return start(args[:len(args)-1])
	}
	return Main(describe(e), c, nil)
}

func describe(e Engine) Descriptor {
	d := e.Describe()
	_, d.Compiles = e.(Compiler)
	return d
}

// start executes this binary again as the daemon and passes on its answer: one
// byte, the exit code, and a text.
func start(args []string) int {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, "start the shim daemon:", err)
		return 1
	}
	r, w, err := os.Pipe()
	if err != nil {
		return fail(err)
	}
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), resultEnv+"=3")
	cmd.Stdin = os.Stdin
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fail(err)
	}
	w.Close()
	os.Stdin.Close()
	answer, err := io.ReadAll(r)
	if err != nil {
		return fail(err)
	}
	if len(answer) == 0 {
		_ = cmd.Wait()
		return fail(fmt.Errorf("it ended before it answered (%s)", cmd.ProcessState))
	}
	out := os.Stdout
	if answer[0] != 0 {
		out = os.Stderr
	}
	if _, err := out.Write(answer[1:]); err != nil {
		return fail(err)
	}
	return int(answer[0])
}
