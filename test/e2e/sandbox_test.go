// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	api "github.com/containerd/containerd/api/runtime/sandbox/v1"
	task "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// sandboxTest is a shim of a sandbox, called past containerd.
type sandboxTest struct {
	*harness.T
	*harness.Sandbox
	network string
}

func newSandbox(t *testing.T) *sandboxTest {
	t.Helper()
	tt := harness.New(t, smoke.Ours)
	s, err := tt.Sandbox(tt.Ctx, smoke.Ours, harness.Dialect23)
	require.NoError(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the shim's log:\n%s", s.Log.String())
		}
		require.NoError(t, s.Close(tt.Ctx))
	})
	return &sandboxTest{T: tt, Sandbox: s, network: emptyNetwork(t)}
}

// emptyNetwork makes a namespace that nobody is in, as CRI does.
func emptyNetwork(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "net")
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	require.NoError(t, exec.Command("unshare", "--net="+path, "true").Run())
	t.Cleanup(func() { require.NoError(t, unix.Unmount(path, unix.MNT_DETACH)) })
	return path
}

// config is the usual one of a pod.
func (s *sandboxTest) config() *cri.PodSandboxConfig {
	return &cri.PodSandboxConfig{
		Hostname:  "inpod",
		DnsConfig: &cri.DNSConfig{Servers: []string{"192.0.2.1", "192.0.2.2"}, Searches: []string{"a.test", "b.test"}, Options: []string{"ndots:5"}},
		Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent: "/" + s.Namespace, Sysctls: map[string]string{"net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1"},
			SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER}},
		},
	}
}

func (s *sandboxTest) create(config *cri.PodSandboxConfig, change func(*api.CreateSandboxRequest)) error {
	s.Helper()
	r := &api.CreateSandboxRequest{SandboxID: s.ID, BundlePath: s.Sandbox.Bundle, NetnsPath: s.network}
	if config != nil {
		options, err := typeurl.MarshalAnyToProto(config)
		require.NoError(s, err)
		r.Options = options
	}
	if change != nil {
		change(r)
	}
	_, err := s.CreateSandbox(s.Ctx, r)
	return err
}

func (s *sandboxTest) started(config *cri.PodSandboxConfig) int {
	s.Helper()
	require.NoError(s, s.create(config, nil))
	resp, err := s.StartSandbox(s.Ctx, &api.StartSandboxRequest{SandboxID: s.ID})
	require.NoError(s, err)
	return int(resp.Pid)
}

func (s *sandboxTest) state() *api.SandboxStatusResponse {
	s.Helper()
	resp, err := s.SandboxStatus(s.Ctx, &api.SandboxStatusRequest{SandboxID: s.ID, Verbose: true})
	require.NoError(s, err)
	return resp
}

func codeOf(err error) codes.Code { return status.Code(errgrpc.ToGRPC(err)) }

// procFields are those of a process's status in /proc.
func procFields(t *testing.T, pid int) map[string]string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	fields := map[string]string{}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		fields[name] = strings.Join(strings.Fields(value), " ")
	}
	return fields
}

// sameNamespace says whether two processes have one in common.
func sameNamespace(t *testing.T, name string, a, b int) bool {
	t.Helper()
	first, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", a, name))
	require.NoError(t, err)
	second, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", b, name))
	require.NoError(t, err)
	return first == second
}

