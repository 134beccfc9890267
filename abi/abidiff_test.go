// SPDX-License-Identifier: Apache-2.0

package abi

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the frozen description of the ABI anew: for a release only")

// The last release's ABI, as abidw describes it.
const frozen = "v1.0/wasmshim.abi"

// sharedObject builds the C side as a shared object with debug information,
// which is what the tools compare. Nothing runs it.
func sharedObject(t *testing.T, include string, more ...string) string {
	if _, err := exec.LookPath("abidiff"); err != nil {
		t.Skip("abidiff (Debian's abigail-tools) is not installed: the ABI is not compared with the last release's")
	}
	sources, err := filepath.Glob("../cabi/*.c")
	require.NoError(t, err)
	require.NotEmpty(t, sources)
	dir := t.TempDir()
	exported := "{ global: " + strings.Join(symbols(t), "; ") + "; local: *; };\n"
	require.NoError(t, os.WriteFile(dir+"/symbols", []byte(exported), 0o600))
	out := filepath.Join(dir, "libwasmshim.so")
	args := append([]string{
		"-std=gnu11", "-D_GNU_SOURCE", "-g", "-O0", "-fPIC", "-shared", "-Itestdata/stub", "-I" + include,
		"-Wl,--version-script=" + dir + "/symbols", "-o", out,
	}, more...)
	text, err := exec.Command("gcc", append(args, sources...)...).CombinedOutput()
	require.NoError(t, err, "%s", text)
	return out
}

// abidiff compares with what is frozen. What was added is no change for an
// engine that is there already, nor is what wasm_shim_context holds, of which
// engines have but a pointer.
func abidiff(t *testing.T, object string) *exec.Cmd {
	opaque := filepath.Join(t.TempDir(), "opaque")
	require.NoError(t, os.WriteFile(opaque, []byte("[suppress_type]\n  name = wasm_shim_context\n"), 0o600))
	return exec.Command("abidiff", "--no-added-syms", "--suppressions", opaque, frozen, object)
}

func TestAbidiff(t *testing.T) {
	now := sharedObject(t, "../include")
	if *update {
		out, err := exec.Command("abidw", "--no-corpus-path", "--no-comp-dir-path", "--no-show-locs", "--out-file", frozen, now).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	out, err := abidiff(t, now).CombinedOutput()
	require.NoError(t, err, "the ABI is another than the last release's:\n%s", out)
}

// The comparison sees what would break an engine.
func TestAbidiffSeesChanges(t *testing.T) {
	text, err := os.ReadFile(header)
	require.NoError(t, err)
	for name, change := range map[string][2]string{
		"a member in between":    {"    void *user_data; /*", "    void *more;\n    void *user_data; /*"},
		"a wider member":         {"    uint32_t type; ", "    uint64_t type; "},
		"a callback's parameter": {"int32_t (*stop)(int32_t sig, void *user_data);", "int32_t (*stop)(void *user_data, int32_t sig);"},
	} {
		t.Run(name, func(t *testing.T) {
			changed := strings.Replace(string(text), change[0], change[1], 1)
			require.NotEqual(t, string(text), changed)
			dir := t.TempDir()
			require.NoError(t, os.WriteFile(filepath.Join(dir, "wasm_shim.h"), []byte(changed), 0o600))
			// Our own assertions would be in the way.
			object := sharedObject(t, dir, "-D_Static_assert(a,b)=extern int ignored", "-w")
			out, err := abidiff(t, object).CombinedOutput()
			require.Error(t, err, "%s", out)
		})
	}
}
