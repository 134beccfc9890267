// SPDX-License-Identifier: Apache-2.0

package sandbox

// #cgo CFLAGS: -D_GNU_SOURCE -Wall -Wextra
import "C" // for waiter.c, which is this binary before Go

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// waiterEnv is the environment in which the binary is the waiting process.
const waiterEnv = "_WASMSHIM_ROLE=pod"

// startTimeout bounds how long the waiting process may take to be one.
const startTimeout = 10 * time.Second

// oomScore is what CRI gives a pause container: it is the last of a pod to be killed.
const oomScore = -998

// waiter is the process that holds a pod's namespaces.
type waiter struct {
	pid     int
	process *os.Process
	life    *os.File // while it is open, the process lives
	done    chan struct{}

	// What it has ended with; valid once done is closed.
	status int
	at     time.Time
}

// startWaiter makes a pod's namespaces. exe is the binary, which nothing in the pod can
// write to; dir is a directory for the process's empty root, of which nothing is seen
// outside.
func startWaiter(exe *os.File, id, dir string, c *config) (_ *waiter, retErr error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make socket for the waiting process: %w", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "waiter")
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		theirs.Close()
		return nil, fmt.Errorf("make socket for the waiting process: %w", err)
	}
	w := &waiter{life: os.NewFile(uintptr(fds[0]), "waiter"), done: make(chan struct{})}
	defer func() {
		if retErr != nil {
			w.life.Close() // and it ends
		}
	}()
	// The numbers are those that waiter.c knows.
	cmd := &exec.Cmd{
		Path: "/proc/self/fd/4", Args: []string{"wasmshim-pod", id}, Env: []string{waiterEnv}, Dir: "/",
		ExtraFiles: []*os.File{theirs, exe},
	}
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return nil, fmt.Errorf("execute the waiting process: %w", err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	users, closeUsers, err := c.usersToJoin()
	if err != nil {
		return nil, err
	}
	defer closeUsers()
	if _, err := w.life.Write(c.message(dir, users)); err != nil {
		return nil, fmt.Errorf("instruct the waiting process: %w", err)
	}
	if err := w.hear(cmd.Process.Pid, c); err != nil {
		if child, ferr := os.FindProcess(w.pid); w.pid != 0 && w.pid != cmd.Process.Pid && ferr == nil {
			_ = child.Kill()
			go func() { _, _ = child.Wait() }()
		}
		return nil, err
	}
	wait := func() (*os.ProcessState, error) { <-ended; return cmd.ProcessState, nil }
	if w.process = cmd.Process; w.pid != w.process.Pid {
		<-ended // it has left its child, the first process of the pod
		if w.process, err = os.FindProcess(w.pid); err != nil {
			return nil, fmt.Errorf("find the waiting process: %w", err)
		}
		wait = w.process.Wait
	}
	go w.await(wait)
	return w, setOOMScore(w.pid)
}

// message is what the waiting process has to do, as waiter.c reads it.
func (c *config) message(dir, users string) []byte {
	made, hostname := "", ""
	if !c.hostIPC {
		made += "i"
	}
	if !c.hostNetwork { // else the name is the host's
		made += "u"
		hostname = c.hostname
	}
	if !c.hostPID {
		made += "p"
	}
	all := []string{dir, c.network, users, made, strconv.FormatInt(c.uid, 10), strconv.FormatInt(c.gid, 10), hostname}
	for _, s := range c.sysctls {
		all = append(all, s.path(), s.value)
	}
	return []byte(strings.Join(all, "\x00") + "\x00")
}