// A sandbox's nine calls, in the order in which containerd makes them, and in others.
func TestSandboxCalls(t *testing.T) {
	s := newSandbox(t)
	notFound := func(err error) { t.Helper(); require.Equal(t, codes.NotFound, codeOf(err), err) }
	unknown := func() {
		t.Helper()
		_, err := s.StartSandbox(s.Ctx, &api.StartSandboxRequest{SandboxID: "other"})
		notFound(err)
		_, err = s.Platform(s.Ctx, &api.PlatformRequest{SandboxID: "other"})
		notFound(err)
		_, err = s.StopSandbox(s.Ctx, &api.StopSandboxRequest{SandboxID: "other"})
		notFound(err)
		_, err = s.WaitSandbox(s.Ctx, &api.WaitSandboxRequest{SandboxID: "other"})
		notFound(err)
		_, err = s.SandboxStatus(s.Ctx, &api.SandboxStatusRequest{SandboxID: "other"})
		notFound(err)
		_, err = s.PingSandbox(s.Ctx, &api.PingRequest{SandboxID: "other"})
		notFound(err)
		_, err = s.SandboxMetrics(s.Ctx, &api.SandboxMetricsRequest{SandboxID: "other"})
		notFound(err)
		_, err = s.UpdateSandbox(s.Ctx, &api.UpdateSandboxRequest{SandboxID: "other"})
		require.Equal(t, codes.Unimplemented, codeOf(err), "what containerd tolerates")
	}
	unknown()
	require.NoError(t, s.create(s.config(), nil))
	require.Equal(t, codes.AlreadyExists, codeOf(s.create(s.config(), nil)))
	unknown()

	for name, want := range map[string]string{
		"hostname": "inpod\n", "hosts": readFile(t, "/etc/hosts"),
		"resolv.conf": "search a.test b.test\nnameserver 192.0.2.1\nnameserver 192.0.2.2\noptions ndots:5\n",
	} {
		require.Equal(t, want, readFile(t, filepath.Join(s.Files, name)))
	}
	var shm unix.Statfs_t
	require.NoError(t, unix.Statfs(s.State+"/shm", &shm))
	require.EqualValues(t, unix.TMPFS_MAGIC, shm.Type)
	require.EqualValues(t, 64<<20, shm.Blocks*uint64(shm.Bsize))
	require.EqualValues(t, unix.ST_NOSUID|unix.ST_NODEV|unix.ST_NOEXEC, shm.Flags&(unix.ST_NOSUID|unix.ST_NODEV|unix.ST_NOEXEC))

	now := s.state()
	require.Equal(t, "SANDBOX_NOTREADY", now.State)
	require.Zero(t, now.Pid)
	started, err := s.StartSandbox(s.Ctx, &api.StartSandboxRequest{SandboxID: s.ID})
	require.NoError(t, err)
	_, err = s.StartSandbox(s.Ctx, &api.StartSandboxRequest{SandboxID: s.ID})
	require.Equal(t, codes.FailedPrecondition, codeOf(err))
	spec, err := typeurl.UnmarshalAny(started.Spec)
	require.NoError(t, err)
	require.Equal(t, "inpod", spec.(*specs.Spec).Hostname)
	now = s.state()
	require.Equal(t, "SANDBOX_READY", now.State)
	require.Equal(t, started.Pid, now.Pid)
	require.Equal(t, started.CreatedAt.AsTime(), now.CreatedAt.AsTime())
	require.Contains(t, now.Info["info"], `"processStatus":"running"`)
	_, err = s.PingSandbox(s.Ctx, &api.PingRequest{SandboxID: s.ID})
	require.NoError(t, err)
	platform, err := s.Platform(s.Ctx, &api.PlatformRequest{SandboxID: s.ID})
	require.NoError(t, err)
	require.Equal(t, "linux", platform.Platform.OS)
	metrics, err := s.SandboxMetrics(s.Ctx, &api.SandboxMetricsRequest{SandboxID: s.ID})
	require.NoError(t, err)
	require.Equal(t, s.ID, metrics.Metrics.ID)
	_, err = typeurl.UnmarshalAny(metrics.Metrics.Data)
	require.NoError(t, err)

	exit := make(chan *api.WaitSandboxResponse, 1)
	go func() {
		resp, _ := s.WaitSandbox(s.Ctx, &api.WaitSandboxRequest{SandboxID: s.ID})
		exit <- resp
	}()
	for range 2 {
		_, err = s.StopSandbox(s.Ctx, &api.StopSandboxRequest{SandboxID: s.ID, TimeoutSecs: 5})
		require.NoError(t, err)
	}
	require.EqualValues(t, 137, (<-exit).ExitStatus)
	now = s.state()
	require.Equal(t, "SANDBOX_NOTREADY", now.State)
	require.Zero(t, now.Pid)
	require.WithinDuration(t, time.Now(), now.ExitedAt.AsTime(), time.Minute)
	require.NoError(t, unix.Statfs(s.State+"/shm", &shm))
	require.NotEqualValues(t, unix.TMPFS_MAGIC, shm.Type, "it is unmounted")
	_, err = s.ShutdownSandbox(s.Ctx, &api.ShutdownSandboxRequest{SandboxID: s.ID})
	require.NoError(t, err)
	require.NoDirExists(t, s.Files)
	require.NoDirExists(t, s.State)
	_, err = s.PingSandbox(s.Ctx, &api.PingRequest{SandboxID: s.ID})
	notFound(err)
	require.NoError(t, s.Sandbox.Shim.Close())
	out, err := s.DeleteCommand(s.Ctx)
	require.NoError(t, err)
	require.NotEmpty(t, out)
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(text)
}

