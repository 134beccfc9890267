// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/oci"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// needsTools skips a test whose guest is built by programs that this machine has not.
func needsTools(t testing.TB, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed: the guest cannot be built", tool)
		}
	}
}

// canBuild skips a test whose guests this machine's Rust cannot build.
func canBuild(t testing.TB, target string) {
	t.Helper()
	needsTools(t, "rustc", "cargo")
	out, _ := exec.Command("rustc", "--print", "target-libdir", "--target", target).Output()
	if _, err := os.Stat(strings.TrimSpace(string(out))); err != nil {
		t.Skipf("rustc cannot build for %[1]s (rustup target add %[1]s): the guest cannot be built", target)
	}
}

// rustcGuest is a program in testdata, of one file that needs no crate.
func rustcGuest(source, target string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "guest")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	wasm := filepath.Join(dir, "guest.wasm")
	out, err := exec.Command("rustc", "--edition", "2024", "--target", target, "-O", "-C", "strip=debuginfo", "testdata/"+source, "-o", wasm).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	return os.ReadFile(wasm)
}

// rustGuest is one of the components that testdata/CRATE makes.
func rustGuest(t testing.TB, crate, name string) []byte {
	t.Helper()
	canBuild(t, "wasm32-wasip2")
	cache, err := os.UserCacheDir()
	require.NoError(t, err)
	target := filepath.Join(cache, "libwasmshim", "cargo", "guests")
	build := exec.Command("cargo", "build", "--quiet", "--release", "--locked", "--target", "wasm32-wasip2", "--manifest-path", "testdata/"+crate+"/Cargo.toml")
	build.Env = append(os.Environ(), "CARGO_TARGET_DIR="+target)
	out, err := build.CombinedOutput()
	if text := string(out); err != nil && (strings.Contains(text, "failed to download") || strings.Contains(text, "failed to get")) {
		t.Skipf("crates.io cannot be reached: the guest cannot be built: %s", text)
	}
	require.NoError(t, err, "%s", out)
	data, err := os.ReadFile(filepath.Join(target, "wasm32-wasip2", "release", name+".wasm"))
	require.NoError(t, err)
	return data
}

// A command of WASI 0.3 does several things at once, and is otherwise as others are.
func TestWASI3(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	needsFull(t, "has no WASI 0.3")
	files := smoke.Files(t)
	files["p3.wasm"] = harness.File{Data: rustGuest(t, "p3", "p3")}
	files["etc/hosts"] = harness.File{Data: []byte("127.0.0.1 server\n")}
	files["var/run"] = harness.File{Link: "/work"}
	files["work/"] = harness.File{Mode: 0o755}
	image := tt.Image("p3", files, ocispec.ImageConfig{Env: []string{"WHO=world"}})
	n := newNetwork(tt)
	n.serve("127.0.0.1:80")
	for name, test := range map[string]struct {
		args   []string
		engine string
		stdin  string
		code   uint32
		want   string // standard output
		stderr string
	}{
		"several things at once": {args: []string{"together"}, want: "after 100\nafter 200\nafter 300\n"},
		"what it is given":       {args: []string{"world", "a", "b c"}, want: `["a", "b c"] Some(("WHO", "world")) Some("/work")` + "\n"},
		"its input":              {args: []string{"cat"}, stdin: "hello\nthere", want: "hello\nthere"},
		"files, by 0.2 and 0.3":  {args: []string{"files"}, want: "7 by 0.2\nErrorCode::NoEntry\n"},
		"an error":               {code: 1},
		"a code":                 {args: []string{"exit", "42"}, code: 42},
		"a trap":                 {args: []string{"trap"}, code: 134, stderr: "oops"},
		"what never comes":       {args: []string{"never"}, code: 134, stderr: "deadlock"},
		"what nobody wakes":      {args: []string{"asleep"}, code: 134, stderr: "panicked"},
		"the network":            {args: []string{"connect", "server", "80"}, engine: "network = 'outbound'", want: `Ok("127.0.0.1:80 got from the guest\n")` + "\n"},
		"no network":             {args: []string{"connect", "server", "80"}, want: `Err("lookup: ErrorCode::PermanentResolverFailure")` + "\n"},
		"another port":           {args: []string{"connect", "server", "80"}, engine: "network = 'outbound'\nconnect-ports = [81]", want: `Err("connect: ErrorCode::AccessDenied")` + "\n"},
		"another name":           {args: []string{"connect", "server", "80"}, engine: "network = 'outbound'\nconnect-names = ['other']", want: `Err("lookup: ErrorCode::AccessDenied")` + "\n"},
		"its time":               {args: []string{"together"}, engine: "timeout = '50ms'", code: 134, stderr: "longer than its timeout of 50 ms"},
	} {
		t.Run(name, func(t *testing.T) {
			config := harness.Config{Image: image, Args: append([]string{"/p3.wasm"}, test.args...), Opts: []oci.SpecOpts{n.opts(), oci.WithProcessCwd("/work")}, RuntimeOptions: body("[engine]\n" + test.engine)}
			if test.stdin != "" {
				config.Stdin = strings.NewReader(test.stdin)
			}
			result := tt.Once(config)
			require.Equal(t, test.code, result.Code, "%+v", result)
			if test.code != 134 {
				require.Equal(t, test.want, result.Stdout)
			}
			require.Contains(t, result.Stderr, test.stderr)
		})
	}
}

