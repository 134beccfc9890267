// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/libwasmshim/libwasmshim/shim/internal/landlock"
	"github.com/libwasmshim/libwasmshim/shim/internal/stage"
)

// Exit codes of a container whose guest did not run to its end; cabi/cabi.h has
// the same.
const (
	exitError  = 125
	exitLoad   = 126
	exitTrap   = 134
	exitSignal = 128
)

// hiddenEnv says that Landlock's rules are in force already.
const hiddenEnv = "_WASMSHIM_HIDDEN"

// guest is the runner's process: the engine with its container.
type guest struct {
	engine    Engine
	name      string
	stoppedBy atomic.Int32 // the first signal
	tell      bool         // the daemon listens
}

// runner plays a process of the container, as cabi/runner.c does for an
// engine in C, and returns its exit code.
func runner(e Engine) int {
	g := &guest{engine: e, name: e.Describe().Name}
	g.catchSignals()
	unix.CloseOnExec(stage.FDStatus)
	var st unix.Stat_t
	g.tell = unix.Fstat(stage.FDStatus, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFSOCK
	c, err := readStage()
	if err != nil {
		return g.fail(StageLoad, exitError, fmt.Errorf("context: %w", err))
	}
	if err := g.hide(c); err != nil {
		return g.fail("sandbox", exitError, err)
	}
	if err := setLimits(c.Rlimits); err != nil {
		return g.fail(StageRun, exitError, err)
	}
	unix.Close(stage.FDExe)
	unix.Close(stage.FDStage)
	for _, fd := range readable(c)[1:] {
		unix.CloseOnExec(fd)
	}
	os.Clearenv()
	name, _ := unix.BytePtrFromString(c.Name)
	if name != nil {
		_ = unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(name)), 0, 0, 0)
	}
	return g.run(g.context(c))
}

func readStage() (*stage.Context, error) {
	var st unix.Stat_t
	if err := unix.Fstat(stage.FDStage, &st); err != nil {
		return nil, errors.New("none on descriptor 4: this process is started by containerd only")
	}
	b := make([]byte, st.Size)
	if _, err := unix.Pread(stage.FDStage, b, 0); err != nil {
		return nil, err
	}
	return stage.Decode(b)
}

// hide takes the hidden paths away. Landlock's rules are for one thread, and
// for what it executes: this binary, again.
func (g *guest) hide(c *stage.Context) error {
	if len(c.Hidden) == 0 || os.Getenv(hiddenEnv) != "" {
		return nil
	}
	err := landlock.Hide(c.Hidden, readable(c)...)
	if err == nil {
		if _, err = unix.FcntlInt(stage.FDStatus, unix.F_SETFD, 0); err == nil {
			err = unix.Exec(stage.Exe, os.Args, []string{stage.RoleEnv, hiddenEnv + "=1"})
		}
	} else if !c.MustHide {
		level := "warn"
		if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EOPNOTSUPP) {
			level = "debug" // the kernel has no Landlock
		}
		g.context(c).Log(level, "%s is read-only, and not hidden from the guest: %v", c.Hidden[0], err)
		return nil
	}
	return fmt.Errorf("cannot hide %s from the guest: %w; set guest_proc to readonly to run without", c.Hidden[0], err)
}

// goAddresses is what Go's runtime reserves of addresses, and some more.
const goAddresses = 2 << 30

// setLimits sets what libcontainer's init, of which this process was made, could not
// have lived with.
func setLimits(limits []stage.Rlimit) error {
	for _, l := range limits {
		if l.Resource == unix.RLIMIT_AS && l.Soft < goAddresses {
			return fmt.Errorf("the container limits its address space (RLIMIT_AS) to %d bytes, and an engine in Go takes %d: remove it; the container's limit on memory holds", l.Soft, goAddresses)
		}
		if err := unix.Setrlimit(int(l.Resource), &unix.Rlimit{Cur: l.Soft, Max: l.Hard}); err != nil {
			return fmt.Errorf("cannot set the limit %d of setrlimit(2) to %d, %d: %w", l.Resource, l.Soft, l.Hard, err)
		}
	}
	return nil
}

// readable are the descriptors that stay readable by their names in /proc: this
// binary, layers and artifacts.
func readable(c *stage.Context) []int {
	fds := []int{stage.FDExe}
	for _, l := range c.Layers {
		for _, fd := range []uint32{l.FD, l.Artifact} {
			if fd != 0 {
				fds = append(fds, int(fd))
			}
		}
	}
	return fds
}