// What cannot be is said, with what was found and what is accepted, and leaves nothing.
func TestSandboxRefusals(t *testing.T) {
	users := func(u *cri.UserNamespace) func(*cri.PodSandboxConfig) {
		return func(c *cri.PodSandboxConfig) { c.Linux.SecurityContext.NamespaceOptions.UsernsOptions = u }
	}
	ids := func(container, host, size uint32) []*cri.IDMapping {
		return []*cri.IDMapping{{ContainerId: container, HostId: host, Length: size}}
	}
	one := ids(0, 100000, 65536)
	sysctl := func(name string, change func(*cri.NamespaceOption)) func(*cri.PodSandboxConfig) {
		return func(c *cri.PodSandboxConfig) {
			c.Linux.Sysctls = map[string]string{name: "1"}
			if change != nil {
				change(c.Linux.SecurityContext.NamespaceOptions)
			}
		}
	}
	s := newSandbox(t)
	for name, test := range map[string]struct {
		config  func(*cri.PodSandboxConfig)
		request func(*api.CreateSandboxRequest)
		code    codes.Code
		want    string
	}{
		"options of another kind": {
			request: func(r *api.CreateSandboxRequest) {
				r.Options = &anypb.Any{TypeUrl: "type.googleapis.com/vm.Options"}
			}, want: "the sandbox's options are vm.Options; accepted: runtime.v1.PodSandboxConfig",
		},
		"options cut off": {
			request: func(r *api.CreateSandboxRequest) { r.Options.Value = r.Options.Value[:len(r.Options.Value)-1] },
			want:    "read the pod's configuration: unexpected EOF",
		},
		"no network":          {request: func(r *api.CreateSandboxRequest) { r.NetnsPath = "" }, want: "the request names no netns_path"},
		"another root":        {request: func(r *api.CreateSandboxRequest) { r.Rootfs = []*types.Mount{{}} }, want: "a root file system of 1 mounts; accepted: none"},
		"no id":               {request: func(r *api.CreateSandboxRequest) { r.SandboxID = "../x" }, want: `sandbox id "../x" is not a name`},
		"relative bundle":     {request: func(r *api.CreateSandboxRequest) { r.BundlePath = "x" }, want: `bundle "x" is not an absolute path`},
		"a container's place": {request: func(r *api.CreateSandboxRequest) { r.BundlePath = t.TempDir() }, want: "find CRI's directories"},
		"users of a target":   {config: users(&cri.UserNamespace{Mode: cri.NamespaceMode_TARGET}), want: "user namespace mode TARGET; accepted: POD, NODE"},
		"users of containers": {config: users(&cri.UserNamespace{Mode: cri.NamespaceMode_CONTAINER}), want: "user namespace mode CONTAINER; accepted: POD, NODE"},
		"the host's users":    {config: users(&cri.UserNamespace{Mode: cri.NamespaceMode_NODE, Uids: one}), want: "the host's users (mode NODE), and 1 mappings"},
		"two mappings":        {config: users(&cri.UserNamespace{Uids: append(ids(1, 1, 1), one...), Gids: one}), want: "with 2 mappings of users and 1 of groups; accepted: one of each"},
		"no root":             {config: users(&cri.UserNamespace{Uids: ids(1000, 100000, 1000), Gids: one}), want: "a mapping of 1000 ids from 1000; accepted: one that begins with 0"},
		"sysctl of the host":  {config: sysctl("kernel.pid_max", nil), want: `sysctl "kernel.pid_max" is not in a separate kernel namespace`},
		"sysctl of its network": {config: sysctl("net.ipv4.ip_forward", func(o *cri.NamespaceOption) {
			o.Network = cri.NamespaceMode_NODE
		}), want: `sysctl "net.ipv4.ip_forward" not allowed in host network namespace`},
		"sysctl of its messages": {config: sysctl("kernel.msgmax", func(o *cri.NamespaceOption) {
			o.Ipc = cri.NamespaceMode_NODE
		}), want: `sysctl "kernel.msgmax" is not allowed in the hosts ipc namespace`},
	} {
		t.Run(name, func(t *testing.T) {
			config := s.config()
			if test.config != nil {
				test.config(config)
			}
			err := s.create(config, test.request)
			require.ErrorContains(t, err, test.want)
			require.Equal(t, codes.InvalidArgument, codeOf(err), err)
			require.NoDirExists(t, s.Files)
			require.NoDirExists(t, s.State)
		})
	}

	// What only the kernel knows is said by the start.
	require.NoError(t, s.create(s.config(), func(r *api.CreateSandboxRequest) { r.NetnsPath = "/etc/hosts" }))
	_, err := s.StartSandbox(s.Ctx, &api.StartSandboxRequest{SandboxID: s.ID})
	require.ErrorContains(t, err, "join namespace /etc/hosts: Invalid argument")
	require.Equal(t, codes.FailedPrecondition, codeOf(err))
}

