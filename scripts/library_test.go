// SPDX-License-Identifier: Apache-2.0

// Package scripts tests what the scripts decide.
package scripts

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The tests on Kubernetes have wasmtime's full library where it can be built in time, and
// another one is named at the end.
func TestLibraryOfKubernetes(t *testing.T) {
	script, err := os.ReadFile("test.sh")
	require.NoError(t, err)
	const missing = "echo 'wasmtime: cargo is missing' >&2; exit 1"
	for name, tt := range map[string]struct {
		asked, minutes string // WASMTIME, and what says how long building takes
		until          int    // minutes from now; 0 is no end
		want, named    string
	}{
		"built":               {"", "echo 0", 0, "full", ""},
		"built, and time":     {"", "echo 0", 50, "full", ""},
		"time to build":       {"", "echo 12", 50, "full", ""},
		"no time to build":    {"", "echo 30", 42, "prebuilt", "k8s (there is no time to build the full one)"},
		"no cargo":            {"", missing, 0, "prebuilt", "k8s (wasmtime: cargo is missing)"},
		"prebuilt wanted":     {"prebuilt", "echo 0", 0, "prebuilt", ""},
		"full is not to have": {"full", missing, 0, "full", ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, text := range map[string]string{
				"scripts/test.sh": string(script), "scripts/wasmtime.sh": tt.minutes, "scripts/deps.sh": "echo deps: $*",
				"scripts/shim.sh": "echo shim: $WASMTIME", "bin/go": "echo go: $WASMTIME",
			} {
				if !strings.HasPrefix(text, "#!") {
					text = "#!/bin/sh\n" + text + "\n"
				}
				require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, file)), 0o755))
				require.NoError(t, os.WriteFile(filepath.Join(dir, file), []byte(text), 0o755))
			}
			cmd := exec.Command("scripts/test.sh", "k8s")
			cmd.Dir = dir
			cmd.Env = []string{"PATH=" + dir + "/bin:" + os.Getenv("PATH"), "HOME=" + dir, "WASMTIME=" + tt.asked}
			if tt.asked == "" {
				cmd.Env = cmd.Env[:2]
			}
			if tt.until > 0 {
				cmd.Env = append(cmd.Env, fmt.Sprint("WASMSHIM_UNTIL=", time.Now().Add(time.Duration(tt.until)*time.Minute).Unix()))
			}
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)
			require.Contains(t, string(out), "shim: "+tt.want+"\n")
			require.Contains(t, string(out), "go: "+tt.want+"\n")
			require.Equal(t, tt.want == "full", strings.Contains(string(out), "deps: full\n"), "%s", out)
			_, end, _ := strings.Cut(string(out), "\nafter ")
			_, named, _ := strings.Cut(end, "which serves no HTTP: ")
			named, _, _ = strings.Cut(named, "\n")
			require.Equal(t, tt.named, named, "%s", out)
		})
	}
}
