// SPDX-License-Identifier: Apache-2.0

package shim

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/libwasmshim/libwasmshim/shim/internal/cli"
	"github.com/libwasmshim/libwasmshim/shim/internal/stage"
)

// Engine is a WebAssembly engine that is written in Go; see Run. Which process
// calls which method is part of the contract: the daemon calls Describe alone.
type Engine interface {
	// Describe says what the engine is. Called in every process: it is data,
	// and costs nothing.
	Describe() Descriptor
	// RunWasi runs the guest with this process's standard streams and returns
	// when it has ended, with its exit code, of which the low eight bits count.
	// An error made by Fail says what went wrong; of any other the container
	// exits with 125. Exiting the process from within is allowed.
	// Called in the runner, once, on its first thread.
	RunWasi(ctx *RuntimeContext) (exitCode int, err error)
}

// Handler is for an engine whose kinds include KindOther.
type Handler interface {
	// CanHandle says whether the engine runs a file that the core does not
	// recognise. Called in the runner.
	CanHandle(ctx *RuntimeContext) bool
}

// Stopper is for an engine that can end a guest.
type Stopper interface {
	// Stop asks the guest to end because of a signal. If it returns true,
	// RunWasi is going to return soon: the runner waits for the deadline and
	// then exits with 128 + sig. If not, it exits so at once; so it does for an
	// engine that is no Stopper. Called in the runner, in a goroutine of its own.
	Stop(sig syscall.Signal) (deadline time.Duration, handled bool)
}

// Compiler is for an engine that can compile ahead. Descriptor.CacheKey belongs
// to it.
type Compiler interface {
	// Compile makes an artifact of each of ctx.Layers, nil for one whose original
	// is to be run; nil instead of the list is all of them. RunWasi is given them
	// then, in this container and in later ones: an artifact must depend on
	// nothing but the layer, the kind, the options that affect compilation, the
	// CPU's features, the binary and Descriptor.CacheKey. Ids, arguments,
	// environment and entrypoint are empty. The cause of an error is logged, and
	// the originals are run.
	// Called in a process without rights beside the container: no user, no files,
	// no network; memory, processes and time are limited.
	Compile(ctx *RuntimeContext) (artifacts [][]byte, err error)
}

// Stage is where a guest failed. It decides the container's exit code.
type Stage string

// The stages.
const (
	StageLoad    Stage = "load"    // it is unreadable, not Wasm, or an import or export is missing: 126
	StageCompile Stage = "compile" // its code was refused: 126
	StageTrap    Stage = "trap"    // it ran, and was ended by a trap: 134
	StageRun     Stage = "run"     // the engine failed: 125
)

// Fail returns an error that says at which stage a guest failed.
func Fail(stage Stage, err error) error { return &failure{stage, err} }

type failure struct {
	stage Stage
	err   error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// ErrUnsupported is for a guest of a kind that the engine does not run.
var ErrUnsupported = Fail(StageLoad, errors.New("the engine does not run this kind of guest"))

// exitCode is what a container exits with whose guest failed.
func exitCode(err error) (int, Stage) {
	var f *failure
	if !errors.As(err, &f) {
		return exitError, StageRun
	}
	switch f.stage {
	case StageLoad, StageCompile:
		return exitLoad, f.stage
	case StageTrap:
		return exitTrap, f.stage
	}
	return exitError, f.stage
}

// RuntimeContext is one container, as an engine sees it.
type RuntimeContext struct {
	ContainerID string
	PodID       string // the container's own where there is no pod
	Namespace   string // containerd's
	ExecID      string // of the exec that this process is for; empty in the container's first process

	Args []string // the first is the guest's own name
	Env  []string // "KEY=value"; the guest's alone: the runner's own is empty
	Cwd  string

	Entrypoint  Entrypoint
	Source      Source
	Layers      []*Layer          // the guest's code; a guest that is a file is one layer
	Kind        Kind              // one of them: what the guest's first bytes say
	Options     map[string]string // values of the engine's options, in the form that their type says
	Preopens    []Preopen         // directories that the guest is to be given; an operator may give none
	MemoryLimit uint64            // of the cgroup, in bytes; 0 for none
	CPULimit    uint64            // of the cgroup, in thousandths of a CPU; 0 for none

	log func(level int, message string)
}

// Entrypoint is what "path#func" names.
type Entrypoint struct {
	Func string // "_start" where the user named none
	Name string // the file's name without directory and extension
	Arg0 string // the first argument as the user wrote it
}

// Source is where the guest's code is.
type Source struct {
	File string // an absolute path in the container, which is the process's root; empty if the guest is layers of an image
}

// Preopen is a directory for the guest.
type Preopen = stage.Preopen

// Log writes one line to the shim's log, if the level, one of LogLevels, is
// within the log level that the operator has set. It never waits.
func (c *RuntimeContext) Log(level, format string, args ...any) {
	for i, name := range LogLevels {
		if name == level {
			c.log(i+1, fmt.Sprintf(format, args...))
		}
	}
}

// Build is what a binary was built from.
type Build = cli.Build

// Version says what this binary was built from: module version and revision,
// as the Go linker has recorded them.
func Version() Build { return cli.ReadBuild() }
