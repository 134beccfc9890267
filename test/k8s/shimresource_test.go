// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/libwasmshim/libwasmshim/test/harness"
)

// shimResource is what the runtime-class-manager knows of a Shim.
type shimResource struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string
	Metadata   struct{ Name string }
	Spec       struct {
		NodeSelector  map[string]string `yaml:"nodeSelector"`
		FetchStrategy struct {
			Type     string
			AnonHTTP struct{ Location string } `yaml:"anonHttp"`
		} `yaml:"fetchStrategy"`
		Options         map[string]string              `yaml:"containerdRuntimeOptions"`
		RuntimeClass    struct{ Name, Handler string } `yaml:"runtimeClass"`
		RolloutStrategy struct{ Type string }          `yaml:"rolloutStrategy"`
	}
}

// TestShimResource does what the runtime-class-manager's source does with deploy/shim.yaml
// and with what `make archive` makes: each file in the archive is a shim, it goes to a
// directory of the manager's own, and its path, its name and the options, as texts, are
// appended to containerd's configuration. The manager itself is in no registry.
func TestShimResource(t *testing.T) {
	t.Parallel()
	repo, err := harness.Repo()
	require.NoError(t, err)
	text, err := os.ReadFile(filepath.Join(repo, "deploy/shim.yaml"))
	require.NoError(t, err)
	var shim shimResource
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	require.NoError(t, decoder.Decode(&shim))
	require.Equal(t, []string{"runtime.spinkube.dev/v1alpha1", "Shim", "anonymousHttp", "recreate"},
		[]string{shim.APIVersion, shim.Kind, shim.Spec.FetchStrategy.Type, shim.Spec.RolloutStrategy.Type})

	n := newNode(t, setup{version: harness.Containerd24, bare: true, images: formImages})
	location, ok := strings.CutSuffix(filepath.Base(shim.Spec.FetchStrategy.AnonHTTP.Location), ".tar.gz")
	require.True(t, ok)
	out, err := exec.Command(filepath.Join(repo, "scripts/archive.sh"), filepath.Join(repo, "dist"), "containerd-shim-wasmtime-v1", filepath.Join(n.Dir, "served", location)).CombinedOutput()
	require.NoError(t, err, "%s", out)
	bin := filepath.Join(n.Dir, "rcm/bin")
	require.NoError(t, os.MkdirAll(bin, 0o755))
	out, err = exec.Command("tar", "-xzf", filepath.Join(n.Dir, "served", location+".tar.gz"), "-C", bin).CombinedOutput()
	require.NoError(t, err, "%s", out)
	entries, err := os.ReadDir(bin)
	require.NoError(t, err)
	require.Len(t, entries, 1)
	program := entries[0].Name()
	runtime := strings.TrimPrefix(program, "containerd-shim-")
	require.Equal(t, runtime, shim.Spec.RuntimeClass.Handler)

	const plugin = `[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.`
	added := fmt.Sprintf("\n%s%s]\nruntime_type = %q\n\n%[1]s%q.options]", plugin, runtime, filepath.Join(bin, program), runtime)
	require.Contains(t, shim.Spec.Options, "SystemdCgroup")
	shim.Spec.Options["SystemdCgroup"] = "false" // as a node here has it
	for key, value := range shim.Spec.Options {
		added += fmt.Sprintf("\n%s = %q\n", key, value)
	}
	config, err := os.ReadFile(n.Dir + "/config.toml")
	require.NoError(t, err)
	n.write("config.toml", string(config)+added)
	n.kill("containerd")
	n.containerd()
	require.Equal(t, "runs the module", n.does("layer", runtime))
}
