// SPDX-License-Identifier: Apache-2.0

package task

import (
	"debug/elf"
	"fmt"
	"os"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/libwasmshim/libwasmshim/shim/internal/container"
)

// sealedExe is the clone of this binary that runners execute, made once for a
// daemon.
type sealedExe struct {
	mu    sync.Mutex
	f     *os.File          // guarded by mu; nil until needed
	least map[string]uint64 // guarded by mu, set with f; see leastLimits
}

func (e *sealedExe) get(tmpDir string) (*os.File, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.f == nil {
		least, err := inspectSelf()
		if err != nil {
			return nil, err
		}
		f, err := container.SealedSelf(tmpDir)
		if err != nil {
			return nil, err
		}
		e.f, e.least = f, least
	}
	return e.f, nil
}

// leastLimits are what a process that executes it must be allowed, by the names of
// rlimits.
func (e *sealedExe) leastLimits() map[string]uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.least
}

func (e *sealedExe) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.f != nil {
		e.f.Close()
		e.f = nil
	}
}

const (
	// A little of everything, for what a program needs beside its own segments.
	limitSlack = 1 << 20
	// What a runner has on the kernel's stack, which the kernel makes smaller by a
	// random number; an engine that needs more has a stack of its own.
	leastStack = 64 << 10
)

// inspectSelf says what this binary takes of what rlimits limit. It refuses one that
// the kernel could not execute in an empty root: there is no dynamic linker.
func inspectSelf() (map[string]uint64, error) {
	e, err := elf.Open("/proc/self/exe")
	if err != nil {
		return nil, fmt.Errorf("read own binary: %w", err)
	}
	defer func() { _ = e.Close() }()
	least := map[string]uint64{"RLIMIT_AS": limitSlack, "RLIMIT_DATA": limitSlack, "RLIMIT_STACK": leastStack}
	for _, p := range e.Progs {
		switch p.Type {
		case elf.PT_INTERP:
			return nil, fmt.Errorf("this shim's binary is dynamically linked; it is executed in the container's root, where its libraries are not: link it with -static: %w", errdefs.ErrFailedPrecondition)
		case elf.PT_LOAD:
			least["RLIMIT_AS"] += p.Memsz
			if p.Flags&elf.PF_W != 0 {
				least["RLIMIT_DATA"] += p.Memsz
			}
		}
	}
	return least, nil
}
