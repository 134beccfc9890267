// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/oci"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// What makes components of programs: PyPI has the one, npm the other.
const (
	componentizePy = "componentize-py==0.25.1"
	componentizeJS = "@bytecodealliance/componentize-js@0.23.0"
)

// slowly is for guests of which much is compiled: for as long as it takes, and optimised
// for nobody.
const slowly = "compile_timeout = '10m'\n[engine]\nopt-level = 'none'\n"

// languageGuest is a component of the sources in testdata, from the user's cache or made
// by build, of a copy of them: app.wasm.
func languageGuest(t testing.TB, sources, tool string, build func(dir string)) []byte {
	t.Helper()
	cache, err := os.UserCacheDir()
	require.NoError(t, err)
	root := os.DirFS(filepath.Join("testdata", sources))
	sum := sha256.New()
	fmt.Fprintln(sum, tool)
	require.NoError(t, fs.WalkDir(root, ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := fs.ReadFile(root, path)
		fmt.Fprintln(sum, path, len(data))
		sum.Write(data)
		return err
	}))
	to := filepath.Join(cache, "libwasmshim", fmt.Sprintf("%s-%x", sources, sum.Sum(nil)[:8]))
	made := filepath.Join(to, "app.wasm")
	if guest, err := os.ReadFile(made); err == nil {
		return guest
	}
	dir := t.TempDir()
	require.NoError(t, os.CopyFS(dir, root))
	build(dir)
	guest, err := os.ReadFile(filepath.Join(dir, "app.wasm"))
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(to, 0o755))
	require.NoError(t, os.WriteFile(made+".new", guest, 0o600))
	require.NoError(t, os.Rename(made+".new", made))
	return guest
}

// output runs a program in a directory. Where it fails, it skips for the reason, if there
// is one.
func output(t testing.TB, dir, reason, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	var log strings.Builder
	cmd.Stderr = &log
	out, err := cmd.Output()
	if err != nil && reason != "" {
		t.Skipf("%s: the guest cannot be built: %v\n%s%s", reason, err, out, log.String())
	}
	require.NoError(t, err, "%s%s", out, log.String())
	return out
}

// goGuest is a program in testdata as a module, built with these flags.
func goGuest(t testing.TB, program string, flags ...string) []byte {
	t.Helper()
	wasm := filepath.Join(t.TempDir(), "app.wasm")
	build := exec.Command("go", append(append([]string{"build", "-o", wasm}, flags...), "./testdata/"+program)...)
	build.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	guest, err := os.ReadFile(wasm)
	require.NoError(t, err)
	return guest
}

// pythonGuest is a program in testdata as a component.
func pythonGuest(t testing.TB, sources, wit, world string) []byte {
	return languageGuest(t, sources, componentizePy, func(dir string) {
		env := filepath.Join(t.TempDir(), "env")
		output(t, dir, "python3 makes no environment", "python3", "-m", "venv", env)
		output(t, dir, "PyPI does not have "+componentizePy, env+"/bin/pip", "install", "--quiet", componentizePy)
		output(t, dir, "", env+"/bin/componentize-py", "--wit-path", wit, "--world", world, "componentize", "app", "--output", "app.wasm")
	})
}

// httpWIT is the directory in which the full library's sources have the world of HTTP
// services, called "bindings".
func httpWIT(t testing.TB) string {
	repo, err := harness.Repo()
	require.NoError(t, err)
	var all struct {
		Packages []struct {
			Name string
			Path string `json:"manifest_path"`
		}
	}
	out := output(t, repo, "cargo does not have the full library's sources", "cargo", "metadata", "--locked", "--format-version", "1",
		"--manifest-path", "engines/wasmtime/full/Cargo.toml")
	require.NoError(t, json.Unmarshal(out, &all))
	for _, p := range all.Packages {
		if p.Name == "wasmtime-wasi-http" {
			return filepath.Join(filepath.Dir(p.Path), "wit")
		}
	}
	t.Fatal("the full library has no crate wasmtime-wasi-http")
	return ""
}

func httpPython(t testing.TB) []byte {
	return pythonGuest(t, "http-python", httpWIT(t), "bindings")
}

func httpJavaScript(t testing.TB) []byte {
	return languageGuest(t, "http-javascript", componentizeJS, func(dir string) {
		output(t, dir, "npm does not have "+componentizeJS, "npm", "install", "--ignore-scripts", "--no-fund", "--no-audit", componentizeJS)
		wit := filepath.Join(dir, "wit")
		require.NoError(t, os.CopyFS(wit, os.DirFS(httpWIT(t))))
		// The one version that its engine has answers for.
		require.NoError(t, filepath.WalkDir(wit, func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return os.WriteFile(path, []byte(strings.NewReplacer("0.2.11", "0.2.10", "0.2.12", "0.2.10").Replace(string(text))), 0o600)
		}))
		output(t, dir, "", "node", "build.mjs", wit)
	})
}

// dial connects from the namespace.
func (n *network) dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	done := make(chan struct{})
	n.do <- func() {
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		close(done)
	}
	<-done
	return conn, err
}

// What other languages' tools make of an HTTP service answers in a network namespace of
// its own, by default and with instances that are reused.
func TestHTTPLanguages(t *testing.T) {
	needsHTTP(t)
	tt := harness.New(t, smoke.Ours)
	ctx, cancel := context.WithTimeout(tt.In(context.Background()), harness.Slow(10*time.Minute))
	t.Cleanup(cancel)
	tt.Ctx = ctx
	n := newNetwork(tt)
	for language, guest := range map[string]func(testing.TB) []byte{"JavaScript": httpJavaScript, "Python": httpPython} {
		t.Run(language, func(t *testing.T) {
			files := map[string]harness.File{"app.wasm": {Data: guest(t)}, "proc/": {}, "dev/": {}, "sys/": {}}
			image := tt.Image("http-"+strings.ToLower(language), files, ocispec.ImageConfig{})
			for _, options := range []string{"", "http-reuse = 8"} {
				c := tt.Run(harness.Config{
					Image: image, Args: []string{"/app.wasm"}, Env: []string{"PORT=80"},
					Opts: []oci.SpecOpts{n.opts()}, RuntimeOptions: body(slowly + options),
				})
				client := httpClient(t)
				client.Transport = &http.Transport{DialContext: n.dial, DisableKeepAlives: true}
				var resp *http.Response
				require.Eventually(t, func() bool {
					var err error
					resp, err = client.Post("http://127.0.0.1/a?b=c", "text/plain", strings.NewReader("is sent"))
					return err == nil
				}, harness.Slow(10*time.Minute), 20*time.Millisecond, "%s%s", c.Stdout, c.Stderr)
				defer resp.Body.Close()
				text, err := io.ReadAll(resp.Body)
				require.NoError(t, err)
				require.Equal(t, language+" /a?b=c IS SENT", string(text), "%s", c.Stderr)
				(&service{c, tt, ""}).end()
				require.Regexp(t, `"POST /a\?b=c HTTP/1\.1" 200 `+fmt.Sprint(len(text))+` \S+ms\n$`, c.Stdout.String())
				require.Empty(t, c.Stderr.String())
			}
		})
	}
}