func (g *guest) context(c *stage.Context) *RuntimeContext {
	rc := &RuntimeContext{
		ContainerID: c.ID, PodID: cmp.Or(c.Pod, c.ID), Namespace: c.Namespace, ExecID: c.ExecID,
		Args: c.Args, Env: c.Env, Cwd: cmp.Or(c.Cwd, "/"),
		Entrypoint: Entrypoint{Func: cmp.Or(c.Func, "_start"), Name: c.Name},
		Source:     Source{File: c.Path}, Layers: layers(c), Kind: Kind(c.Kind), Options: map[string]string{},
		Preopens: c.Preopens, MemoryLimit: c.Memory, CPULimit: c.CPU,
	}
	if len(c.Args) > 0 {
		rc.Entrypoint.Arg0 = c.Args[0]
	}
	if len(rc.Preopens) == 0 && !c.NoPreopens {
		rc.Preopens = []Preopen{{Host: "/", Guest: "/"}}
	}
	for _, kv := range c.Options {
		key, value, _ := strings.Cut(kv, "=")
		rc.Options[key] = value
	}
	most := slices.Index(LogLevels, cmp.Or(c.LogLevel, "info")) + 1
	rc.log = func(level int, message string) {
		switch {
		case level > most:
		case g.tell:
			send(byte(level), message)
		default:
			fmt.Fprintf(os.Stderr, "%s: %s: %s\n", g.name, LogLevels[level-1], message)
		}
	}
	return rc
}

func (g *guest) run(rc *RuntimeContext) int {
	if rc.Kind&g.engine.Describe().Kinds == 0 {
		return g.failed(ErrUnsupported)
	}
	if h, ok := g.engine.(Handler); ok && rc.Kind == KindOther && !h.CanHandle(rc) {
		return g.failed(ErrUnsupported)
	}
	code, err := g.engine.RunWasi(rc)
	if err == nil {
		return code & 0xff
	}
	// Whatever a stopped guest fails with, the signal is the reason.
	if sig := g.stoppedBy.Load(); sig != 0 {
		return exitSignal + int(sig)
	}
	return g.failed(err)
}

func (g *guest) failed(err error) int {
	code, at := exitCode(err)
	return g.fail(at, code, err)
}

// fail says what went wrong, and where: as data to the daemon, which never
// makes us wait, and as text on the container's stderr.
func (g *guest) fail(at Stage, code int, err error) int {
	send(stage.SayFailed, string(at)+"\x00"+err.Error())
	_, _ = io.WriteString(os.Stderr, g.name+": "+err.Error()+"\n")
	return code
}

// send gives the daemon a message, or drops it where there is no room.
func send(kind byte, text string) {
	message := append([]byte{kind}, text...)
	_ = unix.Sendto(stage.FDStatus, message[:min(len(message), stage.MaxMessage)], unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, nil)
}

// terminating are the signals that terminate by default and are not raised by a
// fault. A first process ignores what it has no handler for.
func terminating() []os.Signal {
	list := []os.Signal{
		syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGABRT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGALRM, syscall.SIGTERM,
		syscall.SIGXCPU, syscall.SIGXFSZ, syscall.SIGVTALRM, syscall.SIGPROF, syscall.SIGIO, syscall.SIGPWR, syscall.SIGSTKFLT,
	}
	for s := syscall.Signal(34); s <= 64; s++ {
		list = append(list, s)
	}
	return list
}

func (g *guest) catchSignals() {
	signals := make(chan os.Signal, 64)
	signal.Notify(signals, terminating()...)
	// A write to a closed stream says EPIPE.
	signal.Ignore(syscall.SIGPIPE)
	go func() {
		for s := range signals {
			g.stop(s.(syscall.Signal))
		}
	}()
}

// stop ends the process, unless the engine ends the guest. A second signal does
// not wait for the first one's deadline, nor for Stop to return.
func (g *guest) stop(sig syscall.Signal) {
	// Before the engine is asked: however the guest ends then, this is why.
	if !g.stoppedBy.CompareAndSwap(0, int32(sig)) {
		os.Exit(exitSignal + int(g.stoppedBy.Load()))
	}
	s, ok := g.engine.(Stopper)
	if !ok {
		os.Exit(exitSignal + int(sig))
	}
	go func() {
		deadline, handled := s.Stop(sig)
		if !handled {
			os.Exit(exitSignal + int(sig))
		}
		time.AfterFunc(deadline, func() { os.Exit(exitSignal + int(sig)) })
	}()
}
