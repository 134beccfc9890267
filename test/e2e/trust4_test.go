// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/guests"
	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// shimPath is the shim's binary; found before a test changes the directory.
var shimPath = sync.OnceValue(func() string {
	repo, _ := harness.Repo()
	return filepath.Join(repo, "dist/containerd-shim-wasmtime-v1")
})

// shimCommand runs the shim's binary as a person does.
func shimCommand(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	cmd := exec.Command(shimPath(), args...)
	cmd.Env = append(os.Environ(), "FROM_HERE=yes")
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		var exit *exec.ExitError
		require.ErrorAs(t, err, &exit)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errOut.String()
}

func TestTrust4Version(t *testing.T) {
	code, out, _ := shimCommand(t, "-v")
	require.Zero(t, code)
	require.Regexp(t, `(?m)^  Engine:     wasmtime (44\.0\.0 \(prebuilt library; its line ended in June 2026\)|48\.0\.8 \(full library; its line is supported until August 2028\))$`, out)
	require.Regexp(t, `(?m)^  ABI:        1\.1$`, out)
	repo, err := harness.Repo()
	require.NoError(t, err)
	head, err := exec.Command("git", "-C", repo, "rev-parse", "HEAD").Output()
	if err != nil {
		require.Contains(t, out, "Revision:   unknown")
		return
	}
	// What was built may be older than the last commit, if nothing of Go's has changed.
	require.Regexp(t, `(?m)^  Revision:   [0-9a-f]{40}( \(modified\))?$`, out, "%s", head)
}

// What config prints is taken by real containerds, with every example in it.
func TestTrust4Config(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	uncomment := func(text string) string {
		var b strings.Builder
		for line := range strings.Lines(text) {
			rest, comment := strings.CutPrefix(strings.TrimSpace(line), "# ")
			if comment && (strings.Contains(rest, " = ") && !strings.ContainsAny(rest[:strings.Index(rest, " = ")], " ") || strings.HasPrefix(rest, "[")) {
				line = rest + "\n"
			}
			b.WriteString(line)
		}
		return b.String()
	}
	cache, err := harness.CacheDir()
	require.NoError(t, err)
	for config, containerd := range map[string]string{"3": "containerd-2.4.2/bin/containerd", "2": "containerd-1.6.20/usr/bin/containerd"} {
		_, text, _ := shimCommand(t, "config", "--config-version", config)
		for name, text := range map[string]string{"as it is": text, "uncommented": uncomment(text)} {
			t.Run(containerd+" "+name, func(t *testing.T) {
				file := filepath.Join(t.TempDir(), "config.toml")
				require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
				var out, errOut bytes.Buffer
				cmd := exec.Command(filepath.Join(cache, containerd), "-c", file, "config", "dump")
				cmd.Stdout, cmd.Stderr = &out, &errOut
				require.NoError(t, cmd.Run(), "%s\n%s", &errOut, text)
				require.Contains(t, out.String(), "io.containerd.wasmtime.v1")
				require.Contains(t, out.String(), "engine.libwasmshim.io/*")
				require.NotContains(t, errOut.String(), "wasmtime")
			})
		}
	}
	// The examples are what the shim takes.
	_, text, _ := shimCommand(t, "config")
	_, table, _ := strings.Cut(uncomment(text), ".options]\n")
	table, _, _ = strings.Cut(table, "\n[")
	head, engine, ok := strings.Cut(table, "[plugins")
	require.True(t, ok)
	_, engine, _ = strings.Cut(engine, "\n")
	engine = strings.ReplaceAll(engine, `["/data", "/in:/out"]`, `["/", "/etc:/e"]`)
	engine = regexp.MustCompile(`(?m)^.* = "\.\.\."$`).ReplaceAllString(engine, "") // a text of any kind
	result := tt.Once(harness.Config{Image: smoke.Image(tt), Args: []string{"/hello.wasm"}, RuntimeOptions: body(head + "\n[engine]\n" + engine)})
	require.Zero(t, result.Code, "%+v\n%s", result, engine)
}

// A containerd that was started with the printed configuration loads it all.
func TestTrust4ConfigInContainerd(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	_, text, _ := shimCommand(t, "config")
	dir := filepath.Join(tt.Dir, "configured")
	require.NoError(t, os.Mkdir(dir, 0o700))
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "config.toml")
	text += "\n[grpc]\naddress = '" + dir + "/c.sock'\n[ttrpc]\naddress = '" + dir + "/c.sock.ttrpc'\n"
	text = strings.Replace(text, "version = 3\n", "version = 3\nroot = '"+dir+"/root'\nstate = '"+dir+"/state'\n", 1)
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	path, err := tt.LookPath("containerd")
	require.NoError(t, err)
	var log harness.Buffer
	cmd := exec.Command(path, "-c", file)
	cmd.Env, cmd.Stdout, cmd.Stderr = tt.Env(), &log, &log
	require.NoError(t, cmd.Start())
	defer func() {
		require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		_ = cmd.Wait()
	}()
	require.NoError(t, log.WaitFor("containerd successfully booted", 60e9))
	require.Contains(t, log.String(), "io.containerd.wasmtime.v1", "CRI shows its configuration")
	for line := range strings.Lines(log.String()) {
		if strings.Contains(line, "transfer") || strings.Contains(line, "io.containerd.cri.v1.runtime") {
			require.NotContains(t, line, "level=error", line)
		}
	}
}

