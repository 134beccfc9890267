// SPDX-License-Identifier: Apache-2.0

// Package stage is the context that the daemon passes to a runner: a flat
// binary record that C reads in place, without a parser library or a copy.
//
// Layout, all numbers little endian: magic (8 bytes), version (u32), total
// length (u32), then records of tag (u32), length (u32), that many bytes, one
// NUL, and zeros up to a multiple of four. Both ends are the same binary, so
// an unknown tag or version is an error, never something to skip.
package stage

import (
	"encoding/binary"
	"fmt"
	"os"
	"strings"

	"github.com/libwasmshim/libwasmshim/shim/internal/memfile"
)

const (
	magic   = "wasmshim"
	version = 1
	header  = len(magic) + 8
	// maxSize bounds what a decoder maps; args and environment of a container
	// stay far below it.
	maxSize = 64 << 20
)

// The tags. cabi/stage.h has the same list.
const (
	tagID uint32 = iota + 1
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
	tagHidden
	tagFlags
	tagExecID
	tagRlimit
)

// The flags.
const (
	flagMustHide   = 1 << iota // Context.MustHide
	flagNoPreopens             // Context.NoPreopens

	flags = flagMustHide | flagNoPreopens
)

// Descriptors of a runner beside stdio, in the order in which they are
// inherited.
const (
	FDExe    = 3 // the sealed binary
	FDStage  = 4 // the context
	FDStatus = 5 // a socket for what the runner says
	FDLayers = 6 // layers and artifacts, as Context.Layers names them
)

// What a runner or a compiler says on FDStatus are messages of one byte and a
// text: the level of a line for the log, 1 to 5, with its fields behind NULs, or
// one of these.
const (
	SayFailed  = 0    // where, NUL, cause
	SayRefused = 6    // the index of a layer whose artifact does not load, NUL, cause
	MaxMessage = 4096 // bytes; what does not fit is cut off
)

// ExitUnsupported is what a compiler exits with whose engine leaves it at the
// original.
const ExitUnsupported = 3

// Exe is the path by which a runner or a compiler is executed.
const Exe = "/proc/self/fd/3"

// RoleEnv and CompilerEnv are the environment variables that make the binary a
// runner or a compiler.
const (
	RoleEnv     = "_WASMSHIM_ROLE=runner"
	CompilerEnv = "_WASMSHIM_ROLE=compiler"
)

// Context is what a runner knows of its container, or a compiler of its layers.
type Context struct {
	ID        string
	Pod       string
	Namespace string
	ExecID    string   // of the exec that the runner is for; empty for the container's first process
	Args      []string // Args[0] is the guest's argv[0]
	Env       []string // "K=V"
	Path      string   // the guest's file as the container sees it; absolute
	Func      string   // exported function; empty means the engine's default
	Name      string   // stem of the file's name
	Cwd       string
	Options   []string // "key=value"
	LogLevel  string
	Kind      uint32    // one bit of shim.Kind
	Memory    uint64    // cgroup limit in bytes, 0 for none
	CPU       uint64    // cgroup limit in thousandths of a CPU, 0 for none
	Preopens  []Preopen // none: the root directory, unless NoPreopens is set
	Hidden    []string  // absolute paths that the guest must not open; made so by Landlock
	MustHide  bool      // rather no guest than one that is not kept from the hidden paths
	Layers    []Layer   // none: the guest is the file at Path
	Rlimits   []Rlimit  // that the runner sets itself

	NoPreopens bool // the guest is given no directory at all
}

// MaxLayers is how many layers a guest can have.
const MaxLayers = 256

// Layer is a layer of the guest's code, with what is compiled from it.
type Layer struct {
	MediaType string // empty if it is a file
	Digest    string // empty if it is not known
	// Descriptors, from FDLayers on. FD is 0 for the file at Context.Path, which
	// is the only layer then. Artifact is 0 if there is none; in a compiler it is
	// where the artifact is to be written.
	FD, Artifact uint32
}

// Rlimit is a limit of setrlimit(2).
type Rlimit struct {
	Resource   uint32
	Soft, Hard uint64
}

// Preopen is a directory that the guest may use.
type Preopen struct {
	Host  string // as the container sees it
	Guest string // as the guest names it
}

