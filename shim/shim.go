// SPDX-License-Identifier: Apache-2.0

// Package shim is the Go core of a containerd runtime for WebAssembly.
package shim

import (
	"cmp"
	"os"
	"strings"

	"github.com/libwasmshim/libwasmshim/shim/internal/bootstrap"
	"github.com/libwasmshim/libwasmshim/shim/internal/cli"
	"github.com/libwasmshim/libwasmshim/shim/internal/entrypoint"
	"github.com/libwasmshim/libwasmshim/shim/internal/image"
	"github.com/libwasmshim/libwasmshim/shim/internal/options"
)

// Kind is a set of the kinds of guest that an engine runs.
type Kind uint32

// What the core recognises by looking at a file's first bytes.
const (
	KindModule    = Kind(entrypoint.Module)    // a core WebAssembly module
	KindComponent = Kind(entrypoint.Component) // a WebAssembly component
	KindText      = Kind(entrypoint.Text)      // WebAssembly text format (.wat)
	KindOther     = Kind(entrypoint.Other)     // anything that the engine's can_handle says yes to
)

// Option is one engine option that operators may set.
type Option struct {
	Key                string // unique within the engine
	Help               string // one line
	Type               OptionType
	Choices            []string // what an OptionChoice chooses from
	AffectsCompilation bool     // the value is part of the compile cache's key

	PresenceAffectsCompilation bool // whether there is a value is part of the compile cache's key
}

// OptionType says what values an option takes.
type OptionType = options.Type

// The types of options. The core checks a value before a container is created,
// and hands it to the engine in the form that is named here.
const (
	OptionString   = options.String   // any text, as it was given
	OptionBoolean  = options.Boolean  // "true" or "false"
	OptionInteger  = options.Integer  // 0 to 2^64-1, decimal
	OptionSize     = options.Size     // "64MiB" is given as bytes, decimal
	OptionDuration = options.Duration // "1m30s" is given as milliseconds, decimal
	OptionChoice   = options.Choice   // one of Option.Choices
)

// Descriptor is what the daemon knows of an engine. It is data: the daemon
// never calls engine code.
type Descriptor struct {
	Name       string   // "wasmtime"
	ShimName   string   // the runtime is io.containerd.<ShimName>.v1; "" is Name
	Version    string   // the engine's version
	Revision   string   // the engine's VCS revision; may be empty
	LayerTypes []string // OCI layer media types that it takes beside the core's own
	ABI        string   // version of the C interface that it was built for; empty for an engine in Go
	Kinds      Kind
	Options    []Option
	CacheKey   string // what beside version and options decides whether an artifact fits
	Compiles   bool   // it makes artifacts; for an engine in Go, it is a Compiler
}

// Config adjusts the core.
type Config struct {
	NoSetupLogger   bool   // leave the daemon's logger alone: without setup its lines go nowhere
	DefaultLogLevel string // one of LogLevels; "" means "info"
}

// Start is what was done of start before Main.
type Start = bootstrap.Start

// LogLevels are the names of the log levels, the fewest lines first.
var LogLevels = options.LogLevels

// Main runs every role that is written in Go and returns the exit code.
// The arguments are those of the process. start is nil in any role but that of the daemon
// that answers start.
func Main(d Descriptor, c Config, start *Start) int {
	args := os.Args[1:]
	if hasRole(image.WorkerEnv) {
		return image.RunWorker()
	}
	code := image.Engine{
		Name: d.Name, Kinds: entrypoint.Kind(d.Kinds), LayerTypes: d.LayerTypes, CacheKey: d.CacheKey, Compiles: d.Compiles,
	}
	var declared []options.Declaration
	for _, o := range d.Options {
		declared = append(declared, options.Declaration(o))
	}
	if start == nil && !bootstrap.Called(args) {
		return cli.Run(cli.Program{
			Engine: code, ShimName: cmp.Or(d.ShimName, d.Name), EngineVersion: d.Version, EngineRevision: d.Revision, ABI: d.ABI, Options: declared,
		}, os.Args, os.Stdout, os.Stderr)
	}
	level := c.DefaultLogLevel
	if level == "" {
		level = "info"
	}
	return bootstrap.Run(bootstrap.Engine{
		Code: code, ShimName: cmp.Or(d.ShimName, d.Name), Version: d.Version, Revision: d.Revision,
		Options: declared, LogLevel: level, NoLogger: c.NoSetupLogger,
	}, args, start)
}

func hasRole(env string) bool {
	name, value, _ := strings.Cut(env, "=")
	return os.Getenv(name) == value
}
