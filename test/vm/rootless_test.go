// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// way is one in which an ordinary user may run containerd, in RootlessKit.
type way struct {
	name    string
	kit     string // RootlessKit's arguments
	before  string // what is done in its namespaces
	cgroups string // WASMSHIM_CGROUPS
	runDir  bool   // there is an XDG_RUNTIME_DIR
	runc    bool   // runc's shim can run
	smoke   string // tests of the smoke suite, of the kinds
	kinds   string
}

var ways = []way{
	// The cgroup of a unit of the user's systemd is what the namespaces have as the root
	// of all cgroups.
	{
		name: "cgroupfs", runDir: true, runc: true,
		kit: "--pidns --cgroupns --evacuate-cgroup2=evacuated --copy-up=/run", before: "rm -f /run/containerd",
		smoke: "hello|stdin|SIGTERM|exec|resources|terminal|pod", kinds: "native|module|component|sleeping module",
	},
	// Without a /run that it can write to, runc's shim does nothing.
	{name: "systemd", runDir: true, before: "true", cgroups: "systemd", smoke: "hello|exec|resources|terminal", kinds: "native|module"},
	// In a cgroup of the machine's systemd, of which the user has nothing.
	{
		name: "no cgroup", runc: true, kit: "--copy-up=/run", before: "rm -f /run/containerd", cgroups: "none",
		smoke: "hello|exec|terminal", kinds: "native|module",
	},
}

// theUser is the ordinary user.
const theUser = "wasm"

// TestRootless runs this program again, with a containerd of its own, as an ordinary user.
func TestRootless(t *testing.T) {
	machine(t, smoke.Ours)
	if harness.Rootless {
		t.Skip("it is what runs this")
	}
	makeUser(t)
	// As where root's containerd has had guests, too.
	require.NoError(t, os.MkdirAll("/run/libwasmshim", 0o700))
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			out, err := w.command(t).CombinedOutput()
			t.Logf("%s", out)
			require.NoError(t, err)
			require.Contains(t, string(out), "--- PASS: TestUserCompiler")
		})
	}
}

// makeUser makes a user with a systemd that lives as long as the machine does.
func makeUser(t *testing.T) {
	if _, err := user.Lookup(theUser); err == nil {
		return
	}
	for _, command := range [][]string{{"useradd", "--create-home", theUser}, {"loginctl", "enable-linger", theUser}} {
		run(t, command[0], command[1:]...)
	}
	require.Eventually(t, func() bool {
		u, err := user.Lookup(theUser)
		require.NoError(t, err)
		_, err = os.Stat(filepath.Join("/run/user", u.Uid, "bus"))
		return err == nil
	}, patience, 100*time.Millisecond)
}

// command runs the tests of a way.
func (w way) command(t *testing.T) *exec.Cmd {
	u, err := user.Lookup(theUser)
	require.NoError(t, err)
	kit, err := filepath.Glob("/payload/cache/libwasmshim/rootlesskit-*/bin/rootlesskit")
	require.NoError(t, err)
	require.Len(t, kit, 1)
	self, err := os.Executable()
	require.NoError(t, err)
	here, err := os.Getwd()
	require.NoError(t, err)
	suite := "TestSmoke"
	if w.runc {
		suite += "|TestSmokeRunc"
	}
	script := fmt.Sprintf("%s; cd %s; exec %s -test.v -test.timeout 15m -test.run '^(%s|TestUser.*)$/^(guest|native|runc|%s)$/^(%s)$'",
		w.before, here, self, suite, w.smoke, w.kinds)
	args := []string{"--wait", "--pipe", "--quiet"}
	for _, variable := range []string{"PATH", "XDG_CACHE_HOME", "WASMSHIM_VM", "WASMSHIM_SLOW"} {
		args = append(args, "--setenv="+variable)
	}
	args = append(args, "--setenv=HOME="+u.HomeDir, "--setenv=WASMSHIM_CGROUPS="+w.cgroups, "--setenv=WASMSHIM_WAY="+w.name)
	if w.cgroups == "none" {
		args = append(args, "--uid="+u.Uid)
	} else {
		args = append(args, "--user", "-p", "Delegate=yes")
	}
	args = append(args, kit[0], "--net=none")
	args = append(args, strings.Fields(w.kit)...)
	args = append(args, "sh", "-c", script)
	if w.cgroups == "none" {
		return exec.Command("systemd-run", args...)
	}
	return exec.Command("runuser", append([]string{"-u", u.Username, "--", "env", "XDG_RUNTIME_DIR=/run/user/" + u.Uid, "systemd-run"}, args...)...)
}

