// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"
	"github.com/tetratelabs/wazero/sys"
	"golang.org/x/sys/unix"

	"github.com/libwasmshim/libwasmshim/shim"
)

const pageSize = 64 << 10

type engine struct{}

func (engine) Describe() shim.Descriptor {
	return shim.Descriptor{
		Name:    "wazero",
		Version: version(),
		Kinds:   shim.KindModule,
		Options: []shim.Option{
			{Key: "mode", Type: shim.OptionChoice, Choices: []string{"compiler", "interpreter"}, Help: "how the guest is run (compiler, where there is one for the CPU)"},
			{Key: "max-memory", Type: shim.OptionSize, Help: "size to which the guest's memory may grow (the container's limit)"},
		},
	}
}

// version is wazero's own, as it was built in.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == "github.com/tetratelabs/wazero" {
				return strings.TrimPrefix(m.Version, "v")
			}
		}
	}
	return ""
}

func (engine) RunWasi(rc *shim.RuntimeContext) (int, error) {
	code, err := rc.Layers[0].Bytes()
	if err != nil {
		return 0, shim.Fail(shim.StageLoad, err)
	}
	ctx := context.Background()
	r := wazero.NewRuntimeWithConfig(ctx, config(rc))
	if _, err := wasi_snapshot_preview1.Instantiate(ctx, r); err != nil {
		return 0, err
	}
	module, err := r.CompileModule(ctx, code)
	if err != nil {
		return 0, shim.Fail(shim.StageCompile, fmt.Errorf("cannot compile %s: %w", cmp.Or(rc.Source.File, "the guest"), err))
	}
	name := rc.Entrypoint.Func
	function, ok := module.ExportedFunctions()[name]
	switch {
	case !ok:
		return 0, shim.Fail(shim.StageLoad, fmt.Errorf("the guest has no exported function %q", name))
	case len(function.ParamTypes()) > 0:
		return 0, shim.Fail(shim.StageLoad, fmt.Errorf("export %q takes %d parameters; an entrypoint takes none", name, len(function.ParamTypes())))
	}
	// A module without _start is a reactor: this must be its first call.
	var first []string
	if name != "_start" {
		first = append(first, "_initialize")
	}
	instance, err := r.InstantiateModule(ctx, module, moduleConfig(rc).WithStartFunctions(first...))
	if err != nil {
		return ended(err, shim.StageLoad)
	}
	_, err = instance.ExportedFunction(name).Call(ctx)
	return ended(err, shim.StageTrap)
}

func config(rc *shim.RuntimeContext) wazero.RuntimeConfig {
	c := wazero.NewRuntimeConfig()
	if rc.Options["mode"] == "interpreter" {
		c = wazero.NewRuntimeConfigInterpreter()
	}
	c = c.WithCoreFeatures(api.CoreFeaturesV2 | experimental.CoreFeaturesThreads | experimental.CoreFeaturesTailCall)
	limit := rc.MemoryLimit
	if value, ok := rc.Options["max-memory"]; ok {
		_, _ = fmt.Sscan(value, &limit) // checked by the core
	}
	if limit > 0 {
		c = c.WithMemoryLimitPages(uint32(min(max(limit/pageSize, 1), 1<<16)))
	}
	return c
}

func moduleConfig(rc *shim.RuntimeContext) wazero.ModuleConfig {
	fs := wazero.NewFSConfig()
	for _, p := range rc.Preopens {
		fs = fs.WithDirMount(p.Host, p.Guest)
	}
	c := wazero.NewModuleConfig().WithName("").WithArgs(rc.Args...).WithFSConfig(fs).
		WithStdin(stream(os.Stdin)).WithStdout(stream(os.Stdout)).WithStderr(stream(os.Stderr)).WithRandSource(rand.Reader).
		WithSysNanosleep().WithSysNanotime().WithSysWalltime().WithOsyield(runtime.Gosched)
	// PWD is how a guest learns its working directory, if it is not set.
	env := rc.Env
	if !slices.ContainsFunc(env, func(kv string) bool { return strings.HasPrefix(kv, "PWD=") }) {
		env = append(slices.Clone(env), "PWD="+rc.Cwd)
	}
	for _, kv := range env {
		key, value, _ := strings.Cut(kv, "=")
		c = c.WithEnv(key, value)
	}
	return c
}

// stream keeps from wazero that a file is a device, unless it is a terminal: it
// takes every character device for one, /dev/null too.
func stream(f *os.File) io.ReadWriter {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if st, statErr := f.Stat(); err == nil || statErr != nil || st.Mode()&os.ModeCharDevice == 0 {
		return f
	}
	return struct{ io.ReadWriter }{f}
}

// ended says what the end of a call means: the guest's own exit, or an error.
func ended(err error, stage shim.Stage) (int, error) {
	var exit *sys.ExitError
	switch {
	case err == nil:
		return 0, nil
	case errors.As(err, &exit):
		return int(exit.ExitCode()), nil
	case strings.HasPrefix(err.Error(), "wasm error: "):
		stage = shim.StageTrap // of a start function, for one
	}
	return 0, shim.Fail(stage, err)
}
