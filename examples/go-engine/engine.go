// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/bytecodealliance/wasmtime-go/v44"

	"github.com/libwasmshim/libwasmshim/shim"
)

type engine struct{}

func (engine) Describe() shim.Descriptor {
	return shim.Descriptor{
		Name:    "go-engine",
		Version: "0.1.0",
		Kinds:   shim.KindModule | shim.KindText,
		// What else an artifact depends on; to be changed with Compile.
		CacheKey: "1",
		Options: []shim.Option{
			{Key: "fuel", Type: shim.OptionInteger, Help: "instructions that the guest may run before it traps (no limit)", PresenceAffectsCompilation: true},
		},
	}
}

func newEngine(ctx *shim.RuntimeContext) *wasmtime.Engine {
	// Else the library starts a thread for each CPU.
	os.Setenv("TOKIO_WORKER_THREADS", "1")
	config := wasmtime.NewConfig()
	_, limited := ctx.Options["fuel"]
	config.SetConsumeFuel(limited)
	return wasmtime.NewEngineWithConfig(config)
}

func compileModule(ctx *shim.RuntimeContext, e *wasmtime.Engine) (*wasmtime.Module, error) {
	code, err := ctx.Layers[0].Bytes()
	if err == nil && ctx.Kind == shim.KindText {
		code, err = wasmtime.Wat2Wasm(string(code))
	}
	if err != nil {
		return nil, shim.Fail(shim.StageLoad, err)
	}
	module, err := wasmtime.NewModule(e, code)
	if err != nil {
		return nil, shim.Fail(shim.StageCompile, fmt.Errorf("cannot compile %s: %w", cmp.Or(ctx.Source.File, "the guest"), err))
	}
	return module, nil
}

// Compile runs in a process without rights; what it returns is given to RunWasi,
// in this container and in later ones.
func (engine) Compile(ctx *shim.RuntimeContext) ([][]byte, error) {
	module, err := compileModule(ctx, newEngine(ctx))
	if err != nil {
		return nil, err
	}
	artifact, err := module.Serialize()
	return [][]byte{artifact}, err
}

// load takes what Compile made, if there is anything, and if it loads.
func load(ctx *shim.RuntimeContext, e *wasmtime.Engine) (*wasmtime.Module, error) {
	artifact, err := ctx.Layers[0].Artifact()
	if err != nil || artifact == nil {
		return compileModule(ctx, e)
	}
	module, err := wasmtime.NewModuleDeserialize(e, artifact)
	if err != nil {
		ctx.Layers[0].RefuseArtifact(err)
		return compileModule(ctx, e)
	}
	return module, nil
}

func (engine) RunWasi(ctx *shim.RuntimeContext) (int, error) {
	store := wasmtime.NewStore(newEngine(ctx))
	if fuel, limited := ctx.Options["fuel"]; limited {
		n, err := strconv.ParseUint(fuel, 10, 64)
		if err == nil {
			err = store.SetFuel(n)
		}
		if err != nil {
			return 0, err
		}
	}
	module, err := load(ctx, store.Engine)
	if err != nil {
		return 0, err
	}
	wasi, err := wasiConfig(ctx)
	if err != nil {
		return 0, shim.Fail(shim.StageLoad, err)
	}
	store.SetWasi(wasi)
	linker := wasmtime.NewLinker(store.Engine)
	if err := linker.DefineWasi(); err != nil {
		return 0, err
	}
	instance, err := linker.Instantiate(store, module)
	if err != nil {
		return ended(err, shim.StageLoad)
	}
	entry := instance.GetFunc(store, ctx.Entrypoint.Func)
	if entry == nil {
		return 0, shim.Fail(shim.StageLoad, fmt.Errorf("%s has no exported function %q", ctx.Source.File, ctx.Entrypoint.Func))
	}
	ctx.Log("debug", "%s is compiled and linked", ctx.Source.File)
	_, err = entry.Call(store)
	return ended(err, shim.StageTrap)
}

// ended says what the end of a call means: the guest's own exit, or an error.
func ended(err error, stage shim.Stage) (int, error) {
	if err == nil {
		return 0, nil
	}
	var e *wasmtime.Error
	if errors.As(err, &e) {
		if code, ok := e.ExitStatus(); ok {
			return int(code), nil
		}
	}
	var trap *wasmtime.Trap
	if errors.As(err, &trap) {
		stage = shim.StageTrap
	}
	return 0, shim.Fail(stage, err)
}

func wasiConfig(ctx *shim.RuntimeContext) (*wasmtime.WasiConfig, error) {
	c := wasmtime.NewWasiConfig()
	c.InheritStdin()
	c.InheritStdout()
	c.InheritStderr()
	c.SetArgv(ctx.Args)
	var keys, values []string
	for _, kv := range append(ctx.Env, "PWD="+ctx.Cwd) {
		key, value, _ := strings.Cut(kv, "=")
		keys, values = append(keys, key), append(values, value)
	}
	c.SetEnv(keys, values)
	for _, p := range ctx.Preopens {
		err := c.PreopenDir(p.Host, p.Guest, wasmtime.DIR_READ|wasmtime.DIR_WRITE, wasmtime.FILE_READ|wasmtime.FILE_WRITE)
		if err != nil {
			return nil, fmt.Errorf("cannot open directory %s for the guest: %w", p.Host, err)
		}
	}
	return c, nil
}
