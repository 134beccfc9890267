// SPDX-License-Identifier: Apache-2.0

package abi

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// record is one of a context's, as shim/internal/stage lays it out. That
// package is not importable here, and a second writer of the format pins it.
type record struct {
	tag   uint32
	value string
}

const (
	tagID = iota + 1
	tagPod
	tagNamespace
	tagArg
	tagEnv
	tagEntryPath
	tagEntryFunc
	tagEntryName
	tagCwd
	tagOption
	tagLogLevel
	tagKind
	tagLayer
	tagMemory
	tagCPU
	tagPreopen
	_
	_
	tagExecID
	tagRlimit
)

func u32(v uint32) string { return string(binary.LittleEndian.AppendUint32(nil, v)) }
func u64(v uint64) string { return string(binary.LittleEndian.AppendUint64(nil, v)) }

func encode(records ...record) []byte {
	b := append([]byte("wasmshim"), u32(1)+u32(0)...)
	for _, r := range records {
		b = append(b, u32(r.tag)+u32(uint32(len(r.value)))+r.value+"\x00"...)
		for len(b)%4 != 0 {
			b = append(b, 0)
		}
	}
	binary.LittleEndian.PutUint32(b[12:], uint32(len(b)))
	return b
}

// guest is a context with args, and more records.
func guest(args []string, more ...record) []byte {
	r := []record{{tagID, "c1"}, {tagNamespace, "default"}, {tagEntryPath, "/app/hello.wasm"}, {tagEntryName, "hello"}, {tagKind, u32(1)}}
	for _, a := range args {
		r = append(r, record{tagArg, a})
	}
	return encode(append(r, more...)...)
}

// runner is a started runner.
type runner struct {
	*exec.Cmd
	stdout, stderr bytes.Buffer
	status         *os.File
	log            []string // lines that were sent to the daemon, each behind its level
}

// startRunner execs the probe as libcontainer does; args are the command
// line's, beside the path that it is executed by.
func startRunner(t *testing.T, context []byte, args []string, adjust ...func(*exec.Cmd)) *runner {
	exe, err := os.Open(probePath(t))
	require.NoError(t, err)
	defer exe.Close()
	fd, err := unix.MemfdCreate("context", unix.MFD_CLOEXEC)
	require.NoError(t, err)
	stage := os.NewFile(uintptr(fd), "context")
	defer stage.Close()
	_, err = stage.Write(context)
	require.NoError(t, err)
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	status, statusW := os.NewFile(uintptr(ends[0]), "status"), os.NewFile(uintptr(ends[1]), "status")
	t.Cleanup(func() { status.Close() })
	defer statusW.Close()

	r := &runner{Cmd: &exec.Cmd{
		Path: "/proc/self/fd/3", Args: append([]string{"/proc/self/fd/3"}, args...),
		Env: []string{"_WASMSHIM_ROLE=runner", "HOME=/root"}, ExtraFiles: []*os.File{exe, stage, statusW},
	}, status: status}
	r.Stdout, r.Stderr = &r.stdout, &r.stderr
	for _, f := range adjust {
		f(r.Cmd)
	}
	require.NoError(t, r.Start())
	t.Cleanup(func() { _ = r.Process.Kill(); _ = r.Wait() })
	return r
}

// end waits and returns exit code and what the runner said of its failure.
func (r *runner) end(t *testing.T) (int, string) {
	err := r.Wait()
	if e := (*exec.ExitError)(nil); err != nil && !errors.As(err, &e) {
		require.NoError(t, err)
	}
	failure := ""
	for message := make([]byte, 8192); ; {
		n, err := unix.Read(int(r.status.Fd()), message)
		require.NoError(t, err)
		if n == 0 {
			return r.ProcessState.ExitCode(), failure
		}
		if message[0] == 0 {
			failure = string(message[1:n])
		} else {
			r.log = append(r.log, strconv.Itoa(int(message[0]))+" "+string(message[1:n]))
		}
	}
}

func run(t *testing.T, args ...string) (*runner, int, string) {
	args = append([]string{"hello"}, args...)
	r := startRunner(t, guest(args), args)
	code, status := r.end(t)
	return r, code, status
}

