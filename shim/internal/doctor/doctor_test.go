// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
)

func TestConfigFile(t *testing.T) {
	for line, want := range map[string]string{
		"containerd":            "/etc/containerd/config.toml",
		"containerd -c /a.toml": "/a.toml",
		"containerd --log-level debug --config /a": "/a",
		"containerd -config=/a.toml":               "/a.toml",
		"containerd --c=/a.toml --root /r":         "/a.toml",
		"containerd --root config":                 "/etc/containerd/config.toml",
		"containerd --config":                      "/etc/containerd/config.toml",
	} {
		require.Equal(t, want, configFile(strings.Fields(line)), line)
	}
}

func TestRuntimeType(t *testing.T) {
	const plugin = "io.containerd.cri.v1.runtime"
	for text, want := range map[string]string{
		"": "",
		"[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]\nruntime_type='io.containerd.runc.v2'": "",
		"[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.probe]\nruntime_type='io.containerd.x.v1'":   "io.containerd.x.v1",
		"[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.probe]\nruntime_type='io.containerd.x.v1'":    "",
	} {
		found, err := runtimeType([]byte(text), plugin, "probe")
		require.NoError(t, err)
		require.Equal(t, want, found, text)
	}
	_, err := runtimeType([]byte("a = "), plugin, "probe")
	require.ErrorContains(t, err, "containerd's configuration is no TOML")
}

func TestRelease(t *testing.T) {
	for version, want := range map[string]State{"v2.4.2": OK, "1.6.20~ds1": OK, "1.5.9": Problem, "v0.9": Problem, "(devel)": OK} {
		require.Equal(t, want, OpenDaemon(0, version).Release().State, version)
	}
}

// What is to be done depends on what this containerd reads.
func TestConfigurationCannotBeHad(t *testing.T) {
	f := OpenDaemon(0, "v2.4.2").Runtime(t.Context(), "probe", "io.containerd.probe.v1", "shim")
	require.Equal(t, Note, f.State)
	require.Contains(t, f.Found, "containerd's process is not to be seen from here")
	// A process that is no containerd.
	f = OpenDaemon(os.Getpid(), "v2.4.2").Runtime(t.Context(), "probe", "io.containerd.probe.v1", "shim")
	require.Equal(t, Note, f.State)
	require.Contains(t, f.Found, "containerd config dump: exit status")
}

func TestStartTime(t *testing.T) {
	started, err := startTime(os.Getpid())
	require.NoError(t, err)
	require.WithinDuration(t, time.Now(), started, time.Hour)
	require.False(t, started.After(time.Now().Add(2*time.Second)))
}

func TestBinary(t *testing.T) {
	write := func(mode os.FileMode) string {
		file := filepath.Join(t.TempDir(), "shim")
		require.NoError(t, os.WriteFile(file, nil, 0o600))
		require.NoError(t, os.Chmod(file, mode))
		return file
	}
	good, writable, plain := write(0o755), write(0o775), write(0o644)
	for _, tc := range []struct {
		file, path string
		state      State
		found      string
	}{
		{good, "", OK, ""},
		{good, "/nope:" + filepath.Dir(good), OK, ""},
		{good, filepath.Dir(plain) + ":" + filepath.Dir(good), OK, ""}, // containerd executes no such file
		{good, filepath.Dir(writable), Note, "containerd finds another file first: " + writable},
		{good, "/nope", Problem, "containerd does not find shim in its PATH, /nope"},
		{writable, "", Problem, "others than its owner may change it"},
		{"/nope", "", Problem, "no such file"},
	} {
		f := Binary("shim", tc.file, tc.path)
		require.Equal(t, tc.state, f.State, f)
		require.Contains(t, f.Found, tc.found)
	}
}

// A trial that fails says why, and leaves nothing.
func TestTrialFails(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	try := func(code uint32, out, errOut string, err error) Try {
		return func(_ context.Context, _, _ string, _ *specs.Spec, stdout, stderr string) (uint32, error) {
			require.NoError(t, os.WriteFile(stdout, []byte(out), 0o600))
			require.NoError(t, os.WriteFile(stderr, []byte(errOut), 0o600))
			return code, err
		}
	}
	for want, try := range map[string]Try{
		"does not run: no runtime":                      try(0, "", "", errors.New("no runtime")),
		"does not run: exit code 126: no such engine":   try(126, "", "a line\nno such engine\n", nil),
		`does not run: it has printed "", expected: "h`: try(0, "", "", nil),
	} {
		f := Trial(t.Context(), try, "io.containerd.probe.v1")
		require.Equal(t, Problem, f.State)
		require.Contains(t, f.Found, want)
	}
	left, err := os.ReadDir(os.TempDir())
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestMachine(t *testing.T) {
	about := []string{}
	for _, f := range Machine() {
		require.NotEmpty(t, f.Found)
		require.NotEqual(t, Problem, f.State, f)
		require.Equal(t, f.State == OK, f.Do == "", f)
		about = append(about, f.About)
	}
	require.Equal(t, []string{"kernel", "cgroups", "security modules"}, about)
}
