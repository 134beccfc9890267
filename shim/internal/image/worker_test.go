// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/log"
	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// runTestWorker is a worker. By the container's id it dies first, as often as there
// are lines in a file, or waits until somebody opens a FIFO.
func runTestWorker() int {
	id := os.Args[slices.Index(os.Args, "-id")+1]
	switch how, name, _ := strings.Cut(id, " "); how {
	case "dies":
		text, err := os.ReadFile(name)
		if err != nil {
			return 1
		}
		if _, rest, more := strings.Cut(string(text), "\n"); more {
			if os.WriteFile(name, []byte(rest), 0o600) != nil {
				return 1
			}
			_ = unix.Kill(os.Getpid(), unix.SIGKILL)
		}
	case "waits":
		if f, err := os.OpenFile(name, os.O_WRONLY, 0); err == nil {
			f.Close()
		}
	}
	return RunWorker()
}

func newFinder(w *Work) *Finder {
	return &Finder{
		Address: w.Address, Namespace: w.Namespace, Engine: w.Engine,
		Exe: func(string) (*os.File, error) { return os.Open("/proc/self/exe") },
	}
}

// What becomes of a worker costs the guest its artifacts, and no more.
func TestWorkerDies(t *testing.T) {
	for name, test := range map[string]struct{ deaths, left, cause string }{
		"not":   {"", "", "containerd"},
		"once":  {"1\n", "", "containerd"},
		"twice": {"1\n2\n3\n", "3\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWork(t)
			deaths := filepath.Join(t.TempDir(), "deaths")
			require.NoError(t, os.WriteFile(deaths, []byte(test.deaths), 0o600))
			l, err := acquire(t.Context(), w.memory().dir, w.name())
			require.NoError(t, err)
			defer l.release()
			result, err := newFinder(w).compile(t.Context(), Request{ID: "dies " + deaths, Log: log.L}, w, l)
			if test.cause == "" {
				require.ErrorIs(t, err, errWorkerDied)
				require.ErrorContains(t, err, "signal: killed")
			} else {
				require.NoError(t, err)
				require.Contains(t, result.Failed.Cause, test.cause, "it did its work, but there is nobody to ask")
			}
			text, err := os.ReadFile(deaths)
			require.NoError(t, err)
			require.Equal(t, test.left, string(text))
		})
	}
}

// A worker goes on when nobody waits for it any more, and keeps others from the same
// work until it ends.
func TestWorkerGoesOn(t *testing.T) {
	w := newWork(t)
	fifo := filepath.Join(t.TempDir(), "fifo")
	require.NoError(t, unix.Mkfifo(fifo, 0o600))
	l, err := acquire(t.Context(), w.memory().dir, "a")
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = newFinder(w).compile(ctx, Request{ID: "waits " + fifo, Log: log.L}, w, l)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "compiling goes on without this container")
	next := acquireLater(t.Context(), w.memory().dir)
	requireWaiters(t, w.memory().dir, 1)
	require.Empty(t, next)
	f, err := os.Open(fifo)
	require.NoError(t, err)
	defer f.Close()
	got := <-next
	require.NoError(t, got.err)
	got.l.release()
	require.Empty(t, names(t, w.memory().dir))
}

// An order that cannot be read is answered, and the lock let go.
func TestWorkerOrder(t *testing.T) {
	w := newWork(t, digest.FromString("x"))
	for _, order := range []string{"", "{", "[]", `{"Work":7}`, "\x00\x01"} {
		l, err := acquire(t.Context(), w.memory().dir, w.name())
		require.NoError(t, err)
		answer, its, err := os.Pipe()
		require.NoError(t, err)
		cmd := exec.Command("/proc/self/exe", "-id", "x")
		cmd.Env, cmd.Stdin = []string{WorkerEnv}, strings.NewReader(order)
		cmd.ExtraFiles = []*os.File{its, its, l.file()}
		require.NoError(t, cmd.Start())
		its.Close()
		l.leave()
		var result Result
		require.NoError(t, json.NewDecoder(answer).Decode(&result), order)
		answer.Close()
		require.Contains(t, result.Failed.Cause, "read what is to be done: ", order)
		require.NoError(t, cmd.Wait())
		require.Empty(t, names(t, w.memory().dir), order)
	}
}

// So many compilers run at once, and no more; who gets no turn in time is told so.
func TestCompilerSlot(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "slots")
	var release []func()
	for range 2 {
		r, err := compilerSlot(t.Context(), dir, 2, 0)
		require.NoError(t, err)
		release = append(release, r)
	}
	_, err := compilerSlot(t.Context(), dir, 2, 0)
	require.ErrorIs(t, err, errBusy)
	require.ErrorContains(t, err, "as many as may run at once (2)")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = compilerSlot(ctx, dir, 2, time.Hour)
	require.ErrorIs(t, err, context.Canceled)

	got := make(chan error)
	go func() {
		r, err := compilerSlot(t.Context(), dir, 2, time.Hour)
		if err == nil {
			r()
		}
		got <- err
	}()
	release[0]()
	require.NoError(t, <-got)
	release[1]()
	require.Len(t, names(t, dir), 2)

	r, err := compilerSlot(t.Context(), filepath.Join(t.TempDir(), "half"), 0, 0)
	require.NoError(t, err, "at least one")
	r()
}
