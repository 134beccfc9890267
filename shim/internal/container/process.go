// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"
)

// process is a child of this process, waited for by one goroutine.
type process struct {
	pid      int
	pidfd    *os.File
	terminal atomic.Pointer[os.File] // the daemon's end, until it is taken

	reaped chan struct{} // closed once exit and err are set
	done   chan struct{} // closed once everybody may know
	exit   Exit
	err    error
}

func newChild(lp *libcontainer.Process) (*process, error) {
	pid, err := lp.Pid()
	if err != nil {
		return nil, fmt.Errorf("read process id: %w", err)
	}
	// The child is not reaped yet, so this is its pid and nobody else's.
	pidfd, err := openPidfd(pid)
	if err != nil {
		return nil, err
	}
	return &process{pid: pid, pidfd: pidfd, reaped: make(chan struct{}), done: make(chan struct{})}, nil
}

func (p *process) takeTerminal() *os.File { return p.terminal.Swap(nil) }

func openPidfd(pid int) (*os.File, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.EINVAL) { // the flag came with Linux 5.10
		if fd, err = unix.PidfdOpen(pid, 0); err == nil {
			err = unix.SetNonblock(fd, true)
		}
	}
	if err != nil {
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	return os.NewFile(uintptr(fd), "pidfd"), nil
}

// reap waits for the child, takes its status and runs last before anybody
// learns of the exit.
func (p *process) reap(last func()) {
	p.park()
	ws, err := p.waitNow()
	p.exit = Exit{Status: status(ws), At: time.Now()}
	if ws.Signaled() {
		p.exit.Signal = ws.Signal()
	}
	if err != nil {
		p.exit.Status = 255
		p.err = fmt.Errorf("wait for process %d: %w", p.pid, err)
	}
	p.pidfd.Close()
	disown(p)
	close(p.reaped)
	last()
	close(p.done)
}

// waitNow takes the exit status of the child, the only wait(2) for it.
func (p *process) waitNow() (ws syscall.WaitStatus, err error) {
	for {
		_, err = syscall.Wait4(p.pid, &ws, 0, nil)
		if !errors.Is(err, syscall.EINTR) {
			return ws, err
		}
	}
}

// park waits in Go's poller until the child has exited, because a blocking
// wait(2) costs the daemon one thread per process.
func (p *process) park() {
	conn, err := p.pidfd.SyscallConn()
	if err != nil {
		return
	}
	_ = conn.Read(func(fd uintptr) bool { return exited(int(fd)) })
}

// exited tells whether the pidfd's process can be waited for.
func exited(pidfd int) bool {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return n > 0 || (err != nil && !errors.Is(err, unix.EINTR))
}

func status(ws syscall.WaitStatus) int {
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}

func (p *process) wait(ctx context.Context) (Exit, error) {
	select {
	case <-p.done:
		return p.exit, p.err
	default:
	}
	select {
	case <-p.done:
		return p.exit, p.err
	case <-ctx.Done():
		return Exit{}, ctx.Err()
	}
}

// dead tells whether the process has ended, reaped or not.
func (p *process) dead() bool {
	return errors.Is(p.signal(0), errdefs.ErrNotFound)
}

// dying tells whether the process is dead or on its way: the init of a pid
// namespace waits for all processes in it before it becomes a zombie.
func (p *process) dying() bool {
	const exiting = 4 // PF_EXITING
	if p.dead() {
		return true
	}
	s, err := readStat(p.pid)
	return err != nil || s.flags&exiting != 0
}

func (p *process) signal(sig syscall.Signal) error {
	gone := fmt.Errorf("process %d has finished: %w", p.pid, errdefs.ErrNotFound)
	if closed(p.reaped) {
		return gone
	}
	err := p.kill(sig)
	if errors.Is(err, os.ErrProcessDone) || errors.Is(err, unix.ESRCH) {
		return gone
	}
	if err != nil {
		return fmt.Errorf("signal process %d: %w", p.pid, err)
	}
	return nil
}

func (p *process) kill(sig syscall.Signal) error {
	conn, err := p.pidfd.SyscallConn()
	if err != nil {
		return os.ErrProcessDone
	}
	if cerr := conn.Control(func(fd uintptr) {
		if exited(int(fd)) { // a zombie takes signals without complaint
			err = os.ErrProcessDone
			return
		}
		err = unix.PidfdSendSignal(int(fd), sig, nil, 0)
	}); cerr != nil {
		return os.ErrProcessDone // closed, so reaped
	}
	return err
}

func closed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}