// asUser is machine in a test that TestRootless runs.
func asUser(t *testing.T, runtime string) (*harness.T, way) {
	for _, w := range ways {
		if w.name == os.Getenv("WASMSHIM_WAY") {
			if runtime == smoke.Runc && !w.runc {
				t.Skip("without a /run that it can write to, runc's shim does nothing")
			}
			return machine(t, runtime), w
		}
	}
	t.Skip("TestRootless runs it")
	return nil, way{}
}

// usersKinds are the kinds with the driver of WASMSHIM_CGROUPS.
var usersKinds = []kind{{"guest", smoke.Ours, false, true}, {"native", smoke.Ours, false, false}, {"runc", smoke.Runc, false, false}}

func eachUsersKind(t *testing.T, some []kind, f func(t *harness.T, w way, k kind)) {
	for _, k := range some {
		t.Run(k.name, func(t *testing.T) {
			tt, w := asUser(t, k.runtime)
			f(tt, w, k)
		})
	}
}

// The compiler's cgroup is below what the user has, with its limits, and what it makes is
// kept. Without cgroups it compiles all the same.
func TestUserCompiler(t *testing.T) {
	tt, w := asUser(t, smoke.Ours)
	code := smoke.Fresh(tt, "go.wasm")
	image := tt.FileImage(code)
	done := make(chan harness.Result, 1)
	go func() {
		done <- tt.Once(harness.Config{Image: image, RuntimeOptions: table("compile_timeout = '10m'\n[engine]\nopt-level = 'none'\n")})
	}()
	compiler, limits := "", ""
	require.Eventually(t, func() bool {
		for _, p := range tt.Compilers() {
			group, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", p.Pid))
			compiler = strings.TrimPrefix(strings.TrimSpace(string(group)), "0::")
			text, _ := os.ReadFile(filepath.Join("/sys/fs/cgroup", compiler, "memory.max"))
			limits = strings.TrimSpace(string(text))
			if w.cgroups == "none" {
				text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/limits", p.Pid))
				limits = string(text)
			}
			if strings.Contains(limits, "2147483648") {
				return true
			}
		}
		return false
	}, patience, time.Millisecond)
	switch w.name {
	case "cgroupfs":
		require.Regexp(t, `^/libwasmshim-compiler-`, compiler)
	case "systemd":
		require.Regexp(t, `^/user.slice/user-\d+.slice/user@\d+.service/libwasmshim.slice/libwasmshim-compiler-.*\.scope$`, compiler)
	case "no cgroup":
		require.Regexp(t, `Max data size +2147483648 +2147483648`, limits)
		require.Regexp(t, `Max processes +128 +128`, limits)
	}
	result := <-done
	require.Zero(t, result.Code, "%+v", result)
	require.Len(t, smoke.Artifacts(tt, code), 1)
	tt.RequireNothingLeft()
}

// Sockets and what is remembered are where the user may write, and outlive the namespaces
// where there is such a place.
func TestUserPlaces(t *testing.T) {
	tt, w := asUser(t, smoke.Ours)
	c := tt.Run(usersKinds[0].container(tt, usersKinds[0].sleeper()))
	require.NoError(t, c.Stdout.WaitFor("ready", patience))
	address, err := os.ReadFile(filepath.Join(tt.Bundle(c.ID()), "address"))
	require.NoError(t, err)
	run, name := "/run", "libwasmshim-rootless"
	if w.runDir {
		run, name = os.Getenv("XDG_RUNTIME_DIR"), "libwasmshim"
		require.NotEmpty(t, run)
	}
	require.Equal(t, run+"/containerd/s", filepath.Dir(strings.TrimPrefix(string(address), "unix://")))
	remembered, err := filepath.Glob(filepath.Join(run, name, tt.Namespace+"-*/*.json"))
	require.NoError(t, err)
	require.NotEmpty(t, remembered)
}