// ready starts a guest that says "ready" and goes on.
func ready(t *testing.T, args ...string) *runner {
	out, outW, err := os.Pipe()
	require.NoError(t, err)
	defer out.Close()
	defer outW.Close()
	args = append([]string{"hello"}, args...)
	r := startRunner(t, guest(args), args, func(c *exec.Cmd) { c.Stdout = outW })
	line := make([]byte, 6)
	_, err = io.ReadFull(out, line)
	require.NoError(t, err)
	require.Equal(t, "ready\n", string(line))
	return r
}

func TestContextReachesTheEngine(t *testing.T) {
	args := []string{"/app/hello.wasm", "print", "", "two words"}
	r := startRunner(t, guest(args,
		record{tagPod, "p1"}, record{tagExecID, "e1"}, record{tagEnv, "A=1"}, record{tagEnv, "EMPTY="}, record{tagEntryFunc, "go"},
		record{tagCwd, "/work"}, record{tagOption, "speed=1"}, record{tagOption, "speed=2=x"},
		record{tagMemory, u64(1 << 33)}, record{tagCPU, u64(1500)},
		record{tagPreopen, "/data\x00/d"}, record{tagPreopen, "/\x00."},
	), args)
	code, status := r.end(t)
	require.Equal(t, 0, code, r.stderr.String())
	require.Empty(t, status)
	require.Empty(t, r.stderr.String())
	require.Equal(t, `id=c1 pod=p1 ns=default exec=e1
arg=/app/hello.wasm
arg=print
arg=
arg=two words
end of args: 1
env=A=1
env=EMPTY=
cwd=/work path=/app/hello.wasm func=go name=hello arg0=/app/hello.wasm file=/app/hello.wasm
kind=1 memory=8589934592 cpu=1500
speed=2=x spee=(none)
preopen=/data:/d
preopen=/:.
beyond=1
abi=1
home=0
`, r.stdout.String())
}

func TestContextDefaults(t *testing.T) {
	r := startRunner(t, encode(record{tagID, "c1"}, record{tagEntryPath, "/a"}, record{tagKind, u32(2)}), nil)
	code, _ := r.end(t)
	require.Equal(t, 0, code, r.stderr.String())
	require.Equal(t, `id=c1 pod=c1 ns= exec=
end of args: 1
cwd=/ path=/a func=_start name= arg0= file=/a
kind=2 memory=0 cpu=0
speed=(none) spee=(none)
preopen=/:/
beyond=1
abi=1
home=0
`, r.stdout.String())
}

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		args    []string
		code    int
		status  string
		message string
	}{
		{args: []string{"exit", "0"}},
		{args: []string{"exit", "3"}, code: 3},
		{args: []string{"exit", "255"}, code: 255},
		{args: []string{"exit", "256"}},
		{args: []string{"exit", "-1"}, code: 255},
		{args: []string{"status", "1", "it broke"}, code: 125, status: "run\x00it broke", message: "it broke"},
		{args: []string{"status", "1"}, code: 125, status: "run\x00the engine failed", message: "the engine failed"},
		{args: []string{"status", "2", "no file"}, code: 126, status: "load\x00no file", message: "no file"},
		{args: []string{"status", "3", "bad code"}, code: 126, status: "compile\x00bad code", message: "bad code"},
		{args: []string{"status", "4", "unreachable\n at f"}, code: 134, status: "trap\x00unreachable\n at f", message: "unreachable\n at f"},
		{args: []string{"status", "5"}, code: 126, status: "load\x00the engine does not run this kind of guest", message: "the engine does not run this kind of guest"},
		{args: []string{"status", "-77"}, code: 125, status: "run\x00the engine returned an unknown status", message: "the engine returned an unknown status"},
		{args: []string{"abort"}, code: 134, status: "run\x00the engine crashed, by signal 6 (aborted)"},
		{args: []string{"exit", "134"}, code: 134},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			r, code, status := run(t, c.args...)
			require.Equal(t, c.code, code)
			require.Equal(t, c.status, status)
			require.Empty(t, r.stdout.String())
			if c.message != "" {
				c.message = "probe: " + c.message + "\n"
			}
			require.Equal(t, c.message, r.stderr.String())
		})
	}
}