// Encode returns the bytes that a runner reads. Strings must not hold NUL.
func (c *Context) Encode() ([]byte, error) {
	e := encoder{buf: make([]byte, header, 4096)}
	e.str(tagID, c.ID)
	e.str(tagPod, c.Pod)
	e.str(tagNamespace, c.Namespace)
	e.str(tagExecID, c.ExecID)
	for _, a := range c.Args {
		e.str(tagArg, a)
	}
	for _, v := range c.Env {
		e.str(tagEnv, v)
	}
	e.str(tagEntryPath, c.Path)
	e.str(tagEntryFunc, c.Func)
	e.str(tagEntryName, c.Name)
	e.str(tagCwd, c.Cwd)
	for _, o := range c.Options {
		e.str(tagOption, o)
	}
	e.str(tagLogLevel, c.LogLevel)
	e.record(tagKind, binary.LittleEndian.AppendUint32(nil, c.Kind))
	e.record(tagMemory, binary.LittleEndian.AppendUint64(nil, c.Memory))
	e.record(tagCPU, binary.LittleEndian.AppendUint64(nil, c.CPU))
	for _, p := range c.Preopens {
		e.noNUL(tagPreopen, p.Host)
		e.noNUL(tagPreopen, p.Guest)
		e.record(tagPreopen, []byte(p.Host+"\x00"+p.Guest))
	}
	for _, h := range c.Hidden {
		e.str(tagHidden, h)
	}
	if e.err == nil {
		e.err = c.checkFile()
	}
	for _, l := range c.Layers {
		e.noNUL(tagLayer, l.MediaType)
		e.noNUL(tagLayer, l.Digest)
		b := binary.LittleEndian.AppendUint32(nil, l.FD)
		b = binary.LittleEndian.AppendUint32(b, l.Artifact)
		e.record(tagLayer, append(b, l.MediaType+"\x00"+l.Digest...))
	}
	for _, l := range c.Rlimits {
		b := binary.LittleEndian.AppendUint32(nil, l.Resource)
		b = binary.LittleEndian.AppendUint64(b, l.Soft)
		e.record(tagRlimit, binary.LittleEndian.AppendUint64(b, l.Hard))
	}
	var set uint32
	if c.MustHide {
		set |= flagMustHide
	}
	if c.NoPreopens {
		set |= flagNoPreopens
	}
	if set != 0 {
		e.record(tagFlags, binary.LittleEndian.AppendUint32(nil, set))
	}
	if e.err != nil {
		return nil, e.err
	}
	if len(e.buf) > maxSize {
		return nil, fmt.Errorf("args and environment take %d bytes, more than %d", len(e.buf), maxSize)
	}
	copy(e.buf, magic)
	binary.LittleEndian.PutUint32(e.buf[len(magic):], version)
	binary.LittleEndian.PutUint32(e.buf[len(magic)+4:], uint32(len(e.buf)))
	return e.buf, nil
}

// File returns the encoded context in a sealed memory file, which the caller
// closes.
func (c *Context) File() (*os.File, error) {
	b, err := c.Encode()
	if err != nil {
		return nil, err
	}
	return memfile.Sealed("wasmshim-context", b)
}

type encoder struct {
	buf []byte
	err error
}

func (e *encoder) noNUL(tag uint32, s string) {
	if e.err == nil && strings.IndexByte(s, 0) >= 0 {
		e.err = fmt.Errorf("a NUL byte in %s %q", tagNames[tag], s)
	}
}

func (e *encoder) str(tag uint32, s string) {
	e.noNUL(tag, s)
	e.record(tag, []byte(s))
}

func (e *encoder) record(tag uint32, b []byte) {
	e.buf = binary.LittleEndian.AppendUint32(e.buf, tag)
	e.buf = binary.LittleEndian.AppendUint32(e.buf, uint32(len(b)))
	e.buf = append(e.buf, b...)
	e.buf = append(e.buf, 0)
	for len(e.buf)%4 != 0 {
		e.buf = append(e.buf, 0)
	}
}

var tagNames = map[uint32]string{
	tagID: "container id", tagPod: "pod id", tagNamespace: "namespace", tagExecID: "exec id", tagArg: "argument", tagEnv: "environment variable",
	tagEntryPath: "entrypoint", tagEntryFunc: "entrypoint function", tagEntryName: "entrypoint name", tagCwd: "working directory",
	tagOption: "option", tagLogLevel: "log level", tagPreopen: "preopened directory",
	tagHidden: "hidden path", tagLayer: "layer",
}