// run is the guest itself: its exit code, its streams, its signals.
func TestTrust4Run(t *testing.T) {
	dir, err := guests.Dir()
	require.NoError(t, err)
	require.FileExists(t, shimPath())
	t.Chdir(dir)
	for _, test := range []struct {
		args           []string
		code           int
		stdout, stderr string // regular expressions
	}{
		{[]string{"hello.wasm"}, 0, `^hello\n$`, `^$`},
		{[]string{"./hello.wat"}, 0, `^hello\n$`, `^$`},
		{[]string{dir + "/component-hello.wasm"}, 0, `^hello from a component\n$`, `^$`},
		{[]string{"hello.wasm#other"}, 0, `^Jello\n$`, `^$`},
		{[]string{"exit.wasm", "a", "b", "c"}, 3, `^$`, `^$`},
		{[]string{"trap.wasm"}, 134, `^$`, "^wasmtime: wasm trap: wasm `unreachable`"},
		{[]string{"--option", "fuel=1000", "spin.wasm"}, 134, ``, `^wasmtime: wasm trap: all fuel consumed`},
		{[]string{"-o", "timeout=100ms", "sleep.wasm"}, 134, ``, `^wasmtime: the guest ran for longer than its timeout of 100 ms\n$`},
		{[]string{"--log-level", "debug", "hello.wasm"}, 0, `^hello\n$`, `^wasmtime: debug: compiled .*/hello.wasm: \d+ bytes`},
		{[]string{"-e", "A=1", "-e", "FROM_HERE", "-e", "NOT_THERE", "go.wasm", "env"}, 0, `^A=1\nFROM_HERE=yes\nPWD=` + dir + `\n$`, `^$`},
		{[]string{"-o", "preopens=" + dir + ":/", "go.wasm", "ls=/"}, 0, `hello.wasm`, `^$`},
		{[]string{"-o", "preopens=", "go.wasm", "ls=/"}, 1, `^$`, `ls=/: `},
		{[]string{"--cwd", "/", "go.wasm", "args", "--env"}, 1, `^\["go.wasm" "args" "--env"\]\n$`, `--env: unknown`},
		{[]string{"native"}, 1, `^$`, `native is a native program: run it directly`},
		{[]string{"nope.wasm"}, 1, `^$`, `no such file or directory`},
	} {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			code, stdout, stderr := shimCommand(t, append([]string{"run"}, test.args...)...)
			require.Equal(t, test.code, code, stderr)
			require.Regexp(t, test.stdout, stdout)
			require.Regexp(t, test.stderr, stderr)
		})
	}
	t.Run("SIGTERM", func(t *testing.T) {
		cmd := exec.Command(shimPath(), "run", "spin.wasm")
		var out harness.Buffer
		cmd.Stdout = &out
		require.NoError(t, cmd.Start())
		require.NoError(t, out.WaitFor("ready", 10e9))
		require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		err := cmd.Wait()
		var exit *exec.ExitError
		require.True(t, errors.As(err, &exit))
		require.Equal(t, 143, exit.ExitCode())
	})
}

// The script completes in a real shell.
func TestTrust4Completion(t *testing.T) {
	_, script, _ := shimCommand(t, "completion", "bash")
	for words, want := range map[string]string{
		"co":                  "completion\nconfig\n",
		"config --run":        "--runtime-class\n",
		"completion ba":       "bash\n",
		"run --log":           "--log-level\n",
		"config --config-ver": "--config-version\n",
	} {
		cmd := exec.Command("bash", "-c", script+`
			COMP_WORDS=(containerd-shim-wasmtime-v1 `+words+`) COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
			_containerd_shim_wasmtime_v1
			printf '%s\n' "${COMPREPLY[@]}" | sort`)
		cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(shimPath())+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.Equal(t, want, string(out), words)
	}
	t.Run("zsh reads it", func(t *testing.T) {
		if _, err := exec.LookPath("zsh"); err != nil {
			t.Skip("zsh is not installed")
		}
		_, script, _ := shimCommand(t, "completion", "zsh")
		cmd := exec.Command("zsh", "-n")
		cmd.Stdin = strings.NewReader(script)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
	})
}
