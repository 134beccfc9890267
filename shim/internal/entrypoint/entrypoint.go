// SPDX-License-Identifier: Apache-2.0

// Package entrypoint finds the file that a container starts, as the container
// will see it, and says whether it is native or a guest for the engine.
package entrypoint

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Kind is what the first bytes of a file say. Module to Other have the values
// of the shim package's kinds.
type Kind uint32

// The kinds.
const (
	Module    Kind = 1
	Component Kind = 2
	Text      Kind = 4
	Other     Kind = 8
	Native    Kind = 16
)

// headSize is how much of a file is looked at, in bytes.
const headSize = 4096

// Entry is a resolved entrypoint.
type Entry struct {
	Kind Kind
	Path string // absolute, in the container; not free of symbolic links
	Func string // from "path#func"; empty if not given
	Name string // the file's name without its last extension

	script bool // a native program that begins with #!

	// File is a guest's file, open for reading alone; the caller closes it.
	File *os.File
	// Unsure says that the user may be forbidden to read a guest's file: mode bits
	// alone do not tell. Then it is the runner that has to open Path, as that user.
	Unsure bool
	// Starts is a guest that a native program, a shell for one, is to start and
	// cannot; empty where none is seen.
	Starts string
	// InRoot is the file's path in the root file system, free of symbolic links;
	// empty where it lies in a mount.
	InRoot string
}

// ErrDirectory is the ErrInvalidArgument of an entrypoint that is a directory.
var ErrDirectory = fmt.Errorf("%w", errdefs.ErrInvalidArgument)

// Resolve finds the entrypoint of spec in the container whose root file system
// is at rootfs. engine and kinds name the engine and what it runs. Errors
// carry errdefs codes; ErrUnknown means that the file may be there in the
// container and is not seen from here.
func Resolve(spec *specs.Spec, bundle, rootfs, engine string, kinds Kind) (Entry, error) {
	arg := spec.Process.Args[0]
	v, err := newView(spec, bundle, rootfs)
	if err != nil {
		return Entry{}, err
	}
	defer v.close()

	e, err := find(v, spec.Process, arg)
	// A '#' may be part of a file's name; only where no such file is does it
	// separate the function.
	if at := strings.LastIndexByte(arg, '#'); at > 0 && errdefs.IsNotFound(err) {
		if e, err = find(v, spec.Process, arg[:at]); err == nil {
			e.Func = arg[at+1:]
		}
	}
	if errdefs.IsNotFound(err) && makesFiles(spec.Hooks) {
		err = fmt.Errorf("%w, and a hook may put it there: %w", err, ErrUnknown)
	}
	if err != nil {
		return Entry{}, fmt.Errorf("entrypoint %q: %w", arg, err)
	}
	if e.Kind == Native {
		if e.Func != "" {
			return Entry{}, fmt.Errorf("entrypoint %q: %q is a native program, which has no function to choose: %w", arg, e.Path, errdefs.ErrInvalidArgument)
		}
		e.Starts = startsGuest(v, spec.Process, e.Path, e.script)
		return e, nil
	}
	if e.Kind&kinds == 0 {
		defer e.close()
		if e.Kind == Other && e.empty() {
			return Entry{}, fmt.Errorf("entrypoint %q: %q is empty: %w", arg, e.Path, errdefs.ErrInvalidArgument)
		}
		if e.Kind == Other {
			return Entry{}, fmt.Errorf("entrypoint %q: %q is neither a native program (ELF or #!) nor something that %s runs (%s): %w",
				arg, e.Path, engine, kinds, errdefs.ErrInvalidArgument)
		}
		return Entry{}, fmt.Errorf("entrypoint %q: %q is a %s; %s runs only: %s: %w", arg, e.Path, e.Kind, engine, kinds, errdefs.ErrInvalidArgument)
	}
	return e, nil
}

// makesFiles says whether there are hooks that run before the program is looked
// up in the container.
func makesFiles(h *specs.Hooks) bool {
	return h != nil && len(h.Prestart)+len(h.CreateRuntime)+len(h.CreateContainer) > 0 //nolint:staticcheck // Prestart is deprecated, and run
}

// find looks a name up. Without a slash it is looked for in PATH, as execvp
// does; a guest, which no shell would start by its bare name, is also found in
// the working directory.
func find(v *view, p *specs.Process, name string) (Entry, error) {
	if name == "" {
		return Entry{}, fmt.Errorf("the first argument is empty: %w", errdefs.ErrInvalidArgument)
	}
	if strings.Contains(name, "/") {
		return inspect(v, abs(name, p.Cwd))
	}
	var denied, unknown error
	search := searchPath(p.Env)
	for _, dir := range filepath.SplitList(search) {
		e, err := inspect(v, path.Join(abs(dir, p.Cwd), name))
		if err == nil {
			return e, nil
		}
		if errdefs.IsPermissionDenied(err) && denied == nil {
			denied = err
		}
		if errors.Is(err, ErrUnknown) {
			unknown = err
		}
	}
	if e, err := inspect(v, abs(name, p.Cwd)); err == nil {
		if e.Kind&(Module|Component|Text) != 0 {
			return e, nil
		}
		e.close()
	}
	if unknown != nil {
		return Entry{}, unknown
	}
	if denied != nil {
		return Entry{}, denied
	}
	return Entry{}, fmt.Errorf("no such file in PATH (%s): %w", search, errdefs.ErrNotFound)
}