// What was delegated is limited. What was not is refused, and the error says what is missing.
func TestUserLimits(t *testing.T) {
	eachUsersKind(t, usersKinds, func(t *harness.T, w way, k kind) {
		if w.cgroups == "none" {
			_, err := t.Daemon.Create(t.Ctx, k.container(t, k.sleeper(), withMemory(64<<20)))
			require.ErrorContains(t, err, "rootless needs no limits")
			t.RequireNothingLeft()
			return
		}
		pids, quota, period := int64(64), int64(20000), uint64(100000)
		c := t.Run(k.container(t, k.sleeper(), withMemory(64<<20), harness.WithSpec(func(s *oci.Spec) {
			s.Linux.Resources.Pids = &specs.LinuxPids{Limit: &pids}
			s.Linux.Resources.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period}
		})))
		require.NoError(t, c.Stdout.WaitFor("ready", patience))
		dir := groupOf(t, c.Task.Pid())
		for file, want := range map[string]string{"memory.max": "67108864", "pids.max": "64", "cpu.max": "20000 100000"} {
			require.Equal(t, want, groupFile(t, dir, file), file)
		}
		require.NoError(t, t.Remove(t.Ctx, c))
		_, err := t.Daemon.Create(t.Ctx, k.container(t, k.sleeper(), harness.WithSpec(func(s *oci.Spec) {
			s.Linux.Resources.CPU = &specs.LinuxCPU{Cpus: "0"}
		})))
		require.Error(t, err)
		if k.runtime == smoke.Ours {
			require.ErrorContains(t, err, "below which this user's containers are, has no controller cpuset")
		}
		t.RequireNothingLeft()
	})
}

// A score that a user may not have is refused, as by runc.
func TestUserOOMScore(t *testing.T) {
	eachUsersKind(t, usersKinds, func(t *harness.T, _ way, k kind) {
		score := -100
		_, err := t.Daemon.Create(t.Ctx, k.container(t, k.sleeper(), harness.WithSpec(func(s *oci.Spec) { s.Process.OOMScoreAdj = &score })))
		require.ErrorContains(t, err, "oom_score_adj")
		t.RequireNothingLeft()
	})
}

// What a killed daemon leaves is removed by a delete that finds the user's cgroups.
func TestUserDaemonKilled(t *testing.T) {
	eachUsersKind(t, usersKinds[:2], func(t *harness.T, _ way, k kind) {
		events := t.Subscribe(t.Ctx)
		defer events.Close()
		c := t.Create(k.container(t, k.sleeper()))
		started(t, c)
		killShims(t)
		gone(t, events, c)
		t.RequireNothingLeft()
	})
}

// ctr runs containers as operators.md says.
func TestUserCtr(t *testing.T) {
	eachUsersKind(t, usersKinds, func(t *harness.T, w way, k kind) {
		id := harness.FreshID("c")
		args := []string{"run", "--rm", "--runtime", k.runtime, "--fifo-dir", filepath.Join(t.Dir, "fifo")}
		switch w.cgroups {
		case "systemd":
			file := filepath.Join(t.TempDir(), "options.toml")
			require.NoError(t, os.WriteFile(file, []byte("SystemdCgroup = true\n"), 0o644))
			args = append(args, "--runtime-config-path", file, "--cgroup", "user.slice:"+t.Namespace+":"+id)
		case "none":
			args = append(args, "--cgroup", "", "--cpu-shares", "0")
		}
		out, err := t.Ctr(t.Ctx, append(append(args, smoke.Image(t).Name(), id), k.hello()...)...)
		require.NoError(t, err)
		require.Contains(t, out, "hello")
		t.RequireNothingLeft()
	})
}

// doctor has nothing against a user's containerd, and its trial runs.
func TestUserDoctor(t *testing.T) {
	tt, _ := asUser(t, smoke.Ours)
	binary, err := tt.ShimBinary(smoke.Ours)
	require.NoError(t, err)
	cmd := exec.Command(binary, "doctor", "--address", tt.Address, "--namespace", tt.Namespace)
	cmd.Env = tt.Env()
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "a guest has said")
	t.Logf("%s", out)
	tt.RequireNothingLeft()
}