func TestLongReasonIsCut(t *testing.T) {
	_, code, status := run(t, "status", "2", strings.Repeat("x", 10000))
	require.Equal(t, 126, code)
	require.Len(t, status, 4095)
}

func TestKindThatTheEngineDoesNotRun(t *testing.T) {
	r := startRunner(t, guest([]string{"x"}, record{tagKind, u32(4)}), []string{"x"})
	code, status := r.end(t)
	require.Equal(t, 126, code)
	require.Contains(t, status, "does not run this kind")
}

func TestBadContext(t *testing.T) {
	r := startRunner(t, []byte("garbage, longer than a header"), []string{"x"})
	code, status := r.end(t)
	require.Equal(t, 125, code)
	require.Equal(t, "load\x00context: no magic", status)
	require.Equal(t, "probe: context: no magic\n", r.stderr.String())

	r = startRunner(t, nil, []string{"x"})
	_, status = r.end(t)
	require.Contains(t, status, "wrong size")
}

func TestLogLevels(t *testing.T) {
	for level, want := range map[string][]string{
		"":      {"1 hi", "2 hi", "3 hi", "3 with fields\x00size=3\x00name=two words"},
		"error": {"1 hi"},
		"trace": {"1 hi", "2 hi", "3 hi", "4 hi", "5 hi", "3 with fields\x00size=3\x00name=two words"},
	} {
		args := []string{"hello", "log", "hi"}
		r := startRunner(t, guest(args, record{tagLogLevel, level}), args)
		code, _ := r.end(t)
		require.Equal(t, 0, code)
		require.Equal(t, want, r.log)
		require.Empty(t, r.stderr.String())
	}
}

// Where no daemon listens, the log is for whoever looks at the terminal.
func TestLogWithoutDaemon(t *testing.T) {
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	require.NoError(t, err)
	defer null.Close()
	args := []string{"hello", "log", "hi"}
	r := startRunner(t, guest(args, record{tagLogLevel, "warn"}), args, func(c *exec.Cmd) { c.ExtraFiles[2] = null })
	code, _ := r.end(t)
	require.Equal(t, 0, code)
	require.Equal(t, "probe: error: hi\nprobe: warn: hi\n", r.stderr.String())
}

// Every signal that terminates by default ends the guest at once.
func TestSignals(t *testing.T) {
	signals := []syscall.Signal{
		syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGALRM,
		syscall.SIGABRT, syscall.SIGPWR, syscall.SIGIO, 34, 37, 64,
	}
	for _, sig := range signals {
		t.Run(sig.String(), func(t *testing.T) {
			r := ready(t, "sleep")
			require.NoError(t, r.Process.Signal(sig))
			code, status := r.end(t)
			require.Equal(t, 128+int(sig), code)
			require.Empty(t, status)
		})
	}
}

func TestStop(t *testing.T) {
	r := ready(t, "until-stopped")
	require.NoError(t, r.Process.Signal(syscall.SIGUSR1))
	code, _ := r.end(t)
	require.Equal(t, 3, code, "a guest that ends in time keeps its exit code")

	r = ready(t, "stopped-trap")
	require.NoError(t, r.Process.Signal(syscall.SIGUSR1))
	code, status := r.end(t)
	require.Equal(t, 128+int(syscall.SIGUSR1), code, "being stopped is no trap")
	require.Empty(t, status)

	r = ready(t, "slow-stop")
	require.NoError(t, r.Process.Signal(syscall.SIGUSR1))
	code, status = r.end(t)
	require.Equal(t, 128+int(syscall.SIGUSR1), code, "a guest that ends before stop returns")
	require.Empty(t, status)

	r = ready(t, "stop-twice")
	require.NoError(t, r.Process.Signal(syscall.SIGUSR1))
	require.NoError(t, r.Process.Signal(syscall.SIGUSR2))
	code, _ = r.end(t)
	require.Contains(t, []int{128 + int(syscall.SIGUSR1), 128 + int(syscall.SIGUSR2)}, code)
	require.Empty(t, r.stderr.String())

	r = ready(t, "until-stopped")
	start := time.Now()
	require.NoError(t, r.Process.Signal(syscall.SIGUSR2))
	code, _ = r.end(t)
	require.Equal(t, 128+int(syscall.SIGUSR2), code)
	require.GreaterOrEqual(t, time.Since(start), 150*time.Millisecond, "the deadline is 200 ms")

	r = ready(t, "until-stopped")
	require.NoError(t, r.Process.Signal(syscall.SIGUSR2))
	require.NoError(t, r.Process.Signal(syscall.SIGTERM))
	code, _ = r.end(t)
	require.Contains(t, []int{128 + int(syscall.SIGUSR2), 128 + int(syscall.SIGTERM)}, code)
}

