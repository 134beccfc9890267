// SPDX-License-Identifier: Apache-2.0

package abi

import (
	"bytes"
	"context"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// probe builds the shim of testdata/probe and returns its path.
var probe = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "abi-")
	if err != nil {
		return "", err
	}
	cmd := exec.Command("../scripts/shim.sh", "testdata/probe")
	cmd.Env = append(os.Environ(), "OUTDIR="+dir)
	cmd.Stderr = os.Stderr
	return filepath.Join(dir, "containerd-shim-probe-v1"), cmd.Run()
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, _ := probe(); path != "" {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

func probePath(t *testing.T) string {
	path, err := probe()
	require.NoError(t, err)
	return path
}

func library(t *testing.T) string {
	probePath(t) // packs it
	return "../build/libwasmshim.a"
}

func output(t *testing.T, name string, args ...string) string {
	out, err := exec.Command(name, args...).Output()
	require.NoError(t, err)
	return string(out)
}

func TestExportedSymbols(t *testing.T) {
	var exported []string
	for line := range strings.Lines(output(t, "nm", "-g", "--defined-only", library(t))) {
		if f := strings.Fields(line); len(f) == 3 {
			exported = append(exported, f[2])
		}
	}
	slices.Sort(exported)
	require.Equal(t, symbols(t), exported)
}

func TestLibraryHasNsexecAndNoGoConstructor(t *testing.T) {
	dir := t.TempDir()
	lib, err := filepath.Abs(library(t))
	require.NoError(t, err)
	cmd := exec.Command("ar", "x", lib)
	cmd.Dir = dir
	require.NoError(t, cmd.Run())
	f, err := elf.Open(filepath.Join(dir, "wasmshim.o"))
	require.NoError(t, err)
	defer f.Close()

	names := map[string]bool{}
	all, err := f.Symbols()
	require.NoError(t, err)
	for _, s := range all {
		names[s.Name] = true
	}
	require.True(t, names["nsexec"], "nsexec is not in the library")
	require.True(t, names["wasmshim_rt0"], "what starts the core has not been named")
	require.True(t, names["wasmshim_init_rt0"], "what starts the stage in a container has not been named")

	rt0 := map[string]bool{}
	for _, s := range f.Sections {
		if s.Type != elf.SHT_RELA {
			continue
		}
		of := f.Sections[s.Info].Name
		data, err := s.Data()
		require.NoError(t, err)
		for ; of == ".init_array" && len(data) > 0; data = data[24:] {
			i := f.ByteOrder.Uint32(data[12:])
			rt0[all[i-1].Name] = true
		}
	}
	for name := range rt0 {
		require.NotContains(t, name, "rt0", "Go would start before main")
	}
	require.NotEmpty(t, rt0, "no constructor at all: where is nsexec's?")
}

// Not all compilers ask the linker for a build id.
func TestBinaryHasABuildID(t *testing.T) {
	out := t.TempDir()
	cmd := exec.Command("../scripts/shim.sh", "testdata/probe")
	cmd.Env = append(os.Environ(), "CC=gcc -Wl,--build-id=none", "OUTDIR="+out, "OBJ="+filepath.Join(out, "obj"))
	text, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", text)
	f, err := elf.Open(filepath.Join(out, "containerd-shim-probe-v1"))
	require.NoError(t, err)
	defer f.Close()
	require.NotNil(t, f.Section(".note.gnu.build-id"))
}

func TestBinaryIsStaticStrippedAndFixed(t *testing.T) {
	f, err := elf.Open(probePath(t))
	require.NoError(t, err)
	defer f.Close()
	require.Equal(t, elf.ET_EXEC, f.Type, "position independent")
	require.Nil(t, f.Section(".symtab"), "not stripped")
	for _, p := range f.Progs {
		require.NotEqual(t, elf.PT_INTERP, p.Type, "not static")
		require.NotEqual(t, elf.PT_DYNAMIC, p.Type, "not static")
	}
}

// The library links with every linker, and Go starts once, when it is asked to.
func TestLinkers(t *testing.T) {
	lib := library(t)
	for _, linker := range []struct{ name, compiler string }{{"bfd", "gcc"}, {"gold", "gcc"}, {"lld", "clang"}, {"mold", "gcc"}} {
		for _, flags := range [][]string{nil, {"-Wl,--gc-sections"}, {"-Wl,--gc-sections", "-flto"}} {
			t.Run(linker.name+" "+strings.Join(flags, " "), func(t *testing.T) {
				if _, err := exec.LookPath("ld." + linker.name); err != nil {
					t.Skipf("%s is not installed: scripts/deps.sh test", linker.name)
				}
				shim := filepath.Join(t.TempDir(), "containerd-shim-probe-v1")
				args := append([]string{
					"-fuse-ld=" + linker.name, "-O2", "-ffunction-sections", "-fdata-sections", "-fno-pie", "-static", "-no-pie",
					"-Wl,--build-id", "-I../include", "-w", "-o", shim, "testdata/probe/engine.c", lib,
				}, flags...)
				out, err := exec.Command(linker.compiler, args...).CombinedOutput()
				require.NoError(t, err, "%s", out)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				for _, role := range []struct {
					env, arg, want string
				}{
					{"", "--version", "io.containerd.probe.v1"},
					{"_LIBCONTAINER_INITPIPE=nonsense", "init", "_LIBCONTAINER_INITPIPE"},
					{"_WASMSHIM_ROLE=runner", "x", "probe: context: "},
				} {
					cmd := exec.CommandContext(ctx, shim, role.arg)
					cmd.Env = []string{role.env}
					out, err = cmd.CombinedOutput()
					require.Contains(t, string(out), role.want, err)
				}
			})
		}
	}
}

// Where there is no Go to start, calling it would wait for ever.
func TestNoGoInTheBinary(t *testing.T) {
	dir := t.TempDir()
	stub := filepath.Join(dir, "stub.c")
	require.NoError(t, os.WriteFile(stub, []byte("#include <unistd.h>\n#include \"_cgo_export.h\"\n"+
		"void wasmshimGoInit(void) { pause(); }\nint wasmshimGoMain(wasm_shim_engine *e, struct wasmshim_start *s) { (void)e; (void)s; return pause(); }\n"), 0o600))
	sources, err := filepath.Glob("../cabi/*.c")
	require.NoError(t, err)
	shim := filepath.Join(dir, "shim")
	args := append([]string{"-std=gnu11", "-D_GNU_SOURCE", "-static", "-w", "-Itestdata/stub", "-I../include", "-o", shim, stub, "testdata/probe/engine.c"}, sources...)
	out, err := exec.Command("gcc", args...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, shim, "--version")
	out, _ = cmd.CombinedOutput()
	require.Equal(t, 1, cmd.ProcessState.ExitCode())
	require.Equal(t, "wasm_shim_main: no Go runtime in this binary: link it with the libwasmshim.a of `make build`\n", string(out))
}

// libcontainer's constructor runs before main: given nonsense, it refuses,
// even in a process that otherwise would be a runner.
func TestNsexecRunsBeforeMain(t *testing.T) {
	cmd := exec.Command(probePath(t), "init")
	cmd.Env = []string{"_LIBCONTAINER_INITPIPE=nonsense", "_WASMSHIM_ROLE=runner"}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	require.Error(t, cmd.Run())
	require.Contains(t, stderr.String(), "_LIBCONTAINER_INITPIPE")
	require.NotContains(t, stderr.String(), "context")
}

func TestUnknownEngine(t *testing.T) {
	out, err := exec.Command("../scripts/shim.sh", "nix").CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "wasmtime")
	require.Contains(t, string(out), "c-engine")
}