// searchPath is the PATH of an environment, of which the last one counts.
func searchPath(env []string) string {
	for _, kv := range slices.Backward(env) {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			return v
		}
	}
	return ""
}

// abs makes a path in the container absolute.
func abs(name, cwd string) string {
	if path.IsAbs(name) {
		return name
	}
	return path.Join("/", cwd, name)
}

func inspect(v *view, name string) (e Entry, retErr error) {
	f, err := v.open(name)
	if err != nil {
		return Entry{}, err
	}
	defer f.close()
	open, err := f.read()
	if err != nil {
		return Entry{}, err
	}
	defer func() {
		if retErr != nil || e.Kind == Native {
			open.Close()
			e.File = nil
		}
	}()
	head, err := Head(open)
	if err != nil {
		return Entry{}, err
	}
	e = Entry{Kind: Classify(head, name), Path: name, File: open}
	if !f.bound {
		e.InRoot = f.real
	}
	e.script = bytes.HasPrefix(head, []byte("#!"))
	if e.Kind == Native && compiledElsewhere(head) {
		return Entry{}, fmt.Errorf("%s is code that wasmtime has compiled ahead; such code is machine code that nobody vouches for and is not run: use the original .wasm, which this shim compiles and keeps: %w", name, errdefs.ErrInvalidArgument)
	}
	// Of a native program the kernel decides where this is not certain; a guest's
	// file is opened by the user.
	allowed := f.way.native.and(f, name, "may not execute it", toExecute, v.access.native)
	if e.Kind != Native {
		allowed = f.way.guest.and(f, name, "may not read it", toRead, v.access.guest)
		e.Unsure = allowed.allowed == perhaps
	}
	if allowed.allowed == no {
		return Entry{}, allowed.why
	}
	e.Name = Stem(name)
	return e, nil
}

func (e Entry) empty() bool {
	info, err := e.File.Stat()
	return err == nil && info.Size() == 0
}

func (e Entry) close() {
	if e.File != nil {
		e.File.Close()
	}
}

// Stem is the name of a path's last element without its extension.
func Stem(name string) string {
	base := path.Base(name)
	if stem := strings.TrimSuffix(base, path.Ext(base)); stem != "" {
		return stem
	}
	return base
}

// ClassifyFile says what a regular file of the host is.
func ClassifyFile(name string) (Kind, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if !info.Mode().IsRegular() {
		return 0, fmt.Errorf("%s is not a regular file", name)
	}
	head, err := Head(f)
	if err != nil {
		return 0, err
	}
	return Classify(head, name), nil
}

// Head reads what Classify looks at of a file: its first bytes, as many as there
// are.
func Head(f io.ReaderAt) ([]byte, error) {
	head := make([]byte, headSize)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return head[:n], nil
}

// Classify says what a file is by its first bytes and, for text that begins with
// something else than a module, by the extension of its name.
func Classify(head []byte, name string) Kind {
	switch {
	case bytes.HasPrefix(head, []byte("\x7fELF")), bytes.HasPrefix(head, []byte("#!")):
		return Native
	case bytes.HasPrefix(head, []byte("\x00asm")):
		// The second half of the version is the layer: 1 for components.
		if len(head) >= 8 && head[6] == 1 && head[7] == 0 {
			return Component
		}
		return Module
	}
	text := skipSpace(head)
	if rest, ok := bytes.CutPrefix(text, []byte("(")); ok {
		rest = skipSpace(rest)
		if bytes.HasPrefix(rest, []byte("module")) || bytes.HasPrefix(rest, []byte("component")) || path.Ext(name) == ".wat" {
			return Text
		}
	}
	return Other
}

// compiledElsewhere says whether an ELF file holds what wasmtime compiles ahead:
// it has an ABI number of its own, which no kernel executes.
func compiledElsewhere(head []byte) bool {
	const abiAt, wasmtime = 7, 200
	return len(head) > abiAt && bytes.HasPrefix(head, []byte("\x7fELF")) && head[abiAt] == wasmtime
}

// skipSpace skips white space and comments of the WebAssembly text format.
func skipSpace(b []byte) []byte {
	for {
		b = bytes.TrimLeft(b, " \t\r\n")
		switch {
		case bytes.HasPrefix(b, []byte(";;")):
			_, rest, _ := bytes.Cut(b, []byte("\n"))
			b = rest
		case bytes.HasPrefix(b, []byte("(;")):
			// Block comments nest; a nested one in the first lines of a file
			// is too rare to earn a parser.
			_, rest, _ := bytes.Cut(b, []byte(";)"))
			b = rest
		default:
			return b
		}
	}
}

func (k Kind) String() string {
	names := []string{"WebAssembly module", "WebAssembly component", "WebAssembly text", "other", "native program"}
	var s []string
	for i, n := range names {
		if k&(1<<i) != 0 {
			s = append(s, n)
		}
	}
	return strings.Join(s, ", ")
}

var errLoop = errors.New("too many symbolic links")
