// SPDX-License-Identifier: Apache-2.0

// Package pack tests what an engine's author installs, and that it needs no Go.
package pack

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

const repository = "../.."

// version is that of the repository.
func version(t *testing.T) string {
	b, err := os.ReadFile(filepath.Join(repository, "VERSION"))
	require.NoError(t, err)
	return strings.TrimSpace(string(b))
}

var workDir string

func TestMain(m *testing.M) {
	code := func() int {
		dir, err := os.MkdirTemp("", "wasmshim-pack-")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		workDir = dir
		return m.Run()
	}()
	os.Exit(code)
}

var made struct {
	sync.Once
	tarball string
	err     error
}

// dist makes the tarball, once.
func dist(t *testing.T) string {
	made.Do(func() {
		cmd := exec.Command("scripts/dist.sh")
		cmd.Dir = repository
		cmd.Stderr = os.Stderr
		var out []byte
		out, made.err = cmd.Output()
		made.tarball = filepath.Join(repository, strings.TrimSpace(string(out)))
	})
	require.NoError(t, made.err)
	return made.tarball
}

// unpacked is the tarball's tree in a directory of the test's own, whose name
// has a blank for good measure.
func unpacked(t *testing.T) string {
	dir := filepath.Join(t.TempDir(), "an sdk")
	require.NoError(t, os.Mkdir(dir, 0o755))
	run(t, "", "tar", "-xzf", dist(t), "-C", dir, "--strip-components=1")
	return dir
}

// noGo is an environment without a Go toolchain, cargo, or this repository.
func noGo(more ...string) []string {
	return append([]string{"PATH=/usr/bin:/bin", "HOME=/nonexistent", "LC_ALL=C"}, more...)
}

func run(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	return runEnv(t, dir, nil, name, args...)
}

func runEnv(t *testing.T, dir string, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Env = dir, env
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	require.NoError(t, cmd.Run(), "%s %s:\n%s", name, strings.Join(args, " "), &out)
	return out.String()
}

// engines writes the source of a small engine to a directory.
func engine(t *testing.T, name string) string {
	dir := t.TempDir()
	source := `#include <stdio.h>
#include "wasm_shim.h"
static int32_t run_wasi(wasm_shim_context *ctx, int32_t *exit_code, void *user_data) {
	(void)user_data;
	printf("hello, %s\n", wasm_shim_entry_name(ctx));
	*exit_code = 3;
	return WASM_SHIM_OK;
}
int main(int argc, char **argv) {
	static wasm_shim_engine engine;
	engine.size = sizeof(engine);
	engine.abi_major = WASM_SHIM_ABI_MAJOR;
	engine.kinds = WASM_SHIM_KIND_MODULE;
	engine.name = "my";
	engine.run_wasi = run_wasi;
	return wasm_shim_main(argc, argv, &engine);
}
`
	require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(source), 0o600))
	return dir
}

// works runs a shim outside of a container, and checks how it is linked.
func works(t *testing.T, shim string) {
	t.Helper()
	require.Contains(t, runEnv(t, "", noGo(), shim, "--version"), "io.containerd.my.v1")
	module := filepath.Join(t.TempDir(), "app.wasm")
	require.NoError(t, os.WriteFile(module, []byte("\x00asm\x01\x00\x00\x00"), 0o600))
	cmd := exec.Command(shim, "run", module)
	out, err := cmd.CombinedOutput()
	require.Equal(t, 3, cmd.ProcessState.ExitCode(), "%s %v", out, err)
	require.Equal(t, "hello, app\n", string(out))
	header := run(t, "", "readelf", "-hlW", shim)
	require.Contains(t, header, "EXEC (Executable file)")
	require.NotContains(t, header, "INTERP")
	require.Contains(t, run(t, "", "readelf", "-n", shim), "Build ID")
}

func TestPkgConfig(t *testing.T) {
	sdk, dir := unpacked(t), engine(t, "engine.c")
	runEnv(t, dir, noGo("PKG_CONFIG_PATH="+sdk+"/lib/pkgconfig"), "sh", "-ec",
		`eval cc -static -Wl,--build-id=none -o containerd-shim-my-v1 engine.c "$(pkg-config --cflags --libs --static wasmshim)"`)
	works(t, dir+"/containerd-shim-my-v1")
	require.Equal(t, version(t)+"\n", runEnv(t, "", noGo("PKG_CONFIG_PATH="+sdk+"/lib/pkgconfig"), "pkg-config", "--modversion", "wasmshim"))
}