// usersToJoin says which namespace of users the pod has: the one that its network
// belongs to, or a new one.
func (c *config) usersToJoin() (path string, done func(), _ error) {
	done = func() {}
	if c.uids == nil {
		return "", done, nil
	}
	if c.network == "" {
		return "new", done, nil
	}
	network, err := os.Open(c.network)
	if err != nil {
		return "", done, fmt.Errorf("open the pod's network namespace: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	defer network.Close()
	fd, err := unix.IoctlRetInt(int(network.Fd()), unix.NS_GET_USERNS)
	if err != nil {
		return "", done, fmt.Errorf("find the users that network namespace %s belongs to: %w: %w", c.network, err, errdefs.ErrInvalidArgument)
	}
	users := os.NewFile(uintptr(fd), "users")
	theirs, err := users.Stat()
	if err == nil {
		var host os.FileInfo
		if host, err = os.Stat("/proc/self/ns/user"); err == nil && os.SameFile(theirs, host) {
			users.Close()
			return "new", done, nil
		}
	}
	if err != nil {
		users.Close()
		return "", done, err
	}
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd), func() { users.Close() }, nil
}

// hear hears what the process says until it waits, and sets its pid.
func (w *waiter) hear(started int, c *config) error {
	if err := w.life.SetReadDeadline(time.Now().Add(startTimeout)); err != nil {
		return err
	}
	for ready := false; !ready || w.pid == 0; {
		buf := make([]byte, 512)
		n, err := w.life.Read(buf)
		if err != nil || n == 0 {
			return fmt.Errorf("the waiting process has ended before the pod was made (%v): %w", err, errdefs.ErrInternal) //nolint:errorlint // it may be nil
		}
		text := string(buf[1:n])
		switch buf[0] {
		case 'p':
			if w.pid, err = strconv.Atoi(text); err != nil {
				return err
			}
		case 'r':
			ready = true
		case 'u':
			if err := writeMappings(started, c); err != nil {
				return err
			}
			if _, err := w.life.Write([]byte{1}); err != nil {
				return fmt.Errorf("instruct the waiting process: %w", err)
			}
		default:
			return fmt.Errorf("make the pod's namespaces: %s: %w", text, errdefs.ErrFailedPrecondition)
		}
	}
	return w.life.SetReadDeadline(time.Time{})
}

// writeMappings gives a new namespace of users its mappings.
func writeMappings(pid int, c *config) error {
	for name, m := range map[string]*mapping{"uid_map": c.uids, "gid_map": c.gids} {
		line := fmt.Sprintf("%d %d %d\n", m.container, m.host, m.size)
		if err := os.WriteFile(filepath.Join("/proc", strconv.Itoa(pid), name), []byte(line), 0); err != nil {
			return fmt.Errorf("map the pod's users: %w: %w", err, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// setOOMScore gives the process a pause container's score, or, where lowering it is not
// allowed, leaves it the daemon's.
func setOOMScore(pid int) error {
	err := os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte(strconv.Itoa(oomScore)), 0)
	if errors.Is(err, os.ErrPermission) || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

func (w *waiter) await(wait func() (*os.ProcessState, error)) {
	state, err := wait()
	w.status, w.at = 255, time.Now()
	if err == nil && state != nil {
		w.status = state.ExitCode()
		if s, ok := state.Sys().(syscall.WaitStatus); ok && s.Signaled() {
			w.status = 128 + int(s.Signal())
		}
	}
	w.life.Close()
	close(w.done)
}

// kill ends the process, whatever it does.
func (w *waiter) kill() { _ = w.process.Kill() }

// sysctl is a setting of the kernel's for one of the pod's namespaces.
type sysctl struct{ name, value string }

// path is where it is below /proc/sys. A name has dots between its parts, or slashes;
// then the dots belong to a part, like an interface's name.
func (s sysctl) path() string {
	if i := strings.IndexAny(s.name, "./"); i >= 0 && s.name[i] == '/' {
		return s.name
	}
	return strings.NewReplacer(".", "/", "/", ".").Replace(s.name)
}

func sortSysctls(all map[string]string) (sorted []sysctl) {
	for name, value := range all {
		sorted = append(sorted, sysctl{name, value})
	}
	slices.SortFunc(sorted, func(a, b sysctl) int { return strings.Compare(a.name, b.name) })
	return sorted
}
