// SPDX-License-Identifier: Apache-2.0

// Package container runs OCI containers in this process with runc's
// libcontainer. It is the only package that imports libcontainer, whose Go API
// promises no stability.
//
// There is no process-wide reaper and no subreaper here, and there must be none
// in a program that uses this package: libcontainer waits for its own children,
// and a second waiter takes exits away from it at random.
//
// The process must not have a deleted working directory (chdir to "/" early):
// libcontainer asks the kernel for it.
package container

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	// Device rules of cgroups are compiled in only by this import.
	_ "github.com/opencontainers/cgroups/devices"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func init() {
	// libcontainer sends one thread per Create into the container's mount
	// namespace and ends it there. Go cannot end the first thread of a process, it
	// parks it: the namespace, and with it every mount of the container, would
	// live as long as the daemon. A thread locked to the main goroutine is never
	// chosen for that work.
	runtime.LockOSThread()
}

// Config says what container to create.
type Config struct {
	ID string
	// Root is the directory for libcontainer's state, which belongs to this
	// container alone and is removed with it; or a link, which is what is removed
	// then, to one that containers share.
	Root string
	// Bundle is what relative paths in the spec start from.
	Bundle        string
	Spec          *specs.Spec
	SystemdCgroup bool
	NoPivotRoot   bool
	NoNewKeyring  bool
}

// Process says what to run. Args and Env are used as they are; Spec has
// everything else (user, cwd, capabilities, limits), and the environment of hooks
// in the container. A nil stream is /dev/null. Where Spec asks for a terminal it is
// all three streams, of the size that Spec names.
type Process struct {
	Args, Env             []string
	Spec                  *specs.Process
	Stdin, Stdout, Stderr *os.File
	// ExtraFiles become descriptors 3, 4, ... of the process.
	ExtraFiles []*os.File
}

// Exit is how a process ended.
type Exit struct {
	// Status is 0-255, or 128+n after signal n.
	Status int
	Signal syscall.Signal // that has ended it; 0 if it has exited
	At     time.Time
}

// Container is a created container. Its methods may be called from any number
// of goroutines.
type Container struct {
	id     string
	root   string
	init   *process
	cgroup cgroup

	// lc is nil once the init is up, unless the container's end needs it. Its
	// config, seccomp profile and all, is most of what a container would cost the
	// daemon; Exec reads it from state.json.
	lc *libcontainer.Container

	// label is what execs get that ask for nothing else, where libcontainer cannot label
	// them; else nil.
	label *execLabel

	oom     oomWatch
	updates sync.Mutex  // held by an Update
	killed  atomic.Bool // the init was sent SIGKILL
	limits  atomic.Pointer[Limits]

	mu      sync.Mutex
	started bool               // guarded by mu
	deleted bool               // guarded by mu
	execs   map[*Exec]struct{} // not yet reaped, guarded by mu
}

// Limits returns the limits as Create or the last Update has set them.
func (c *Container) Limits() Limits { return *c.limits.Load() }

// Pid returns the init's process id as the host sees it.
func (c *Container) Pid() int { return c.init.pid }

// Terminal returns the daemon's end of the init's terminal, to be taken once and
// closed by the caller; nil where there is none.
func (c *Container) Terminal() *os.File { return c.init.takeTerminal() }

// OpenRoot opens the container's root directory as its processes see it, with
// everything that is mounted there now, as a descriptor for openat(2). The caller
// closes it. The error is errdefs.ErrFailedPrecondition once the init has ended.
func (c *Container) OpenRoot() (*os.File, error) {
	path := "/proc/" + strconv.Itoa(c.Pid()) + "/root"
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	// Asked afterwards: until then the id was the init's. One that is about to end has
	// no root directory any more.
	if c.init.dead() || err != nil && c.init.dying() {
		if err == nil {
			unix.Close(fd)
		}
		return nil, c.notRunning()
	}
	if err != nil {
		return nil, fmt.Errorf("open the root directory of container %s: %w", c.id, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// Wait waits for the init's exit, which is reported after the exits of all
// processes started by Exec, and after what WatchOOM has told of.
func (c *Container) Wait(ctx context.Context) (Exit, error) { return c.init.wait(ctx) }

// Signal sends sig to the init, or to every process of the container. The error
// is errdefs.ErrNotFound once there is nothing left to signal. SIGKILL goes to
// every process if the container has no pid namespace of its own, because then
// the kernel does not kill the others with the init.
func (c *Container) Signal(sig syscall.Signal, all bool) error {
	return c.signal(sig, all)
}