// A real engine, linked with the tarball's library and tested by the tarball's
// kit.
func TestKitOfTheTarball(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("the engine test kit runs containers, which needs root")
	}
	sdk, dir := unpacked(t), t.TempDir()
	module := strings.TrimSpace(run(t, repository, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/bytecodealliance/wasmtime-go/v44"))
	source, err := filepath.Abs(filepath.Join(repository, "examples/c-engine/engine.c"))
	require.NoError(t, err)
	machine := strings.TrimSpace(run(t, "", "uname", "-m"))
	runEnv(t, dir, noGo("PKG_CONFIG_PATH="+sdk+"/lib/pkgconfig"), "sh", "-ec",
		`eval cc -static -Wl,--no-warnings -o containerd-shim-c-engine-v1 -D_GNU_SOURCE -isystem `+module+`/build/include `+source+` `+
			`"$(pkg-config --cflags --libs --static wasmshim)" `+module+`/build/linux-`+machine+`/libwasmtime.a -lm -ldl`)
	out := runEnv(t, dir, noGo(), sdk+"/bin/wasmshim-test", dir+"/containerd-shim-c-engine-v1")
	require.Regexp(t, "module +yes", out)
	require.Regexp(t, "compiles ahead +yes", out)
}

func cmake(t *testing.T, env []string, dir, lists string, args ...string) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "CMakeLists.txt"), []byte("cmake_minimum_required(VERSION 3.16)\n"+lists), 0o600))
	// Not all compilers ask the linker for a build id.
	args = append(args, "-DCMAKE_EXE_LINKER_FLAGS=-Wl,--build-id=none")
	runEnv(t, dir, env, "cmake", append([]string{"-S", ".", "-B", "build"}, args...)...)
	runEnv(t, dir, env, "cmake", "--build", "build")
}

func TestFindPackage(t *testing.T) {
	sdk := unpacked(t)
	for _, test := range []struct{ source, project string }{
		{"engine.c", "project(my C)\n"},
		{"engine.cc", "project(my CXX)\n"},
	} {
		t.Run(test.source, func(t *testing.T) {
			dir := engine(t, test.source)
			cmake(t, noGo(), dir, test.project+"enable_testing()\ninclude(CTest)\nfind_package(WasmShim "+version(t)+" REQUIRED)\n"+
				"wasm_shim_add_shim(my SOURCES "+test.source+")\n", "-DCMAKE_PREFIX_PATH="+sdk)
			shim := dir + "/build/containerd-shim-my-v1"
			works(t, shim)
			require.NotContains(t, run(t, "", "readelf", "-SW", shim), ".symtab")
			require.Contains(t, runEnv(t, dir+"/build", noGo(), "ctest", "-N"), "containerd-shim-my-v1.engine")
		})
	}
	t.Run("a version that is too new", func(t *testing.T) {
		dir := engine(t, "engine.c")
		require.NoError(t, os.WriteFile(filepath.Join(dir, "CMakeLists.txt"),
			[]byte("cmake_minimum_required(VERSION 3.16)\nproject(my C)\nfind_package(WasmShim 99 REQUIRED)\n"), 0o600))
		out, err := exec.Command("cmake", "-S", dir, "-B", dir+"/build", "-DCMAKE_PREFIX_PATH="+sdk).CombinedOutput()
		require.Error(t, err)
		require.Contains(t, string(out), "version: "+version(t))
	})
}

func TestSubproject(t *testing.T) {
	source, err := filepath.Abs(repository)
	require.NoError(t, err)
	for name, lists := range map[string]string{
		"add_subdirectory": "project(my C)\nadd_subdirectory(" + source + " wasmshim)\n",
		"FetchContent": "project(my C)\ninclude(FetchContent)\nFetchContent_Declare(wasmshim SOURCE_DIR " + source + ")\n" +
			"FetchContent_MakeAvailable(wasmshim)\n",
	} {
		t.Run(name, func(t *testing.T) {
			dir := engine(t, "engine.c")
			cmake(t, nil, dir, lists+"wasm_shim_add_shim(my SOURCES engine.c)\n")
			works(t, dir+"/build/containerd-shim-my-v1")
		})
	}
	t.Run("by itself, and installed", func(t *testing.T) {
		build, prefix := t.TempDir(), t.TempDir()
		run(t, "", "cmake", "-S", source, "-B", build)
		run(t, "", "cmake", "--build", build)
		run(t, "", "cmake", "--install", build, "--prefix", prefix)
		require.Equal(t, tree(t, unpacked(t)), tree(t, prefix))
		out, err := exec.Command("cmake", "--install", build, "--prefix", "/dev/null/nowhere").CombinedOutput()
		require.Error(t, err, "%s", out)
		require.Contains(t, string(out), "scripts/install.sh: ")
	})
}

// tree lists files with their modes.
func tree(t *testing.T, dir string) (list []string) {
	for line := range strings.Lines(run(t, dir, "find", ".", "-printf", "%P %M\n")) {
		list = append(list, line)
	}
	require.Greater(t, len(list), 20)
	slices.Sort(list)
	return list
}

