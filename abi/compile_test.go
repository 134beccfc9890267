// SPDX-License-Identifier: Apache-2.0

package abi

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// memory is a file with text in it.
func memory(t *testing.T, text string) *os.File {
	fd, err := unix.MemfdCreate("layer", unix.MFD_CLOEXEC)
	require.NoError(t, err)
	f := os.NewFile(uintptr(fd), "layer")
	t.Cleanup(func() { f.Close() })
	_, err = f.WriteString(text)
	require.NoError(t, err)
	return f
}

func layer(fd, artifact uint32, mediaType, digest string) record {
	return record{tagLayer, u32(fd) + u32(artifact) + mediaType + "\x00" + digest}
}

func TestLayers(t *testing.T) {
	files := []*os.File{memory(t, "first"), memory(t, "artifact of the first"), memory(t, "")}
	args := []string{"hello", "layers"}
	r := startRunner(t, guest(args, layer(6, 7, "application/wasm", "sha256:aa"), layer(8, 0, "application/vnd.probe+wasm", "sha256:bb")), args,
		func(c *exec.Cmd) { c.ExtraFiles = append(c.ExtraFiles, files...) })
	code, _ := r.end(t)
	require.Equal(t, 0, code, r.stderr.String())
	require.Equal(t, `layer 0: application/wasm sha256:aa
code: 5 bytes "first"
artifact: 21 bytes "artifact of the first"
descriptor: 1 'f', closed on exec 1
layer 1: application/vnd.probe+wasm sha256:bb
code: 0 bytes ""
artifact: errno 2
descriptor: 0 '`+"\x00"+`', closed on exec 1
layer 2: (none) (none)
code: errno 2
artifact: errno 2
written: -1
`, r.stdout.String())
	require.Equal(t, []string{"6 0\x00too old"}, r.log)
}

// A guest that is a file is one layer.
func TestFileIsALayer(t *testing.T) {
	args := []string{"hello", "layers"}
	path := filepath.Join(t.TempDir(), "hello.wasm")
	require.NoError(t, os.WriteFile(path, []byte("\x00asm"), 0o600))
	for _, test := range []struct{ path, want string }{
		{path, "layer 0: (none) (none)\ncode: 4 bytes \"\x00asm\"\nartifact: errno 2\ndescriptor: 1 '\x00', closed on exec 1\n" +
			"layer 1: (none) (none)\ncode: errno 2\nartifact: errno 2\nwritten: -1\n"},
		{path + "x", "layer 0: (none) (none)\ncode: errno 2\nartifact: errno 2\nlayer 1: (none) (none)\ncode: errno 2\nartifact: errno 2\nwritten: -1\n"},
		{filepath.Dir(path), "layer 0: (none) (none)\ncode: errno 22\nartifact: errno 2\n" +
			"layer 1: (none) (none)\ncode: errno 2\nartifact: errno 2\nwritten: -1\n"},
	} {
		r := startRunner(t, guest(args, record{tagEntryPath, test.path}), args)
		code, _ := r.end(t)
		require.Equal(t, 0, code, r.stderr.String())
		require.Equal(t, test.want, r.stdout.String())
	}
}

// Whoever writes to a guest's file, or cuts it off, does not change what an
// engine has asked for.
func TestFileChanges(t *testing.T) {
	for _, first := range []string{"bytes", "descriptor"} {
		t.Run(first, func(t *testing.T) {
			args := []string{"hello", "rewrite", first}
			path := filepath.Join(t.TempDir(), "hello.wasm")
			require.NoError(t, os.WriteFile(path, []byte("original"), 0o600))
			r := startRunner(t, guest(args, record{tagEntryPath, path}), args)
			code, _ := r.end(t)
			require.Equal(t, 0, code, r.stderr.String())
			require.Equal(t, `code of a file that was cut off: 8 bytes "original"
code of a file that was written to: 8 bytes "original"
by its name: 8 original
written: -1, cut off: -1
code at the end: 8 bytes "original"
`, r.stdout.String())
		})
	}
}

// A limit on the size of files is none on the size of code, but on that of a
// descriptor's file.
func TestFileUnderFileLimit(t *testing.T) {
	args := []string{"hello", "layers"}
	path := filepath.Join(t.TempDir(), "hello.wasm")
	require.NoError(t, os.WriteFile(path, []byte("original"), 0o600))
	r := startRunner(t, guest(args, record{tagEntryPath, path}), args, func(c *exec.Cmd) {
		c.Args = append([]string{"sh", "-c", `ulimit -f 0; exec "$@" | cat`, "sh", c.Path}, c.Args[1:]...)
		c.Path = "/bin/sh"
	})
	code, _ := r.end(t)
	require.Equal(t, 0, code, r.stderr.String())
	require.Equal(t, "layer 0: (none) (none)\ncode: 8 bytes \"original\"\nartifact: errno 2\nlayer 1: (none) (none)\n"+
		"code: errno 2\nartifact: errno 2\nwritten: -1\n", r.stdout.String())
}

