// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

const hello = "hello from a container\n"

// module is a preview 1 module that prints hello, in the binary format of the
// WebAssembly specification.
var module = section(1, "\x02"+"\x60\x04\x7f\x7f\x7f\x7f\x01\x7f"+"\x60\x00\x00") + // types: fd_write's, _start's
	section(2, "\x01"+name("wasi_snapshot_preview1")+name("fd_write")+"\x00\x00") +
	section(3, "\x01\x01") + // one function, of the second type
	section(5, "\x01\x00\x01") + // a memory of one page
	section(7, "\x02"+name("memory")+"\x02\x00"+name("_start")+"\x00\x01") +
	// i32.const 1, 0, 1, 4; call fd_write; drop
	section(10, "\x01"+name("\x00\x41\x01\x41\x00\x41\x01\x41\x04\x10\x00\x1a\x0b")) +
	// at 0: the address and length of the text, which is at 8
	section(11, "\x01\x00\x41\x00\x0b"+name("\x08\x00\x00\x00"+string(rune(len(hello)))+"\x00\x00\x00"+hello))

func name(s string) string { return string(rune(len(s))) + s } // of less than 128 bytes

func section(id byte, content string) string { return string(rune(id)) + name(content) }

// Try is how the trial's container is run: Client.Try of the containerd package.
type Try func(ctx context.Context, id, runtime string, spec *specs.Spec, stdout, stderr string) (uint32, error)

// Trial runs a guest that says hello, in a container of the runtime.
func Trial(ctx context.Context, try Try, runtime string) Finding {
	f := ok("trial", "")
	dir, err := os.MkdirTemp("", "libwasmshim-doctor-")
	if err != nil {
		return f.but(Problem, err.Error(), "")
	}
	defer func() { _ = os.RemoveAll(dir) }()
	out, err := trial(ctx, try, runtime, dir)
	if err != nil {
		return f.but(Problem, "a guest that says hello does not run: "+err.Error(), "see docs/troubleshooting.md; containerd's log has more")
	}
	f.Found = fmt.Sprintf("a guest has said %q, in a container", strings.TrimSpace(out))
	return f
}

func trial(ctx context.Context, try Try, runtime, dir string) (string, error) {
	root := filepath.Join(dir, "root")
	stdout, stderr := filepath.Join(dir, "stdout"), filepath.Join(dir, "stderr")
	if err := os.MkdirAll(filepath.Join(root, "proc"), 0o755); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(root, "hello.wasm"), []byte("\x00asm\x01\x00\x00\x00"+module), 0o755); err != nil {
		return "", err
	}
	namespaces := []specs.LinuxNamespace{
		{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.MountNamespace}, {Type: specs.NetworkNamespace},
	}
	code, err := try(ctx, filepath.Base(dir), runtime, &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: root, Readonly: true},
		Process: &specs.Process{Args: []string{"/hello.wasm"}, Cwd: "/", NoNewPrivileges: true},
		Mounts:  []specs.Mount{{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}}},
		Linux:   &specs.Linux{Namespaces: namespaces},
	}, stdout, stderr)
	if err != nil {
		return "", err
	}
	out, err := os.ReadFile(stdout)
	if err != nil {
		return "", err
	}
	if errOut, _ := os.ReadFile(stderr); code != 0 {
		return "", fmt.Errorf("exit code %d: %s", code, lastLine(string(errOut)))
	}
	if string(out) != hello {
		return "", fmt.Errorf("it has printed %q, expected: %q", out, hello)
	}
	return string(out), nil
}
