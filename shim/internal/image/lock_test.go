// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// holdLock holds the lock a until the process is killed, or has nothing to read any
// more.
func holdLock() int {
	l, err := acquire(context.Background(), os.Args[1], "a")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Fprintln(os.Stdout, "held")
	_, _ = os.Stdin.Read(make([]byte, 1))
	l.release()
	return 0
}

// heldElsewhere starts a process that holds the lock a, and returns it.
func heldElsewhere(t *testing.T, dir string) *exec.Cmd {
	cmd := process(t, "lock", dir)
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		stdin.Close()
		_ = cmd.Wait() // it may have been killed
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "held\n", line)
	return cmd
}

// outcome is what became of an acquire that was not waited for.
type outcome struct {
	l   *lock
	err error
}

// acquireLater waits for the lock a.
func acquireLater(ctx context.Context, dir string) <-chan outcome {
	done := make(chan outcome, 1)
	go func() {
		l, err := acquire(ctx, dir, "a")
		done <- outcome{l, err}
	}()
	return done
}

// requireWaiters waits until so many wait in the kernel for the lock's file.
func requireWaiters(t *testing.T, dir string, n int) {
	t.Helper()
	var st unix.Stat_t
	require.NoError(t, unix.Stat(filepath.Join(dir, "a.lock"), &st))
	inode := fmt.Sprintf(":%d", st.Ino) // its device has another number here on some file systems
	require.Eventually(t, func() bool {
		locks, err := os.ReadFile("/proc/locks")
		require.NoError(t, err)
		waiting := 0
		for line := range strings.Lines(string(locks)) {
			if fields := strings.Fields(line); len(fields) > 6 && fields[1] == "->" && strings.HasSuffix(fields[6], inode) {
				waiting++
			}
		}
		return waiting == n
	}, 10*time.Second, time.Millisecond)
}

func requireEmpty(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, entries)
}

func TestLock(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	dir := filepath.Join(t.TempDir(), "made", "for it")
	l, err := acquire(t.Context(), dir, "a")
	require.NoError(t, err)
	require.FileExists(t, filepath.Join(dir, "a.lock"))
	other, err := acquire(t.Context(), dir, "b")
	require.NoError(t, err, "of another name")
	other.release()

	done := acquireLater(t.Context(), dir)
	requireWaiters(t, dir, 1)
	require.Empty(t, done)
	l.release()
	second := <-done
	require.NoError(t, second.err)
	second.l.release()
	requireEmpty(t, dir)
}

func TestLockNot(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err := acquire(t.Context(), file, "a")
	require.ErrorIs(t, err, unix.ENOTDIR)
	require.NoError(t, os.Mkdir(filepath.Join(dir, "a.lock"), 0o700))
	_, err = acquire(t.Context(), dir, "a")
	require.ErrorIs(t, err, unix.EISDIR)
}

// One at a time, also where each release removes the file that others wait for.
func TestLockMany(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	dir := t.TempDir()
	const waiters, times = 16, 50
	var inside, most atomic.Int32
	held := 0 // guarded by the lock alone
	var all sync.WaitGroup
	errs := make(chan error, waiters)
	for range waiters {
		all.Go(func() {
			for range times {
				l, err := acquire(t.Context(), dir, "a")
				if err != nil {
					errs <- err
					return
				}
				most.Store(max(most.Load(), inside.Add(1)))
				held++
				inside.Add(-1)
				l.release()
			}
		})
	}
	all.Wait()
	require.Empty(t, errs)
	require.EqualValues(t, 1, most.Load())
	require.Equal(t, waiters*times, held)
	requireEmpty(t, dir)
}

// Between processes, too, of which some are killed while they hold it.
func TestLockManyProcesses(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	dir := t.TempDir()
	for range 3 {
		holder := heldElsewhere(t, dir)
		var waiting []<-chan outcome
		for range 4 {
			waiting = append(waiting, acquireLater(t.Context(), dir))
		}
		requireWaiters(t, dir, len(waiting))
		require.NoError(t, holder.Process.Kill())
		for range waiting {
			got := outcome{}
			select {
			case got = <-waiting[0]:
			case got = <-waiting[1]:
			case got = <-waiting[2]:
			case got = <-waiting[3]:
			}
			require.NoError(t, got.err)
			for _, w := range waiting {
				require.Empty(t, w, "another one has it, too")
			}
			got.l.release()
		}
		requireEmpty(t, dir)
	}
}

// The lock lasts as long as any process has its file: a worker that outlives its
// daemon keeps others out.
func TestLockInherited(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	dir := t.TempDir()
	l, err := acquire(t.Context(), dir, "a")
	require.NoError(t, err)
	worker := exec.Command("cat")
	worker.ExtraFiles = []*os.File{l.f}
	stdin, err := worker.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, worker.Start())
	require.NoError(t, l.f.Close()) // as death does it
	done := acquireLater(t.Context(), dir)
	requireWaiters(t, dir, 1)
	require.Empty(t, done)
	require.NoError(t, stdin.Close())
	require.NoError(t, worker.Wait())
	got := <-done
	require.NoError(t, got.err)
	got.l.release()
	requireEmpty(t, dir)
}

// Who gives up leaves no lock, no file and nobody behind who waits, whatever
// becomes of the holder.
func TestLockGivenUp(t *testing.T) {
	for how, end := range map[string]func(l *lock){
		"released": (*lock).release,
		"killed":   func(l *lock) { l.f.Close() },
	} {
		t.Run(how, func(t *testing.T) {
			defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
			dir := t.TempDir()
			holder, err := acquire(t.Context(), dir, "a")
			require.NoError(t, err)
			ctx, cancel := context.WithCancel(t.Context())
			impatient := []<-chan outcome{acquireLater(ctx, dir), acquireLater(ctx, dir)}
			requireWaiters(t, dir, 2)
			cancel()
			for _, done := range impatient {
				got := <-done
				require.ErrorIs(t, got.err, context.Canceled)
				require.Nil(t, got.l)
			}
			patient := acquireLater(t.Context(), dir)
			requireWaiters(t, dir, 3)
			require.Empty(t, patient, "the holder still has it")
			end(holder)
			got := <-patient
			require.NoError(t, got.err)
			got.l.release()
			requireEmpty(t, dir)
		})
		t.Run(how+", nobody else", func(t *testing.T) {
			defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
			dir := t.TempDir()
			holder, err := acquire(t.Context(), dir, "a")
			require.NoError(t, err)
			ctx, cancel := context.WithCancel(t.Context())
			done := acquireLater(ctx, dir)
			requireWaiters(t, dir, 1)
			cancel()
			require.ErrorIs(t, (<-done).err, context.Canceled)
			end(holder)
			require.Eventually(t, func() bool {
				entries, err := os.ReadDir(dir)
				return err == nil && len(entries) == 0
			}, 10*time.Second, time.Millisecond)
		})
	}
}
