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