// The waiting process holds the pod's namespaces, and has nothing else: a process that
// shares the pod's processes, and is root, gets nothing from it.
func TestSandboxWaiter(t *testing.T) {
	host := os.Getpid()
	all := []string{"net", "uts", "ipc", "pid", "user", "mnt"}
	options := func(change func(*cri.NamespaceOption)) func(*cri.PodSandboxConfig) {
		return func(c *cri.PodSandboxConfig) {
			c.Linux.Sysctls = nil
			change(c.Linux.SecurityContext.NamespaceOptions)
		}
	}
	users := &cri.UserNamespace{Uids: []*cri.IDMapping{{HostId: 100000, Length: 65536}}, Gids: []*cri.IDMapping{{HostId: 200000, Length: 65536}}}
	for name, test := range map[string]struct {
		change func(*cri.PodSandboxConfig)
		shared string // of the host's namespaces
		uid    int
		gid    int
	}{
		"usual":             {shared: "user", uid: 65535, gid: 65535},
		"host network":      {options(func(o *cri.NamespaceOption) { o.Network = cri.NamespaceMode_NODE }), "net uts user", 65535, 65535},
		"host processes":    {options(func(o *cri.NamespaceOption) { o.Pid = cri.NamespaceMode_NODE }), "pid user", 65535, 65535},
		"host ipc":          {options(func(o *cri.NamespaceOption) { o.Ipc = cri.NamespaceMode_NODE }), "ipc user", 65535, 65535},
		"users":             {options(func(o *cri.NamespaceOption) { o.UsernsOptions = users }), "", 165535, 265535},
		"users, host's net": {options(func(o *cri.NamespaceOption) { o.UsernsOptions, o.Network = users, cri.NamespaceMode_NODE }), "net uts", 165535, 265535},
		"users, few": {options(func(o *cri.NamespaceOption) {
			o.UsernsOptions = &cri.UserNamespace{Uids: []*cri.IDMapping{{HostId: 100000, Length: 10}}, Gids: []*cri.IDMapping{{HostId: 200000, Length: 10}}}
		}), "", 100000, 200000},
		"a user": {func(c *cri.PodSandboxConfig) {
			c.Linux.SecurityContext.RunAsUser, c.Linux.SecurityContext.RunAsGroup = &cri.Int64Value{Value: 7}, &cri.Int64Value{}
		}, "user", 7, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSandbox(t)
			config := s.config()
			if test.change != nil {
				test.change(config)
			}
			pid := s.started(config)
			for _, ns := range all {
				require.Equal(t, strings.Contains(test.shared, ns), sameNamespace(t, ns, host, pid), ns)
			}
			fields := procFields(t, pid)
			require.Equal(t, "wasmshim-pod", fields["Name"])
			require.Equal(t, strings.TrimSpace(strings.Repeat(strconv.Itoa(test.uid)+" ", 4)), fields["Uid"])
			require.Equal(t, strings.TrimSpace(strings.Repeat(strconv.Itoa(test.gid)+" ", 4)), fields["Gid"])
			for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
				require.Equal(t, "0000000000000000", fields[set], set)
			}
			require.Equal(t, "", fields["Groups"])
			require.Equal(t, "1", fields["NoNewPrivs"])
			require.Equal(t, "1", fields["Threads"])
			require.Eventually(t, func() bool { return procFields(t, pid)["Seccomp"] == "1" }, 10*time.Second, time.Millisecond)
			entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/root", pid))
			require.NoError(t, err)
			require.Empty(t, entries)
			mounts := readFile(t, fmt.Sprintf("/proc/%d/mountinfo", pid))
			require.Equal(t, 1, strings.Count(mounts, "\n"), mounts)
			open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
			require.NoError(t, err)
			require.Len(t, open, 1, "what it lives by")
			require.Contains(t, readFile(t, fmt.Sprintf("/proc/%d/cgroup", pid)), "/"+s.Namespace+"/"+s.ID)
			var info unix.Stat_t
			require.NoError(t, unix.Stat(fmt.Sprintf("/proc/%d/environ", pid), &info))
			require.Zero(t, info.Uid, "it is not dumpable")
			if !strings.Contains(test.shared, "uts") {
				name, err := execIn(pid, "--uts", "hostname")
				require.NoError(t, err)
				require.Equal(t, "inpod\n", name)
			}
			if config.Linux.Sysctls != nil {
				value, err := execIn(pid, "--net", "--ipc", "cat", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/kernel/shm_rmid_forced", "/proc/sys/net/ipv4/ip_unprivileged_port_start")
				require.NoError(t, err)
				require.Equal(t, "1\n1\n0\n", value)
			}
		})
	}
}