func TestEngineWithoutMain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "lost")
	require.NoError(t, os.Mkdir(dir, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "engine.c"), []byte("int nothing;\n"), 0o600))
	cmd := exec.Command("../scripts/shim.sh", dir)
	cmd.Env = append(os.Environ(), "OUTDIR="+t.TempDir())
	out, err := cmd.CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), dir+": no main() that calls wasm_shim_main(): end a source with WASM_SHIM_MAIN(engine)")
}

// The runtime has the shim's name, which need not be the engine's.
func TestShimName(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "named")
	require.NoError(t, os.Mkdir(dir, 0o700))
	source := `#include "wasm_shim.h"
static int32_t run_wasi(wasm_shim_context *c, int32_t *e, void *u) { (void)c; (void)u; *e = 0; return WASM_SHIM_OK; }
static const wasm_shim_engine engine = {
	WASM_SHIM_ENGINE_HEAD, .kinds = WASM_SHIM_KIND_OTHER, .name = "engine-name", .shim_name = "other", .run_wasi = run_wasi,
};
WASM_SHIM_MAIN(engine)
`
	require.NoError(t, os.WriteFile(filepath.Join(dir, "engine.c"), []byte(source), 0o600))
	out := t.TempDir()
	cmd := exec.Command("../scripts/shim.sh", dir)
	cmd.Env = append(os.Environ(), "OUTDIR="+out)
	text, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", text)
	shim := filepath.Join(out, "containerd-shim-named-v1")
	require.Contains(t, output(t, shim, "--version"), "io.containerd.other.v1")
	require.Contains(t, output(t, shim, "--version"), "engine-name")
	require.Contains(t, output(t, shim, "config"), "containerd.runtimes.other]\n  runtime_type = 'io.containerd.other.v1'")
}
