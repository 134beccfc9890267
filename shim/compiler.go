// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/libwasmshim/libwasmshim/shim/internal/landlock"
	"github.com/libwasmshim/libwasmshim/shim/internal/stage"
)

// compiler plays the process that compiles, as cabi/compiler.c does for an
// engine in C, and returns its exit code.
func compiler(e Engine) int {
	g := &guest{engine: e, name: e.Describe().Name, tell: true}
	unix.CloseOnExec(stage.FDStatus)
	if err := hideAll(); err != nil {
		return g.fail(StageCompile, exitError, err)
	}
	// Nobody but root looks into this process, or opens what it has open.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return g.fail(StageCompile, exitError, err)
	}
	go endWithDaemon()
	c, err := readStage()
	if err != nil {
		return g.fail(StageCompile, exitError, fmt.Errorf("context: %w", err))
	}
	unix.Close(stage.FDExe)
	unix.Close(stage.FDStage)
	os.Clearenv()
	compiles, ok := e.(Compiler)
	if !ok {
		return stage.ExitUnsupported
	}
	rc := g.context(c)
	outputs := make([]int, len(rc.Layers))
	for i, l := range rc.Layers {
		outputs[i], l.artifact = l.artifact, 0
	}
	artifacts, err := compiles.Compile(rc)
	switch {
	case errors.Is(err, ErrUnsupported) || err == nil && artifacts == nil:
		return stage.ExitUnsupported
	case err == nil && len(artifacts) != len(outputs):
		err = fmt.Errorf("the engine made %d artifacts of %d layers", len(artifacts), len(outputs))
	}
	if err == nil {
		err = store(artifacts, outputs)
	}
	if err == nil {
		return 0
	}
	code, _ := exitCode(err)
	return g.fail(StageCompile, code, err)
}

func store(artifacts [][]byte, outputs []int) error {
	for i, a := range artifacts {
		if a == nil {
			continue
		}
		if outputs[i] == 0 {
			return fmt.Errorf("layer %d has no place for an artifact", i)
		}
		if _, err := os.NewFile(uintptr(outputs[i]), "artifact").Write(a); err != nil {
			return fmt.Errorf("write the artifact of layer %d: %w", i, err)
		}
	}
	return nil
}

// hideAll takes every file away. Landlock's rules are for one thread, and for
// what it executes: this binary, again.
func hideAll() error {
	if os.Getenv(hiddenEnv) != "" || landlock.HideAll(stage.FDExe) != nil {
		return nil // where there is no Landlock, the root is empty anyway
	}
	if _, err := unix.FcntlInt(stage.FDStatus, unix.F_SETFD, 0); err != nil {
		return err
	}
	return unix.Exec(stage.Exe, os.Args, []string{stage.CompilerEnv, hiddenEnv + "=1"})
}

// endWithDaemon ends a compiler that serves nobody. The daemon sends nothing;
// its end of the socket dies with it.
func endWithDaemon() {
	_, _ = io.ReadAll(os.NewFile(stage.FDStatus, "status"))
	os.Exit(exitError)
}
