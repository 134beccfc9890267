// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/libwasmshim/libwasmshim/shim/internal/rootless"
)

// WorkerEnv is the environment variable that makes the binary a worker: the
// process that compiles a guest's code for a daemon, and ends. It may outlive the
// daemon: what was begun is there for the next container.
const WorkerEnv = "_WASMSHIM_ROLE=image"

// Descriptors of a worker beside stdio.
const (
	fdResult = 3 + iota // a pipe, for the Result
	fdExe
	fdLock // held as long as the worker lives
	fdFiles
)

// order is what a worker reads from its standard input.
type order struct {
	Work      *Work
	LogLevel  string
	LogFields log.Fields
}

// maxOrder bounds the size of an order and of a result, in bytes.
const maxOrder = 4 << 20

// patience is how long a daemon waits for a worker beside the time that compiling, and
// waiting for its turn, may take.
const patience = 2 * time.Second

var errWorkerDied = errors.New("the process that compiles the guest's code has died")

// compile has another process do the work, and returns what came out. When the time is
// up, or the caller leaves, the process goes on. Should it die by somebody's hand, a
// second one takes over.
func (f *Finder) compile(ctx context.Context, r Request, w *Work, l *lock) (result Result, err error) {
	ctx, cancel := context.WithTimeout(ctx, w.turn()+w.Limits.Clock()+patience)
	defer cancel()
	for range 2 {
		if result, err = f.compileOnce(ctx, r, w, l); !errors.Is(err, errWorkerDied) {
			break
		}
		r.Log.WithError(err).Warn("compiling the guest's code once more")
		Sweep(w.Address, w.Namespace)
	}
	return result, err
}

func (f *Finder) compileOnce(ctx context.Context, r Request, w *Work, l *lock) (result Result, _ error) {
	exe, err := f.Exe(r.Bundle)
	if err != nil {
		return result, err
	}
	text, err := json.Marshal(order{Work: w, LogLevel: r.Log.Logger.GetLevel().String(), LogFields: r.Log.Data})
	if err != nil {
		return result, err
	}
	answer, its, err := os.Pipe()
	if err != nil {
		return result, err
	}
	defer answer.Close()
	cmd := exec.Command("/proc/self/exe", "image-worker")
	cmd.Args = []string{os.Args[0], "-namespace", w.Namespace, "-address", w.Address, "-id", r.ID, "image"}
	cmd.Env = append(rootless.Env(), WorkerEnv)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Stdin = strings.NewReader(string(text))
	cmd.Stderr = os.Stderr // the daemon's log
	cmd.ExtraFiles = append([]*os.File{its, exe, l.file()}, w.files...)
	err = cmd.Start()
	its.Close()
	if err != nil {
		return result, fmt.Errorf("start the process that compiles the guest's code: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	stop := context.AfterFunc(ctx, func() { _ = answer.SetReadDeadline(time.Now()) })
	defer stop()
	err = json.NewDecoder(io.LimitReader(answer, maxOrder)).Decode(&result)
	if err == nil {
		return result, nil
	}
	if ctx.Err() != nil {
		l.leave()
		return result, fmt.Errorf("compiling goes on without this container: %w", ctx.Err())
	}
	return result, fmt.Errorf("%w: %w", errWorkerDied, errors.Join(<-ended, err))
}

// RunWorker is the worker. It returns its exit code.
func RunWorker() int {
	for fd := fdResult; fd <= fdLock; fd++ {
		unix.CloseOnExec(fd)
	}
	if name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fdLock)); err == nil {
		defer removeHeld(os.NewFile(fdLock, name))
	}
	result, err := work()
	if err != nil {
		log.L.WithError(err).Warn("the guest's original is run, without an artifact")
		result = Result{Failed: &failure{Cause: err.Error()}}
	}
	// A daemon that waits no more has closed its end.
	if err := json.NewEncoder(os.NewFile(fdResult, "result")).Encode(result); err != nil {
		return 1
	}
	return 0
}

// logOutput is the daemon's log, a FIFO that may have no reader for a while.
type logOutput struct{}

func (logOutput) Write(p []byte) (int, error) {
	_, _ = unix.Write(2, p)
	return len(p), nil
}

func work() (Result, error) {
	var o order
	if err := json.NewDecoder(io.LimitReader(os.Stdin, maxOrder)).Decode(&o); err != nil {
		return Result{}, fmt.Errorf("read what is to be done: %w", err)
	}
	_ = log.SetFormat(log.TextFormat)
	_ = log.SetLevel(o.LogLevel)
	log.L.Logger.SetOutput(logOutput{})
	o.Work.Log = log.L.WithFields(o.LogFields)
	o.Work.Exe = os.NewFile(fdExe, "exe")
	for i := range o.Work.Layers {
		unix.CloseOnExec(fdFiles + i)
		o.Work.files = append(o.Work.files, os.NewFile(uintptr(fdFiles+i), "code"))
	}
	Sweep(o.Work.Address, o.Work.Namespace)
	return o.Work.Run(context.Background())
}