// A client that is not CRI need not name any configuration.
func TestSandboxPlain(t *testing.T) {
	s := newSandbox(t)
	pid := s.started(nil)
	require.False(t, sameNamespace(t, "net", os.Getpid(), pid))
	require.False(t, sameNamespace(t, "uts", os.Getpid(), pid))
	require.NoDirExists(t, s.Files)
	_, err := s.SandboxMetrics(s.Ctx, &api.SandboxMetricsRequest{SandboxID: s.ID})
	require.Equal(t, codes.FailedPrecondition, codeOf(err), "it has no cgroup that a pod would have")
}

// The waiting process reaps what nobody else does, and ends when it is told to.
func TestSandboxFirstProcess(t *testing.T) {
	for name, signal := range map[string]syscall.Signal{"SIGTERM": syscall.SIGTERM, "SIGINT": syscall.SIGINT, "SIGKILL": syscall.SIGKILL} {
		t.Run(name, func(t *testing.T) {
			s := newSandbox(t)
			pid := s.started(s.config())
			_, err := execIn(pid, "--pid", "sh", "-c", "sleep 0.01 & exit 0")
			require.NoError(t, err)
			require.Eventually(t, func() bool {
				return strings.TrimSpace(readFile(t, fmt.Sprintf("/proc/%d/task/%[1]d/children", pid))) == ""
			}, 10*time.Second, time.Millisecond)
			// From inside, where a first process gets only what it has a handler for.
			_, err = execIn(pid, "--pid", "sh", "-c", "kill -HUP 1; kill -KILL 1")
			require.NoError(t, err)
			require.Equal(t, "SANDBOX_READY", s.state().State)
			require.NoError(t, syscall.Kill(pid, signal))
			resp, err := s.WaitSandbox(s.Ctx, &api.WaitSandboxRequest{SandboxID: s.ID})
			require.NoError(t, err)
			require.EqualValues(t, 128+int(signal), resp.ExitStatus)
			require.Equal(t, "SANDBOX_NOTREADY", s.state().State)
		})
	}
}