// The file at the entrypoint may have a digest, and an artifact.
func TestFileWithArtifact(t *testing.T) {
	args := []string{"hello", "layers"}
	path := filepath.Join(t.TempDir(), "hello.wasm")
	require.NoError(t, os.WriteFile(path, []byte("\x00asm"), 0o600))
	r := startRunner(t, guest(args, record{tagEntryPath, path}, layer(0, 6, "", "sha256:aa")), args,
		func(c *exec.Cmd) { c.ExtraFiles = append(c.ExtraFiles, memory(t, "compiled")) })
	code, _ := r.end(t)
	require.Equal(t, 0, code, r.stderr.String())
	require.Equal(t, "layer 0: (none) sha256:aa\ncode: 4 bytes \"\x00asm\"\nartifact: 8 bytes \"compiled\"\ndescriptor: 1 '\x00', closed on exec 1\n"+
		"layer 1: (none) (none)\ncode: errno 2\nartifact: errno 2\nwritten: -1\n", r.stdout.String())
	require.Equal(t, []string{"6 0\x00too old"}, r.log)
}

// can_handle is asked of files that the core does not know, and of no other.
func TestCanHandle(t *testing.T) {
	dir := t.TempDir()
	for _, test := range []struct {
		content string
		code    int
		stderr  string
	}{
		{"PROBE, and more", 5, ""},
		{"\x00asm\x01\x00\x00\x00", 5, ""},
		{"OTHER", 126, "probe: the engine does not run this kind of guest\n"},
	} {
		path := filepath.Join(dir, "guest")
		require.NoError(t, os.WriteFile(path, []byte(test.content), 0o600))
		cmd := exec.Command(probePath(t), "run", path, "exit", "5")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		_ = cmd.Run()
		require.Equal(t, test.code, cmd.ProcessState.ExitCode())
		require.Equal(t, test.stderr, stderr.String())
	}
}

// compileAndRun has the probe compile a file as the daemon does, and run it.
func compileAndRun(t *testing.T, args ...string) (stdout, stderr string) {
	if os.Geteuid() != 0 {
		t.Skip("the compiler's process is a container, which needs root")
	}
	path := filepath.Join(t.TempDir(), "hello.wasm")
	require.NoError(t, os.WriteFile(path, []byte("\x00asm\x01\x00\x00\x00"), 0o600))
	cmd := exec.Command(probePath(t), append(append([]string{"run", "--compile"}, args...), path, "layers")...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir())
	require.NoError(t, cmd.Run(), errs.String())
	left, err := os.ReadDir(cmd.Env[len(cmd.Env)-1][len("TMPDIR="):])
	require.NoError(t, err)
	require.Empty(t, left)
	cgroups, err := filepath.Glob(fmt.Sprintf("/sys/fs/cgroup/*/libwasmshim-compiler-%d-*", cmd.Process.Pid))
	require.NoError(t, err)
	require.Empty(t, cgroups)
	return out.String(), errs.String()
}

func TestCompile(t *testing.T) {
	stdout, stderr := compileAndRun(t)
	require.Contains(t, stdout, "artifact: 17 bytes \"compiled \x00asm")
	require.Empty(t, stderr)
	_, stderr = compileAndRun(t, "--log-level", "info")
	require.Regexp(t, `level=info msg="compiled .*/hello.wasm: an artifact of 17 bytes in `, stderr)
}

// Nor does what the engine has left to do at the process's end unmake an
// artifact.
func TestNothingRunsAfterTheCompiler(t *testing.T) {
	stdout, stderr := compileAndRun(t, "-o", "compile=atexit")
	require.Contains(t, stdout, "artifact: 17 bytes")
	require.Empty(t, stderr)
}

// A log that is too much for its reader costs lines, not the artifact.
func TestCompilerLogsMuch(t *testing.T) {
	stdout, stderr := compileAndRun(t, "--log-level", "info", "-o", "compile=log-much")
	require.Contains(t, stdout, "artifact: 17 bytes")
	require.Contains(t, stderr, "lines of the engine's were too many for the log")
}