func TestInstall(t *testing.T) {
	dest := t.TempDir()
	run(t, repository, "make", "install", "DESTDIR="+dest, "PREFIX=/opt/wasmshim")
	require.Equal(t, tree(t, unpacked(t)), tree(t, dest+"/opt/wasmshim"))
	for _, file := range []string{
		"include/wasm_shim.h", "lib/libwasmshim.a", "lib/pkgconfig/wasmshim.pc", "lib/cmake/WasmShim/WasmShimConfig.cmake",
		"lib/cmake/WasmShim/WasmShimConfigVersion.cmake", "bin/wasmshim-test", "share/man/man7/wasmshim.7",
		"share/doc/libwasmshim/LICENSE", "share/doc/libwasmshim/licenses/libseccomp_LGPL-2.1",
	} {
		require.FileExists(t, filepath.Join(dest, "opt/wasmshim", file))
	}
	manual := run(t, "", "groff", "-man", "-Tascii", "-ww", dest+"/opt/wasmshim/share/man/man7/wasmshim.7")
	require.Contains(t, manual, "libwasmshim "+version(t))
	require.NotContains(t, manual, "warning")
}

// Two copies of the repository, in different places, give the same bytes.
func TestDistIsReproducible(t *testing.T) {
	first, err := os.ReadFile(dist(t))
	require.NoError(t, err)
	copied := filepath.Join(t.TempDir(), "somewhere", "else")
	run(t, "", "git", "clone", "-q", repository, copied)
	// What is not committed yet is part of the first.
	run(t, repository, "sh", "-ec", "git ls-files -z -mo --exclude-standard --deduplicate | xargs -0 -r cp --parents -t '"+copied+"'")
	out := run(t, copied, "scripts/dist.sh")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	second, err := os.ReadFile(filepath.Join(copied, lines[len(lines)-1]))
	require.NoError(t, err)
	require.True(t, bytes.Equal(first, second), "dist differs from place to place")
}

func TestBillOfMaterials(t *testing.T) {
	sdk := unpacked(t)
	text, err := os.ReadFile(sdk + "/share/doc/libwasmshim/wasmshim.spdx.json")
	require.NoError(t, err)
	var document struct {
		SPDXVersion, DataLicense, SPDXID, Name, DocumentNamespace string
		CreationInfo                                              struct {
			Created  string
			Creators []string
		}
		Packages []struct{ SPDXID, Name, VersionInfo, LicenseConcluded string }
	}
	require.NoError(t, json.Unmarshal(text, &document))
	require.Equal(t, "SPDX-2.3", document.SPDXVersion)
	require.Equal(t, "CC0-1.0", document.DataLicense)
	require.NotEmpty(t, document.CreationInfo.Created)
	ids, names := map[string]bool{}, map[string]string{}
	for _, p := range document.Packages {
		require.False(t, ids[p.SPDXID], p.SPDXID)
		ids[p.SPDXID] = true
		names[p.Name] = p.LicenseConcluded
		require.NotEmpty(t, p.VersionInfo, p.Name)
		require.NotContains(t, p.LicenseConcluded, "NOASSERTION", p.Name)
		require.NotEmpty(t, p.LicenseConcluded, p.Name)
	}
	require.Equal(t, "LGPL-2.1-only", names["libseccomp"])
	require.Equal(t, "BSD-3-Clause", names["go"])
	// Every module that a linked shim names is in the list.
	shim := filepath.Join(workDir, "shim")
	dir := engine(t, "engine.c")
	runEnv(t, dir, noGo("PKG_CONFIG_PATH="+sdk+"/lib/pkgconfig"), "sh", "-ec",
		`eval cc -static -o '`+shim+`' engine.c "$(pkg-config --cflags --libs --static wasmshim)"`)
	found := 0
	for line := range strings.Lines(run(t, "", "strings", "-n", "6", shim)) {
		if f := strings.Fields(line); len(f) >= 3 && f[0] == "dep" && strings.Contains(f[1], "/") {
			found++
			require.Contains(t, names, f[1])
		}
	}
	require.Greater(t, found, 20)
}

// What an engine is compiled and linked with is in the binary, also when no file
// of its is newer: two libraries for one engine are not mixed up.
func TestOtherFlags(t *testing.T) {
	dir := engine(t, "engine.c")
	shim := filepath.Join(dir, "out", "containerd-shim-"+filepath.Base(dir)+"-v1")
	build := func(flags string) []byte {
		env := append(os.Environ(), "OUTDIR="+dir+"/out", "OBJ="+dir+"/obj", "CFLAGS="+flags)
		runEnv(t, repository, env, "scripts/shim.sh", dir)
		b, err := os.ReadFile(shim)
		require.NoError(t, err)
		return b
	}
	one := build("-DWASMSHIM_TEST=1")
	before, err := os.Stat(shim)
	require.NoError(t, err)
	require.Equal(t, one, build("-DWASMSHIM_TEST=1"))
	after, err := os.Stat(shim)
	require.NoError(t, err)
	require.Equal(t, before.ModTime(), after.ModTime(), "nothing has changed, and it was linked again")
	build("-DWASMSHIM_TEST=2")
	after, err = os.Stat(shim)
	require.NoError(t, err)
	require.NotEqual(t, before.ModTime(), after.ModTime(), "it was not built with other flags")
}
