// SPDX-License-Identifier: Apache-2.0

package task

import (
	"debug/elf"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"github.com/libwasmshim/libwasmshim/shim/internal/container"
)

// sealedExe is the clone of this binary that runners execute, made once for a
// daemon.
type sealedExe struct {
	mu sync.Mutex
	f  *os.File // guarded by mu; nil until needed
}

func (e *sealedExe) get(tmpDir string) (*os.File, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.f == nil {
		if err := checkStatic(); err != nil {
			return nil, err
		}
		f, err := container.SealedSelf(tmpDir)
		if err != nil {
			return nil, err
		}
		e.f = f
	}
	return e.f, nil
}

func (e *sealedExe) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.f != nil {
		e.f.Close()
		e.f = nil
	}
}

// checkStatic refuses a binary that the kernel could not execute in an empty
// root: there is no dynamic linker.
func checkStatic() error {
	e, err := elf.Open("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("read own binary: %w", err)
	}
	defer func() { _ = e.Close() }()
	for _, p := range e.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("this shim's binary is dynamically linked; it is executed in the container's root, where its libraries are not: link it with -static: %w", errdefs.ErrFailedPrecondition)
		}
	}
	return nil
}

// handlersTimeout bounds the wait for a runner's signal handlers, which it
// installs before anything else.
const handlersTimeout = 100 * time.Millisecond

// awaitHandlers waits until a runner that was just started has its signal
// handlers: the first process of a pid namespace never gets a signal that it
// has no handler for, and a stop that came too early would be lost.
func awaitHandlers(pid int) {
	for deadline := time.Now().Add(handlersTimeout); time.Now().Before(deadline); time.Sleep(200 * time.Microsecond) {
		status, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
		if err != nil || handlesSignals(string(status)) {
			return
		}
	}
}

// handlesSignals reads from /proc/PID/status whether a process is a runner that
// catches SIGTERM; libcontainer's init, which it is until exec, has a name of
// its own.
func handlesSignals(status string) bool {
	for line := range strings.Lines(status) {
		key, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch key {
		case "Name":
			if strings.HasPrefix(value, "runc:[") {
				return false
			}
		case "SigCgt":
			mask, err := strconv.ParseUint(value, 16, 64)
			return err == nil && mask&(1<<(syscall.SIGTERM-1)) != 0
		}
	}
	return false
}