// When it starts, containerd removes the files of pods that it has no pause container of.
// They are there again when it asks for the pod, which it does for each container.
func TestSandboxFilesComeBack(t *testing.T) {
	s := newSandbox(t)
	s.started(s.config())
	require.NoError(t, os.WriteFile(s.State+"/shm/kept", []byte("text"), 0o600))
	for range 2 {
		require.NoError(t, unix.Unmount(s.State+"/shm", unix.MNT_DETACH))
		require.NoError(t, os.RemoveAll(s.State))
		require.NoError(t, os.RemoveAll(s.Files))
		s.state()
		require.Equal(t, "text", readFile(t, s.State+"/shm/kept"), "the memory is the same")
		require.Equal(t, "inpod\n", readFile(t, s.Files+"/hostname"))
	}
}

// A daemon that is killed takes the waiting process with it; what else there is of a
// sandbox goes with the delete that containerd runs, its containers among it, for which
// containerd up to 2.3 runs none, and whose bundles it removes. A daemon that lives is told.
func TestSandboxDelete(t *testing.T) {
	for name, kill := range map[string]bool{"killed": true, "alive": false} {
		t.Run(name, func(t *testing.T) {
			s := newSandbox(t)
			pid := s.started(s.config())
			c, err := s.Place.ByHand(s.Ctx, harness.HandConfig{Runtime: smoke.Ours, Shim: s.Sandbox.ByHand, RootFS: rootfs(s.T), Args: []string{"/bin/sleep", "1000"}, NoIO: true})
			require.NoError(t, err)
			created, err := c.Create(s.Ctx)
			require.NoError(t, err)
			_, err = c.Start(s.Ctx, &task.StartRequest{ID: c.ID})
			require.NoError(t, err)
			ended := func(pid int) func() bool { return func() bool { return syscall.Kill(pid, 0) == syscall.ESRCH } }
			if kill {
				daemon := s.Shims()
				require.Len(t, daemon, 1)
				require.NoError(t, syscall.Kill(daemon[0].Pid, syscall.SIGKILL))
				require.Eventually(t, ended(pid), 10*time.Second, time.Millisecond)
				require.False(t, ended(int(created.Pid))())
				require.NoError(t, unix.Unmount(c.Bundle+"/rootfs", unix.MNT_DETACH))
				require.NoError(t, os.RemoveAll(c.Bundle))
			}
			out, err := s.DeleteCommand(s.Ctx)
			require.NoError(t, err)
			require.NotEmpty(t, out)
			require.Eventually(t, ended(int(created.Pid)), 10*time.Second, time.Millisecond)
			require.NoDirExists(t, s.Files)
			require.NoDirExists(t, s.State)
			if !kill {
				require.NoError(t, c.Close(s.Ctx))
			}
			require.Eventually(t, func() bool { return len(s.Shims()) == 0 }, 10*time.Second, 10*time.Millisecond)
		})
	}
}

// execIn runs a program of the host's in some of a process's namespaces.
func execIn(pid int, args ...string) (string, error) {
	out, err := exec.Command("nsenter", append([]string{"--target", strconv.Itoa(pid)}, args...)...).CombinedOutput()
	return string(out), err
}
