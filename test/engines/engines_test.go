// SPDX-License-Identifier: Apache-2.0

// Package engines runs the engine test kit on every engine of this repository.
package engines

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/generated"
	"github.com/libwasmshim/libwasmshim/test/kit"
)

var update = flag.Bool("update", false, "write the table in docs/engines.md anew")

// engines are in the order of the table's columns.
var engines = []struct {
	name  string
	cargo bool // to build it
}{
	{"wasmtime", false},
	{"wasm3", true},
	{"wazero", false},
	{"c-engine", false},
	{"cpp-engine", false},
	{"rust-engine", true},
	{"go-engine", false},
}

// An engine that was built with the header of 1.0 runs on today's core.
func TestOldHeader(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("the engine test kit runs containers, which needs root")
	}
	dir := t.TempDir()
	cmd := exec.Command("../../scripts/shim.sh", "c-engine")
	cmd.Env = append(os.Environ(), "INCLUDE=abi/v1.0", "OBJ=build/engine/c-engine-v1.0", "OUTDIR="+dir)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	check(t, dir+"/containerd-shim-c-engine-v1")
}

// check runs the kit. The Go side collects garbage all the time, and looks at
// every pointer that goes to C.
func check(t *testing.T, binary string) kit.Report {
	t.Setenv("GODEBUG", "cgocheck=1")
	t.Setenv("GOGC", "1")
	report, err := kit.Run(t.Context(), binary, nil)
	require.NoError(t, err)
	for _, r := range report.Results {
		require.NotEqual(t, kit.Failed, r.State, "%s: %s", r.Name, r.Why)
	}
	return report
}

func TestEngines(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("the engine test kit runs containers, which needs root")
	}
	_, cargoErr := exec.LookPath("cargo")
	// With wasmtime's full library it is about that alone.
	full := os.Getenv("WASMTIME") == "full"
	tested := engines
	if full {
		tested = engines[:1]
	}
	var reports []kit.Report
	for _, e := range tested {
		t.Run(e.name, func(t *testing.T) {
			if e.cargo && cargoErr != nil {
				t.Skipf("cargo is not installed: %s cannot be built, and is not tested", e.name)
			}
			cmd := exec.Command("../../scripts/shim.sh", e.name)
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)
			reports = append(reports, check(t, "../../dist/containerd-shim-"+e.name+"-v1"))
		})
	}
	if t.Failed() || len(reports) < len(tested) {
		return
	}
	if full {
		// What the table says of the prebuilt library holds for this one.
		table, err := os.ReadFile("../../docs/engines.md")
		require.NoError(t, err)
		for _, r := range reports[0].Results {
			require.Contains(t, string(table), fmt.Sprintf("\n| %s | %s |", r.Name, r.State))
		}
		return
	}
	var table bytes.Buffer
	require.NoError(t, kit.Markdown(&table, reports))
	generated.Part(t, "../../docs/engines.md", "<!-- table -->\n", "<!-- end -->\n", table.String(), *update, "go test ./test/engines -update")
}
