// SPDX-License-Identifier: Apache-2.0

package abi

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const header = "../include/wasm_shim.h"

// symbols is the checked-in list of what libwasmshim.a exports.
func symbols(t *testing.T) []string {
	b, err := os.ReadFile("symbols.txt")
	require.NoError(t, err)
	return strings.Fields(string(b))
}

func TestHeaderCompiles(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		// All that an engine does with the header, without running it.
		"c": `#include "wasm_shim.h"
static int32_t run(wasm_shim_context *c, int32_t *e, void *u) { (void)c; (void)u; *e = 0; return WASM_SHIM_OK; }
static const wasm_shim_engine engine = {WASM_SHIM_ENGINE_HEAD, .kinds = WASM_SHIM_KIND_MODULE, .name = "x", .run_wasi = run};
int main(int argc, char **argv) { return wasm_shim_main(argc, argv, &engine); }
`,
		"cpp": `#include "wasm_shim.h"
#include "wasm_shim.h"
static int32_t run(wasm_shim_context *, int32_t *e, void *) { *e = 0; return WASM_SHIM_OK; }
int main(int argc, char **argv) {
    wasm_shim_engine engine = wasm_shim_engine();
    engine.size = sizeof engine;
    engine.abi_major = WASM_SHIM_ABI_MAJOR;
    engine.abi_minor = WASM_SHIM_ABI_MINOR;
    engine.kinds = WASM_SHIM_KIND_MODULE;
    engine.name = "x";
    engine.run_wasi = run;
    return wasm_shim_main(argc, argv, &engine);
}
`,
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "use."+name), []byte(text), 0o644))
	}
	include, err := filepath.Abs(filepath.Dir(header))
	require.NoError(t, err)
	for _, compiler := range []string{"gcc", "clang"} {
		for _, std := range []string{"c99", "c11", "c17", "c++11", "c++17", "c++20"} {
			t.Run(compiler+"/"+std, func(t *testing.T) {
				if _, err := exec.LookPath(compiler); err != nil {
					t.Skip(compiler + " is not installed")
				}
				name := "use.c"
				if strings.HasPrefix(std, "c++") {
					name = "use.cpp"
				}
				cmd := exec.Command(compiler, "-std="+std, "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only", "-I"+include, name)
				cmd.Dir = dir
				out, err := cmd.CombinedOutput()
				require.NoError(t, err, "%s", out)
			})
		}
	}
}

func TestHeaderIsShort(t *testing.T) {
	b, err := os.ReadFile(header)
	require.NoError(t, err)
	require.Less(t, bytes.Count(b, []byte("\n")), 400)
}

func TestHeaderDeclaresWhatIsExported(t *testing.T) {
	b, err := os.ReadFile(header)
	require.NoError(t, err)
	code := regexp.MustCompile(`(?s)/\*.*?\*/`).ReplaceAll(b, nil)
	var declared []string
	for _, m := range regexp.MustCompile(`\b(wasm_shim_\w+)\(`).FindAllSubmatch(code, -1) {
		declared = append(declared, string(m[1]))
	}
	slices.Sort(declared)
	require.Equal(t, symbols(t), slices.Compact(declared)) // a macro uses one of them
}

// Every declaration says since when it is there: 1.0 if the frozen header has it.
func TestHeaderSaysSince(t *testing.T) {
	b, err := os.ReadFile(header)
	require.NoError(t, err)
	frozen, err := os.ReadFile("v1.0/wasm_shim.h")
	require.NoError(t, err)
	for _, m := range regexp.MustCompile(`(?s)/\*(.*?)\*/\s*\n((?:enum|typedef|\w[^\n]*\bwasm_shim_\w+\()[^\n]*)`).FindAllSubmatch(b, -1) {
		comment, declaration := string(m[1]), m[2]
		switch {
		case strings.Contains(comment, "one container, as a callback sees it"):
		case bytes.Contains(frozen, declaration):
			require.Contains(t, comment, "SINCE: 1.0", "%s", declaration)
		default:
			require.Contains(t, comment, "SINCE: 1.1", "%s", declaration)
		}
	}
}