// exports are functions that are no command's.
const exports = `(component
	(core module $m
		(memory (export "memory") 1)
		(data (i32.const 16) "a \"b\"")
		(data (i32.const 32) "\10\00\00\00\05\00\00\00")
		(func (export "text") (result i32) (i32.const 32))
		(func (export "number") (result i32) (i32.const -7))
		(func (export "nothing"))
		(func (export "one") (result i32) (i32.const 1))
		(func (export "trap") unreachable)
		(func $deep (export "deep") (result i32) (i32.add (call $deep) (i32.const 1)))
		(func (export "plus") (param i32) (result i32) (local.get 0)))
	(core instance $i (instantiate $m))
	(alias core export $i "memory" (core memory $memory))
	(alias core export $i "text" (core func $core-text))
	(alias core export $i "number" (core func $core-number))
	(alias core export $i "nothing" (core func $core-nothing))
	(alias core export $i "one" (core func $core-one))
	(alias core export $i "trap" (core func $core-trap))
	(alias core export $i "plus" (core func $core-plus))
	(alias core export $i "deep" (core func $core-deep))
	(func $text (result string) (canon lift (core func $core-text) (memory $memory)))
	(func $number (result s32) (canon lift (core func $core-number)))
	(func $nothing (canon lift (core func $core-nothing)))
	(func $failed (result (result)) (canon lift (core func $core-one)))
	(func $list (result bool) (canon lift (core func $core-one)))
	(func $deep (result s32) (canon lift (core func $core-deep)))
	(func $trap (canon lift (core func $core-trap)))
	(func $plus (param "n" s32) (result s32) (canon lift (core func $core-plus)))
	(export "text" (func $text))
	(export "number" (func $number))
	(export "nothing" (func $nothing))
	(export "failed" (func $failed))
	(export "yes" (func $list))
	(export "trap" (func $trap))
	(export "deep" (func $deep))
	(export "plus" (func $plus))
	(instance $api (export "number" (func $number)))
	(export "ns:pkg/api@1.0.0" (instance $api)))`

// Each function of a component that has no parameters is an entrypoint, also one of an
// exported instance, and what it returns is printed.
func TestComponentExports(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	full := isFull(t)
	files := smoke.Files(t)
	files["exports.wat"] = harness.File{Data: []byte(exports)}
	image := tt.Image("exports", files, ocispec.ImageConfig{})
	for entry, test := range map[string]struct {
		code   uint32
		want   string // printed, where the library can
		stderr string
	}{
		"text":                        {want: `"a \"b\""` + "\n"},
		"number":                      {want: "-7\n"},
		"nothing":                     {},
		"yes":                         {want: "true\n"},
		"failed":                      {code: 1, want: "err\n"},
		"trap":                        {code: 134, stderr: "unreachable"},
		"deep":                        {code: 134, stderr: "call stack exhausted"},
		"plus":                        {code: 126, stderr: "takes 1 parameters; an entrypoint takes none"},
		"ns:pkg/api@1.0.0.number":     {want: "-7\n"},
		"ns:pkg/api@1.0.0.none":       {code: 126, stderr: `has no export "ns:pkg/api@1.0.0.none"`},
		"ns:pkg/api@2.0.0.number":     {code: 126, stderr: `has no export "ns:pkg/api@2.0.0.number"; `},
		"ns:pkg/api@1.0.0":            {code: 126, stderr: `a function`},
		"ns:pkg/api@1.0.0.number.too": {code: 126, stderr: `has no export "ns:pkg/api@1.0.0.number.too"; `},
	} {
		t.Run(entry, func(t *testing.T) {
			result := tt.Once(harness.Config{Image: image, Args: []string{"/exports.wat#" + entry}})
			require.Equal(t, test.code, result.Code, "%+v", result)
			require.Contains(t, result.Stderr, test.stderr)
			if full {
				require.Equal(t, test.want, result.Stdout)
			}
		})
	}
}

// A command of a version that is not there is refused, and those that are are named.
func TestWASIVersions(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	accepted := "accepted: wasi:cli/run@0.2"
	versions := []string{"0.3.0-rc-2025-09-16", "0.4.0", "0.1.0", "0.2.0-rc-2023-11-10", "1.0.0"}
	if isFull(t) {
		accepted += " or @0.3"
	} else {
		versions = append(versions, "0.3.0")
	}
	files := smoke.Files(t)
	for _, v := range versions {
		files[v+".wat"] = harness.File{Data: []byte(`(component (instance $i) (export "wasi:cli/run@` + v + `" (instance $i)))`)}
	}
	image := tt.Image("versions", files, ocispec.ImageConfig{})
	for _, v := range versions {
		t.Run(v, func(t *testing.T) {
			result := tt.Once(harness.Config{Image: image, Args: []string{"/" + v + ".wat"}})
			require.EqualValues(t, 126, result.Code, "%+v", result)
			require.Contains(t, result.Stderr, "exports wasi:cli/run@"+v)
			require.Contains(t, result.Stderr, accepted)
		})
	}
}
