// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/shim/internal/initstage"
)

// cgroupParent is the cgroup of all containers of this test process.
var cgroupParent = fmt.Sprintf("/wasmshim-test-%d", os.Getpid())

// rootfs has the test program at /bin/guest; empty when not root.
var rootfs string

func TestMain(m *testing.M) {
	if initstage.Wanted() {
		initstage.Run()
	}
	if cfg := os.Getenv("WASMSHIM_TEST_DAEMON"); cfg != "" {
		daemon(cfg)
	}
	os.Exit(run(m))
}

// daemon creates and starts the container of a JSON config, and waits to be
// killed.
func daemon(config string) {
	var cfg Config
	if err := json.Unmarshal([]byte(config), &cfg); err != nil {
		panic(err)
	}
	c, err := Create(cfg, Process{Args: cfg.Spec.Process.Args, Spec: cfg.Spec.Process})
	if err == nil {
		err = c.Start()
	}
	fmt.Println(err)
	select {}
}

func run(m *testing.M) int {
	if os.Geteuid() != 0 {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "wasmshim-container-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	if os.Getenv("WASMSHIM_TEST_SYSTEMD") != "" {
		defer pretendSystemd()()
	}
	rootfs = filepath.Join(dir, "rootfs")
	if err := os.MkdirAll(filepath.Join(rootfs, "bin"), 0o755); err != nil {
		panic(err)
	}
	_ = os.Chmod(dir, 0o755)
	cc := exec.Command("gcc", "-static", "-O1", "-o", filepath.Join(rootfs, "bin/guest"), "testdata/guest.c")
	if out, err := cc.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("build guest: %v: %s", err, out))
	}
	// A container that is gone leaves its parent's cgroups, as with runc.
	defer func() {
		for _, path := range cgroupPaths(cgroupParent) {
			_ = cgroups.RemovePath(path)
		}
	}()
	return m.Run()
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: creates namespaces, mounts and cgroups")
	}
}

// cgroupPaths returns the directories of a cgroup in all hierarchies.
func cgroupPaths(path string) []string {
	m, err := manager.New(&cgroups.Cgroup{Path: path, Resources: &cgroups.Resources{}})
	if err != nil {
		panic(err)
	}
	var paths []string
	for _, p := range m.GetPaths() {
		paths = append(paths, p)
	}
	return paths
}

var lastID atomic.Int64

// newConfigFor returns a config with runc's default spec and a new id.
func newConfigFor(dir string, args ...string) (Config, Process) {
	id := fmt.Sprintf("c%d-%d", os.Getpid(), lastID.Add(1))
	spec := specconv.Example()
	spec.Root = &specs.Root{Path: rootfs, Readonly: true}
	spec.Process.Terminal = false
	spec.Process.Args = args
	spec.Hostname = id
	spec.Linux.CgroupsPath = cgroupParent + "/" + id
	bundle := filepath.Join(dir, id)
	if err := os.Mkdir(bundle, 0o711); err != nil {
		panic(err)
	}
	cfg := Config{ID: id, Bundle: bundle, Root: filepath.Join(bundle, "shim"), Spec: spec}
	return cfg, Process{Args: args, Env: spec.Process.Env, Spec: spec.Process}
}

func guest(args ...string) []string { return append([]string{"/bin/guest"}, args...) }

func (p Process) with(args ...string) Process {
	p.Args = guest(args...)
	return p
}

// hostPID makes the container share the host's pid namespace.
func hostPID(cfg Config) Config {
	l := cfg.Spec.Linux
	l.Namespaces = slices.DeleteFunc(l.Namespaces, func(ns specs.LinuxNamespace) bool {
		return ns.Type == specs.PIDNamespace
	})
	return cfg
}

// mustWait fails the test where a process does not end.
func mustWait(t *testing.T, w interface {
	Wait(context.Context) (Exit, error)
},
) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	exit, err := w.Wait(ctx)
	require.NoError(t, err)
	return exit.Status
}

// output runs the guest in a container of its own and returns what it prints.
func output(t *testing.T, cfg Config, p Process) string {
	t.Helper()
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	defer w.Close()
	p.Stdout, p.Stderr = w, w
	c := mustCreate(t, cfg, p)
	require.NoError(t, c.Start())
	status := mustWait(t, c)
	require.NoError(t, c.Delete())
	w.Close()
	b, err := io.ReadAll(r)
	require.NoError(t, err)
	require.Zero(t, status, "exit status, output %q", b)
	return string(b)
}

// mustCreate creates a container and removes it after the test.
func mustCreate(t *testing.T, cfg Config, p Process) *Container {
	t.Helper()
	c, err := Create(cfg, p)
	require.NoError(t, err)
	t.Cleanup(func() {
		endCreated(t, c)
		require.NoDirExists(t, cfg.Root)
		requireNoCgroup(t, cfg)
	})
	return c
}

func endCreated(t *testing.T, c *Container) {
	t.Helper()
	if err := c.Signal(syscall.SIGKILL, true); err != nil && !errdefs.IsNotFound(err) {
		t.Errorf("kill: %v", err)
	}
	mustWait(t, c)
	require.NoError(t, c.Delete())
}

func mustRun(t *testing.T, cfg Config, p Process) *Container {
	t.Helper()
	c := mustCreate(t, cfg, p)
	require.NoError(t, c.Start())
	return c
}

func requireNoCgroup(t *testing.T, cfg Config) {
	t.Helper()
	for _, path := range cgroupPaths(cfg.Spec.Linux.CgroupsPath) {
		require.NoDirExists(t, path)
	}
}

// requireNothing asserts that a failed Create left nothing.
func requireNothing(t *testing.T, cfg Config) {
	t.Helper()
	require.NoDirExists(t, cfg.Root)
	requireNoCgroup(t, cfg)
	require.Empty(t, children(t))
}

// children lists this process's children, zombies included, as "pid comm state".
func children(t *testing.T) []string {
	t.Helper()
	lists, err := filepath.Glob("/proc/self/task/*/children")
	require.NoError(t, err)
	var all []string
	for _, l := range lists {
		b, _ := os.ReadFile(l) // a thread may end meanwhile
		for _, pid := range strings.Fields(string(b)) {
			stat, _ := os.ReadFile("/proc/" + pid + "/stat")
			all = append(all, string(stat[:min(40, len(stat))]))
		}
	}
	return all
}

// leftCgroups lists what is below the parent of the tests' cgroups.
func leftCgroups() []string {
	var left []string
	for _, p := range cgroupPaths(cgroupParent) {
		entries, _ := os.ReadDir(p)
		for _, e := range entries {
			if e.IsDir() {
				left = append(left, filepath.Join(p, e.Name()))
			}
		}
	}
	return left
}

// openFiles lists this process's descriptors.
func openFiles(t *testing.T) map[string]string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	files := map[string]string{}
	for _, e := range entries {
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && !strings.HasSuffix(target, "/fd") {
			files[e.Name()] = target
		}
	}
	return files
}

// mountNamespaces counts the threads of this process by mount namespace.
func mountNamespaces(t *testing.T) map[string]int {
	t.Helper()
	links, err := filepath.Glob("/proc/self/task/*/ns/mnt")
	require.NoError(t, err)
	count := map[string]int{}
	for _, l := range links {
		if ns, err := os.Readlink(l); err == nil {
			count[ns]++
		}
	}
	return count
}

// mounts lists the mounts of the tests' rootfs, which no other program has.
func mounts(t *testing.T) []string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	var ours []string
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, rootfs) {
			ours = append(ours, line)
		}
	}
	return ours
}