func TestClosedOutputIsAnError(t *testing.T) {
	out, outW, err := os.Pipe()
	require.NoError(t, err)
	out.Close()
	defer outW.Close()
	args := []string{"hello", "write"}
	r := startRunner(t, guest(args), args, func(c *exec.Cmd) { c.Stdout = outW })
	code, _ := r.end(t)
	require.Equal(t, 9, code, "EPIPE, not SIGPIPE")
}

// What an engine has left to do at the process's end does not change how the
// guest has ended; what it wrote is written.
func TestNothingRunsAfterTheGuest(t *testing.T) {
	r, code, status := run(t, "atexit", "7")
	require.Equal(t, 7, code)
	require.Equal(t, "buffered\n", r.stdout.String())
	require.Empty(t, status)
}

// Any thread may set the error, also while it is reported.
func TestErrorsOfManyThreads(t *testing.T) {
	const text = "one of many lines, each of which is as good as the others are, and not a part of two"
	for range 5 {
		r, code, status := run(t, "complain")
		require.Equal(t, 126, code, r.stderr.String())
		require.True(t, strings.HasSuffix(text, strings.TrimPrefix(status, "load\x00")), status)
	}
}

// The runner is the engine's alone: one thread, no Go heap, no descriptor but
// stdio and the status pipe, the container's own command line.
func TestRunnerHoldsNothingOfOurs(t *testing.T) {
	stray, err := os.Open("/dev/null")
	require.NoError(t, err)
	defer stray.Close()
	out, outW, err := os.Pipe()
	require.NoError(t, err)
	defer out.Close()
	defer outW.Close()
	args := []string{"hello", "sleep", "a  b", "init"}
	r := startRunner(t, guest(args), args, func(c *exec.Cmd) {
		c.Stdout = outW
		c.ExtraFiles = append(c.ExtraFiles, stray)
	})
	_, err = io.ReadFull(out, make([]byte, 6))
	require.NoError(t, err)

	proc := filepath.Join("/proc", strconv.Itoa(r.Process.Pid))
	tasks, err := os.ReadDir(filepath.Join(proc, "task"))
	require.NoError(t, err)
	require.Len(t, tasks, 1, "threads")
	maps, err := os.ReadFile(filepath.Join(proc, "maps"))
	require.NoError(t, err)
	require.NotContains(t, string(maps), "\nc000000000-", "Go's heap")
	fds, err := os.ReadDir(filepath.Join(proc, "fd"))
	require.NoError(t, err)
	var open []string
	for _, fd := range fds {
		open = append(open, fd.Name())
	}
	require.Equal(t, []string{"0", "1", "2", "5"}, open)
	comm, err := os.ReadFile(filepath.Join(proc, "comm"))
	require.NoError(t, err)
	require.Equal(t, "hello\n", string(comm))
	cmdline, err := os.ReadFile(filepath.Join(proc, "cmdline"))
	require.NoError(t, err)
	require.Equal(t, strings.Join(args, "\x00"), strings.TrimRight(string(cmdline), "\x00"))
}

func TestRunnerMemory(t *testing.T) {
	r := ready(t, "sleep")
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(r.Process.Pid), "smaps_rollup"))
	require.NoError(t, err)
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "Anonymous:" {
			kb, err := strconv.Atoi(f[1])
			require.NoError(t, err)
			require.Less(t, kb, 200, "kB of its own")
		}
	}
}
