// SPDX-License-Identifier: Apache-2.0

package container

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"
)

func validSpec() *specs.Spec {
	spec := specconv.Example()
	spec.Process.Terminal = false
	return spec
}

func TestValidate(t *testing.T) {
	require.NoError(t, Validate(validSpec()))
	for _, tc := range []struct {
		name string
		edit func(*specs.Spec)
		want string
	}{
		{"no process", func(s *specs.Spec) { s.Process = nil }, "no process"},
		{"no root", func(s *specs.Spec) { s.Root = nil }, "no root.path"},
		{"empty root", func(s *specs.Spec) { s.Root.Path = "" }, "no root.path"},
		{"no linux", func(s *specs.Spec) { s.Linux = nil }, "no mount namespace"},
		{"no namespaces", func(s *specs.Spec) { s.Linux.Namespaces = nil }, "no mount namespace"},
		{"no mounts", func(s *specs.Spec) { s.Mounts = nil }, "no mount at /proc"},
		{"other mount at /proc", func(s *specs.Spec) { s.Mounts = []specs.Mount{{Destination: "/proc", Type: "tmpfs"}} }, "no mount at /proc"},
		{"relative cwd", func(s *specs.Spec) { s.Process.Cwd = "tmp" }, `process.cwd is "tmp"`},
		{"no cwd", func(s *specs.Spec) { s.Process.Cwd = "" }, "process.cwd is empty"},
		{"root cgroup", func(s *specs.Spec) { s.Linux.CgroupsPath = "/x/.." }, `"/x/.." is the root cgroup`},
		{"relative root cgroup", func(s *specs.Spec) { s.Linux.CgroupsPath = ".." }, "is the root cgroup"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			spec := validSpec()
			tc.edit(spec)
			err := Validate(spec)
			require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
			require.ErrorContains(t, err, tc.want)
		})
	}
	t.Run("no spec", func(t *testing.T) { require.ErrorIs(t, Validate(nil), errdefs.ErrInvalidArgument) })
	t.Run("a bind mount is a /proc, too", func(t *testing.T) {
		spec := validSpec()
		spec.Mounts = []specs.Mount{{Destination: "/proc/", Type: "none", Source: "/proc", Options: []string{"rbind"}}}
		require.NoError(t, Validate(spec))
	})
}

func TestNewProcess(t *testing.T) {
	for _, tc := range []struct {
		name string
		p    Process
		want string
	}{
		{"no spec", Process{Args: []string{"x"}}, "no process"},
		{"no args", Process{Spec: &specs.Process{Cwd: "/"}}, "process.args is empty"},
		{"empty program", Process{Args: []string{""}, Spec: &specs.Process{Cwd: "/"}}, "process.args is empty"},
		{"rlimit", Process{Args: []string{"x"}, Spec: &specs.Process{Cwd: "/", Rlimits: []specs.POSIXRlimit{{Type: "NOFILE"}}}}, `process.rlimits has type "NOFILE"`},
		{"affinity", Process{Args: []string{"x"}, Spec: &specs.Process{Cwd: "/", ExecCPUAffinity: &specs.CPUAffinity{Initial: "x"}}}, "process.execCPUAffinity"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := newProcess(tc.p, true)
			require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
			require.ErrorContains(t, err, tc.want)
		})
	}
}

// TestPaths checks that nothing in a config depends on this process's working
// directory or cgroup.
func TestPaths(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	require.NoError(t, os.Mkdir(filepath.Join(dir, "rootfs"), 0o755))
	link := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(dir, link))

	spec := validSpec()
	spec.Root.Path = "rootfs"
	spec.Annotations = map[string]string{"bundle": "/evil"}
	spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/data", Source: "data", Options: []string{"bind"}})
	config, err := newConfig(Config{ID: "id", Bundle: link, Spec: spec})
	require.NoError(t, err)
	require.Equal(t, filepath.Join(dir, "rootfs"), config.Rootfs)
	require.Equal(t, filepath.Join(dir, "data"), config.Mounts[len(config.Mounts)-1].Source)
	require.Equal(t, []string{"bundle=/evil", "bundle=" + dir}, config.Labels)
	require.Equal(t, "rootfs", spec.Root.Path, "the caller's spec is changed")

	for path, want := range map[string]string{"": "/id", "a": "/a", "../a": "/a", "/a//b/": "/a/b"} {
		spec.Linux.CgroupsPath = path
		config, err := newConfig(Config{ID: "id", Bundle: dir, Spec: spec})
		require.NoError(t, err)
		require.Equal(t, want, config.Cgroups.Path)
	}
}

