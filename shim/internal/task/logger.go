// SPDX-License-Identifier: Apache-2.0

package task

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
)

// logger is a program that takes a container's output, as containerd's logging
// package has it: the read ends of stdout and stderr are its descriptors 3 and
// 4, and 5 is what it closes when it is ready. The container writes to it
// directly; it ends when nobody does any more.
type logger struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed once it was waited for
}

// How long a logger may take: to be ready, which containerd's logging package
// gives it; to end by itself after the last output; and to end when it is told.
const (
	loggerReady = 10 * time.Second
	loggerDone  = 2 * time.Second
	loggerTerm  = 10 * time.Second
)

// isLogger says whether a stream's name is a logger's URI. Those of version 2
// say that they are ready by a byte; with the others the end of file is enough.
func isLogger(name string) bool {
	return strings.HasPrefix(name, "binary://") || strings.HasPrefix(name, "binary-v2://")
}

// startLogger starts the program that uri names and returns the write ends for
// the container.
func startLogger(uri, id, namespace string) (_ *logger, out, err *os.File, retErr error) {
	u, perr := url.Parse(uri)
	if perr != nil {
		return nil, nil, nil, fmt.Errorf("%w: %w", perr, errdefs.ErrInvalidArgument)
	}
	if !filepath.IsAbs(u.Path) {
		return nil, nil, nil, fmt.Errorf("%q is not the absolute path of a program, as in binary:///usr/bin/logger: %w", u.Path, errdefs.ErrInvalidArgument)
	}
	var files []*os.File
	defer func() {
		for i, f := range files {
			// The container's two are handed over, the others belong to the logger.
			if retErr != nil || (i != 1 && i != 3) {
				f.Close()
			}
		}
	}()
	for range 3 { // stdout, stderr, ready: each its read end and its write end
		r, w, err := os.Pipe()
		if err != nil {
			return nil, nil, nil, fmt.Errorf("make pipe: %w", err)
		}
		files = append(files, r, w)
	}
	cmd := exec.Command(u.Path, loggerArgs(u.RawQuery)...)
	cmd.Env = []string{"CONTAINER_ID=" + id, "CONTAINER_NAMESPACE=" + namespace}
	cmd.ExtraFiles = []*os.File{files[0], files[2], files[5]}
	if err := cmd.Start(); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			err = fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
		}
		return nil, nil, nil, fmt.Errorf("start logger: %w", err)
	}
	l := &logger{cmd: cmd, exited: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // its status is nobody's
		close(l.exited)
	}()
	files[5].Close()
	ready := files[4]
	_ = ready.SetReadDeadline(time.Now().Add(loggerReady))
	n, rerr := ready.Read(make([]byte, 1))
	switch {
	case errors.Is(rerr, os.ErrDeadlineExceeded):
		l.kill()
		return nil, nil, nil, fmt.Errorf("logger %s was not ready within %s: it must close descriptor 5 when it is: %w", u.Path, loggerReady, errdefs.ErrUnavailable)
	case rerr != nil && !errors.Is(rerr, io.EOF):
		l.kill()
		return nil, nil, nil, fmt.Errorf("wait for logger %s: %w", u.Path, rerr)
	case n == 0 && u.Scheme == "binary-v2":
		l.kill()
		return nil, nil, nil, fmt.Errorf("logger %s closed descriptor 5 without writing to it: it has ended, or does not know binary-v2: %w", u.Path, errdefs.ErrUnavailable)
	}
	return l, files[1], files[3], nil
}

// loggerArgs are the keys and values of a query, in its order, each key once.
func loggerArgs(query string) []string {
	var args []string
	seen := map[string]bool{}
	for pair := range strings.SplitSeq(query, "&") {
		key, value, _ := strings.Cut(pair, "=")
		k, err1 := url.QueryUnescape(key)
		v, err2 := url.QueryUnescape(value)
		if pair == "" || seen[k] || err1 != nil || err2 != nil {
			continue
		}
		seen[k] = true
		args = append(args, k, v)
	}
	return args
}

// finish waits for a logger whose container has ended: it reads what is left,
// and ends. One that does not is told to, and then killed.
func (l *logger) finish() {
	if l.endsWithin(loggerDone) {
		return
	}
	_ = l.cmd.Process.Signal(syscall.SIGTERM)
	if !l.endsWithin(loggerTerm) {
		l.kill()
	}
}

func (l *logger) endsWithin(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-l.exited:
		return true
	case <-timer.C:
		return false
	}
}

func (l *logger) kill() {
	_ = l.cmd.Process.Kill()
	<-l.exited
}