// Whatever the compiler comes to, the guest runs from the original, and the
// cause is told.
func TestCompilerMisbehaves(t *testing.T) {
	for verb, cause := range map[string]string{
		"none":   "the engine compiles nothing ahead of this",
		"fail":   "no such instruction",
		"status": "the engine returned an unknown status",
		"crash":  "the compiler was ended by signal 11 (segmentation fault)",
		"exit":   "the compiler exited with 9",
		"hang":   "the compiler took longer than 2s: compile_timeout is too short for this code",
		"spin":   "the compiler took longer than 2s: compile_timeout is too short for this code",
		"memory": "the compiler took more than 64 MiB of memory: compile_memory is too small for this code",
		"fork":   "the compiler took longer than 2s: compile_timeout is too short for this code",
		"fill":   "the compiler took more than 64 MiB of memory: compile_memory is too small for this code",
	} {
		t.Run(verb, func(t *testing.T) {
			memory := "64MiB"
			if verb == "fork" { // the number of processes is what ends it, and what they take differs from kernel to kernel
				memory = "1GiB"
			}
			stdout, stderr := compileAndRun(t, "--compile-timeout=2s", "--compile-memory="+memory, "-o", "compile="+verb)
			require.Contains(t, stdout, "artifact: errno 2\n")
			require.Contains(t, stderr, "not compiled, the original is run: "+cause+"\n")
		})
	}
}

// Whoever interrupts a compilation leaves nothing behind.
func TestCompileInterrupted(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("the compiler's process is a container, which needs root")
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "hello.wasm")
	require.NoError(t, os.WriteFile(path, []byte("\x00asm\x01\x00\x00\x00"), 0o600))
	tmp := filepath.Join(dir, "tmp")
	require.NoError(t, os.Mkdir(tmp, 0o700))
	for _, sig := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		cmd := exec.Command(probePath(t), "run", "--compile", "-o", "compile=hang", path)
		cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		require.NoError(t, cmd.Start())
		group := fmt.Sprintf("/sys/fs/cgroup/*/libwasmshim-compiler-%d-*", cmd.Process.Pid)
		require.Eventually(t, func() bool {
			found, _ := filepath.Glob(group)
			return len(found) > 0
		}, 10*time.Second, time.Millisecond)
		require.NoError(t, cmd.Process.Signal(sig))
		require.Error(t, cmd.Wait())
		require.Contains(t, stderr.String(), "interrupted while compiling "+path)
		left, err := os.ReadDir(tmp)
		require.NoError(t, err)
		require.Empty(t, left)
		found, err := filepath.Glob(group)
		require.NoError(t, err)
		require.Empty(t, found)
	}
}

// A compiler does not outlive whoever waits for it.
func TestCompilerEndsWithItsDaemon(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("the compiler's process is a container, which needs root")
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "hello.wasm")
	require.NoError(t, os.WriteFile(path, []byte("\x00asm\x01\x00\x00\x00"), 0o600))
	cmd := exec.Command(probePath(t), "run", "--compile", "--log-level=info", "-o", "compile=log-and-hang", path)
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	stderr, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(stderr)
	require.True(t, lines.Scan())
	require.Contains(t, lines.Text(), "msg=hangs")
	groups, err := filepath.Glob(fmt.Sprintf("/sys/fs/cgroup/*/libwasmshim-compiler-%d-*", cmd.Process.Pid))
	require.NoError(t, err)
	require.NotEmpty(t, groups)
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	for _, group := range groups {
		require.Eventually(t, func() bool { return os.Remove(group) == nil }, 10*time.Second, time.Millisecond, group)
	}
}

// An artifact's size has a limit of its own.
func TestArtifactSize(t *testing.T) {
	_, stderr := compileAndRun(t, "--compile-memory=1536MiB", "-o", "compile=fill")
	require.Contains(t, stderr, "File too large")
}

func TestCompilerHasNoRights(t *testing.T) {
	_, stderr := compileAndRun(t, "--log-level=info", "-o", "compile=try")
	var lines []string
	for line := range strings.Lines(stderr) {
		if _, message, ok := strings.Cut(line, "msg=\""); ok {
			message, _, _ = strings.Cut(message, "\"")
			lines = append(lines, message)
		}
	}
	require.NotEmpty(t, lines)
	// Of IDs that nobody else has.
	require.Regexp(t, `^pid 1 uid (1[89][0-9]{8}|2[0-9]{9}) gid (1[89][0-9]{8}|2[0-9]{9}) env 0$`, lines[0])
	for _, line := range lines[1 : len(lines)-1] {
		require.Regexp(t, "Permission denied|Operation not permitted|Bad file descriptor|No such process|Read-only file system", line)
	}
	require.Len(t, lines, 13)
}

func TestRunRefusesToCompile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hello.wasm")
	require.NoError(t, os.WriteFile(path, []byte("\x00asm\x01\x00\x00\x00"), 0o600))
	for _, test := range []struct{ flag, want string }{
		{"--compile-timeout=0s", `--compile-timeout: found "0s", accepted: a duration above zero, like 90s`},
		{"--compile-memory=much", `--compile-memory: found "much", accepted: a size of 1MiB or more, like 512MiB`},
	} {
		out, err := exec.Command(probePath(t), "run", "--compile", test.flag, path).CombinedOutput()
		require.Error(t, err)
		require.Contains(t, string(out), test.want)
	}
}
