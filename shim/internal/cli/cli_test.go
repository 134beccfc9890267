// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/shim/internal/entrypoint"
	"github.com/libwasmshim/libwasmshim/shim/internal/image"
	"github.com/libwasmshim/libwasmshim/shim/internal/options"
)

var program = Program{
	Engine: image.Engine{Name: "probe", Kinds: entrypoint.Module}, ShimName: "probe", EngineVersion: "1.2", EngineRevision: "abc", ABI: "1.0",
	Options: []options.Declaration{{Key: "fuel", Type: options.Integer, Help: "how much"}, {Key: "level", Type: options.Choice, Choices: []string{"a", "b"}}},
}

func call(args ...string) (code int, out, errOut string) {
	var o, e bytes.Buffer
	code = Run(program, append([]string{"containerd-shim-probe-v1"}, args...), &o, &e)
	return code, o.String(), e.String()
}

func TestVersion(t *testing.T) {
	for _, flag := range []string{"-v", "--version"} {
		code, out, _ := call(flag)
		require.Zero(t, code)
		require.Regexp(t, `^containerd-shim-probe-v1:
  Runtime:    io.containerd.probe.v1
  Engine:     probe 1.2 \(abc\)
  Version:    \S+
  Revision:   \S+( \(modified\))?
  ABI:        1.0
  Go version: go\S+( .*)?
$`, out)
	}
}

func TestHelp(t *testing.T) {
	for _, args := range [][]string{nil, {"--help"}, {"-h"}} {
		code, out, errOut := call(args...)
		require.Zero(t, code)
		require.Empty(t, errOut)
		require.Contains(t, out, "ctr run --rm --runtime io.containerd.probe.v1 IMAGE ID")
		require.Contains(t, out, "\n   config ")
	}
	for _, command := range []string{"config", "run", "doctor", "completion"} {
		code, out, _ := call(command, "--help")
		require.Zero(t, code)
		require.Contains(t, out, "containerd-shim-probe-v1 "+command+" - ")
	}
}

func TestConfig(t *testing.T) {
	code, out, _ := call("config")
	require.Zero(t, code)
	require.Contains(t, out, "version = 3\n")
	require.Contains(t, out, "[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.probe]\n  runtime_type = 'io.containerd.probe.v1'\n")
	require.Contains(t, out, "      # how much\n      # fuel = 1000000000\n      # one of: a, b\n      # level = \"a\"\n")
	require.Contains(t, out, "platform = 'wasi/wasm'")
	require.Contains(t, out, "\n  # sandboxer = 'shim'\n  # disable_pause_image_pull = true\n\n  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.probe.options]\n")
	code, out, _ = call("config", "--config-version", "2")
	require.Zero(t, code)
	require.Contains(t, out, "version = 2\n")
	require.Contains(t, out, "[plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.probe]")
	require.NotContains(t, out, "unpack_config")
	require.NotContains(t, out, "sandboxer")
	code, out, _ = call("config", "--runtime-class")
	require.Zero(t, code)
	require.Equal(t, "apiVersion: node.k8s.io/v1\nkind: RuntimeClass\nmetadata:\n  name: probe\nhandler: probe\n", out)
}

func TestBadCommandLines(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		p := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(p, []byte(text), 0o755))
		return p
	}
	script, data := write("script", "#!/bin/sh\n"), write("data", "data")
	component, module := write("c.wasm", "\x00asm\x0d\x00\x01\x00"), write("m.wasm", "\x00asm\x01\x00\x00\x00")
	for _, tc := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"confg"}, 2, `unknown command "confg". Did you mean "config"? See --help.`},
		{[]string{"--versio"}, 2, `unknown flag --versio. Did you mean "--version"? See --help.`},
		{[]string{"config", "--runtimeclass"}, 2, `unknown flag --runtimeclass. Did you mean "--runtime-class"? See --help.`},
		{[]string{"config", "--config-version", "x"}, 2, `invalid value "x" for flag -config-version: parse error; see --help`},
		{[]string{"config", "--config-version", "4"}, 2, "--config-version: found 4, accepted: 2 (containerd 1.6, 1.7), 3 (containerd 2.x)"},
		{[]string{"config", "x"}, 2, `config takes no arguments, found "x"`},
		{[]string{"doctor", "x"}, 2, `doctor takes no arguments, found "x"`},
		{[]string{"completion"}, 2, `completion: found "", accepted: bash, zsh`},
		{[]string{"completion", "csh"}, 2, `completion: found "csh", accepted: bash, zsh`},
		{[]string{"run"}, 2, "run needs the FILE to run; see run --help"},
		{[]string{"run", "--nope", "x"}, 2, `unknown flag --nope. Did you mean`},
		{[]string{"run", "--log-level", "loud", module}, 2, `--log-level: found "loud", accepted: error, warn, info, debug, trace`},
		{[]string{"run", "--option", "fuel", module}, 2, `--option: found "fuel", accepted: KEY=VALUE`},
		{[]string{"run", "--option", "fule=1", module}, 1, `--option: unknown engine option "fule"; the engine knows: fuel, level, preopens: invalid argument`},
		{[]string{"run", "--option", "fuel=x", module}, 1, `--option: engine option fuel: found "x", accepted: a whole number`},
		{[]string{"run", "--env", "=x", module}, 2, `--env: found "=x", accepted: NAME=VALUE or NAME`},
		{[]string{"run", dir + "/nope.wasm"}, 1, "open " + dir + "/nope.wasm: no such file or directory"},
		{[]string{"run", dir}, 1, dir + " is not a regular file"},
		{[]string{"run", script}, 1, script + " is a native program: run it directly"},
		{[]string{"run", data}, 1, data + " is nothing that probe runs (WebAssembly module)"},
		{[]string{"run", component}, 1, component + " is a WebAssembly component; probe runs only: WebAssembly module"},
	} {
		code, out, errOut := call(tc.args...)
		require.Equal(t, tc.code, code, tc.args)
		require.Contains(t, errOut, "containerd-shim-probe-v1: "+tc.want)
		require.NotContains(t, errOut, "goroutine")
		require.Empty(t, out, tc.args)
	}
}
