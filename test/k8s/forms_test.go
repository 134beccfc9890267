// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/generated"
	"github.com/libwasmshim/libwasmshim/test/guests"
	"github.com/libwasmshim/libwasmshim/test/harness"
)

// The containerds of the table, the newest last.
var containerds = []harness.Version{"1.7.35", "2.0.14", "2.1.9", "2.2.9", "2.3.7", "2.4.2"}

// forms are what an image with a module may look like.
var forms = []struct{ name, what string }{
	{"plain", "ordinary image with a module in its root file system"},
	{"layer", "Wasm image: one manifest, for `wasi/wasm`"},
	{"both", "index with entries for `linux` and `wasi/wasm`"},
	{"wasi", "index with entries for `wasi/wasm` alone"},
	{"artifact", "CNCF Wasm artifact"},
}

// TestImages makes the table in docs/operators.md of what the CRI plugin of each
// containerd does with each form of an image.
func TestImages(t *testing.T) {
	t.Parallel()
	columns := make([]map[string]string, len(containerds))
	cache, err := harness.CacheDir()
	require.NoError(t, err)
	for _, version := range containerds {
		if _, err := os.Stat(filepath.Join(cache, "containerd-"+string(version))); err != nil {
			t.Skipf("containerd %s is not built: scripts/deps.sh matrix", version)
		}
	}
	t.Run("on", func(t *testing.T) {
		for i, version := range containerds {
			t.Run(string(version), func(t *testing.T) {
				t.Parallel()
				n := newNode(t, setup{version: version, images: formImages})
				columns[i] = map[string]string{}
				for _, form := range forms {
					columns[i][form.name] = n.does(form.name, "wasmtime")
				}
			})
		}
	})
	if t.Failed() {
		return
	}
	table := [][]string{{"image"}}
	for _, form := range forms {
		table = append(table, []string{form.what})
	}
	for i := 0; i < len(containerds); {
		first := i
		for i++; i < len(containerds) && maps.Equal(columns[i], columns[first]); i++ { // the same: one column for both
		}
		name := string(containerds[first][:3])
		if last := string(containerds[i-1][:3]); last != name {
			name += " to " + last
		}
		table[0] = append(table[0], "containerd "+name)
		for row, form := range forms {
			table[row+1] = append(table[row+1], columns[first][form.name])
		}
	}
	text := "\n"
	for i, row := range table {
		text += "| " + strings.Join(row, " | ") + " |\n"
		if i == 0 {
			text += "|" + strings.Repeat(" --- |", len(row)) + "\n"
		}
	}
	generated.Part(t, "../../docs/operators.md", "<!-- images -->\n", "\n<!-- end of images -->\n", text, *update, "go test ./test/k8s -run TestImages -update")
}

// formImages are an image of each form; each says which entry of it runs.
func formImages() ([][]byte, error) {
	module, err := guests.Read("go.wasm")
	native, nativeErr := guests.Read("go.native")
	standin, standinErr := standin()
	says := func(what string) ocispec.ImageConfig {
		return ocispec.ImageConfig{Entrypoint: []string{"/app.wasm"}, Cmd: []string{"echo=" + what}}
	}
	plain, plainErr := harness.Linux(says("the module"), files{"app.wasm": {Data: module}})
	linux, linuxErr := harness.Linux(says("the entry for `linux`"), files{"app.wasm": {Data: native}})
	pause, pauseErr := harness.Linux(ocispec.ImageConfig{Entrypoint: []string{"/pause"}}, files{"pause": {Data: standin}})
	wasm := harness.Layered(module)
	wasm.Config.Cmd = says("the module").Cmd
	other := wasm
	other.Platform.Variant = "other"
	failed := errors.Join(err, nativeErr, standinErr, plainErr, linuxErr, pauseErr)
	var archives [][]byte
	for name, variants := range map[string][]harness.Variant{
		"pause:3.10": {pause}, "plain:v1": {plain}, "layer:v1": {wasm}, "both:v1": {linux, wasm}, "wasi:v1": {wasm, other}, "artifact:v1": {harness.Artifact(module)},
	} {
		archive, err := harness.Archive("any.invalid/"+name, variants...)
		archives, failed = append(archives, archive), errors.Join(failed, err)
	}
	return archives, failed
}

// reason is what is told of an error; of another one all is.
var reason = regexp.MustCompile("no match for platform in manifest|no command specified")

// crictl runs it, with more patience than it has.
func (n *node) crictl(args ...string) (string, error) {
	return n.run(3*time.Minute, append([]string{"crictl", "-r", "unix://" + address, "-t", "120s"}, args...)...)
}

// forms writes what crictl makes a pod of, and a container of an image in it.
func (n *node) forms(form string) {
	n.t.Helper()
	metadata := map[string]string{"name": form, "namespace": "test", "uid": form}
	for name, config := range map[string]any{
		"pod":       map[string]any{"metadata": metadata, "log_directory": n.Dir + "/log/pods", "linux": map[string]any{"cgroup_parent": "/"}},
		"container": map[string]any{"metadata": metadata, "image": map[string]string{"image": "images.invalid/" + form + ":v1"}, "log_path": form + ".log"},
	} {
		text, err := json.Marshal(config)
		require.NoError(n.t, err)
		n.write(name+".json", string(text))
	}
}

// does says what becomes of an image.
func (n *node) does(form, handler string) string {
	n.t.Helper()
	image := "images.invalid/" + form + ":v1"
	failed := func(what string, err error) string {
		n.t.Logf("%s %s: %v", form, what, err)
		text := err.Error()
		if found := reason.FindString(text); found != "" {
			text = found
		}
		return what + ": " + text
	}
	if _, err := n.crictl("pull", image); err != nil {
		return failed("not pulled", err)
	}
	n.forms(form)
	if _, err := n.crictl("run", "--no-pull", "--runtime", handler, n.Dir+"/container.json", n.Dir+"/pod.json"); err != nil {
		return failed("no container", err)
	}
	var said string
	n.eventually(2*time.Minute, func() error {
		id, err := n.crictl("ps", "-a", "-q", "--name", form, "--state", "exited")
		if err == nil && id == "" {
			err = fmt.Errorf("%s goes on", form)
		}
		if err == nil {
			said, err = n.crictl("logs", strings.TrimSpace(id))
		}
		return err
	})
	return "runs " + strings.TrimSpace(said)
}