// TestSystemdScope: a spec that leaves the cgroup to the runtime gets the scope
// that runc would give it, and a cleanup that knows neither spec nor options
// finds it.
func TestSystemdScope(t *testing.T) {
	bundle := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(bundle, "rootfs"), 0o755))
	for path, want := range map[string]cgroups.Cgroup{
		"":                    {Systemd: true, ScopePrefix: "runc", Name: "id"},
		"my.slice:prefix:one": {Systemd: true, Parent: "my.slice", ScopePrefix: "prefix", Name: "one"},
	} {
		spec := validSpec()
		spec.Linux.CgroupsPath = path
		config, err := newConfig(Config{ID: "id", Bundle: bundle, Spec: spec, SystemdCgroup: true})
		require.NoError(t, err)
		paths := map[string]string{"": "/sys/fs/cgroup/x"}
		created := cgroup{Config: *config.Cgroups, Paths: paths, PrivatePID: true}
		created.Config.Resources = nil
		require.NoError(t, created.save(bundle))
		found, ok := loadCgroup(bundle)
		require.True(t, ok)
		require.Equal(t, cgroup{Config: want, Paths: paths, PrivatePID: true}, found)
	}
}

// TestDefaultDevicesAreNotShared is about libcontainer's package-wide list of
// default devices, which a user namespace makes it write to.
func TestDefaultDevicesAreNotShared(t *testing.T) {
	owner := func(c *configs.Config) uint32 { return c.Devices[0].Uid }
	cfg := Config{ID: "id", Bundle: t.TempDir(), Spec: validSpec()}
	require.NoError(t, os.Mkdir(filepath.Join(cfg.Bundle, "rootfs"), 0o755))
	before, err := newConfig(cfg)
	require.NoError(t, err)

	cfg.Spec = validSpec()
	cfg.Spec.Linux.Namespaces = append(cfg.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	ids := []specs.LinuxIDMapping{{HostID: 100000, Size: 65536}}
	cfg.Spec.Linux.UIDMappings, cfg.Spec.Linux.GIDMappings = ids, ids
	mapped, err := newConfig(cfg)
	require.NoError(t, err)

	cfg.Spec = validSpec()
	after, err := newConfig(cfg)
	require.NoError(t, err)
	require.Equal(t, []uint32{0, 100000, 0}, []uint32{owner(before), owner(mapped), owner(after)})
}

// TestJoinedMappings: containerd gives the path of a user namespace together with its
// mappings, which is no reason for a warning; other mappings are refused.
func TestJoinedMappings(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make a user namespace with mappings")
	}
	cmd := exec.Command("sleep", "infinity")
	maps := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 100000, Size: 65536}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: maps, GidMappings: maps}
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	var log bytes.Buffer
	logrus.SetOutput(&log)
	t.Cleanup(func() { logrus.SetOutput(os.Stderr) })
	for size, want := range map[uint32]error{65536: nil, 65535: errdefs.ErrInvalidArgument} {
		cfg := Config{ID: "id", Bundle: t.TempDir(), Spec: validSpec()}
		require.NoError(t, os.Mkdir(filepath.Join(cfg.Bundle, "rootfs"), 0o755))
		cfg.Spec.Linux.Namespaces = append(cfg.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace, Path: fmt.Sprintf("/proc/%d/ns/user", cmd.Process.Pid)})
		ids := []specs.LinuxIDMapping{{HostID: 100000, Size: size}}
		cfg.Spec.Linux.UIDMappings, cfg.Spec.Linux.GIDMappings = ids, ids
		config, err := newConfig(cfg)
		require.ErrorIs(t, err, want)
		if want == nil {
			require.Equal(t, []configs.IDMap{{HostID: 100000, Size: 65536}}, config.UIDMappings)
		}
		require.Equal(t, ids, cfg.Spec.Linux.UIDMappings, "the caller's")
		require.Empty(t, log.String())
	}
}

// FuzzSpec: no config.json makes us panic.
func FuzzSpec(f *testing.F) {
	b, err := json.Marshal(validSpec())
	require.NoError(f, err)
	f.Add(b)
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"process":{"cwd":"/","args":["x"],"capabilities":null,"rlimits":[{}]},"root":{"path":"r"},
		"mounts":[{"destination":"/proc","type":"proc","uidMappings":[{}]}],"hooks":{"prestart":[{}],"poststop":[{"timeout":0}]},
		"linux":{"namespaces":[{"type":"mount"},{"type":"user"}],"seccomp":{"syscalls":[{}]},"intelRdt":{},"personality":{},
		"devices":[{}],"resources":{"devices":[{}],"memory":{},"cpu":{},"pids":{},"blockIO":{"weightDevice":[{}]},"network":{"priorities":[{}]},
		"hugepageLimits":[{}],"rdma":{"a":{}},"unified":{"a":"b"}},"timeOffsets":{"boottime":{}},"netDevices":{"eth0":{}},"memoryPolicy":{}}}`))
	dir := f.TempDir()
	require.NoError(f, os.Mkdir(filepath.Join(dir, "rootfs"), 0o755))
	f.Fuzz(func(t *testing.T, b []byte) {
		var spec *specs.Spec
		if json.Unmarshal(b, &spec) != nil || Validate(spec) != nil {
			return
		}
		_, _ = newConfig(Config{ID: "id", Bundle: dir, Spec: spec})
		_, _ = newProcess(Process{Args: spec.Process.Args, Spec: spec.Process}, true)
	})
}
