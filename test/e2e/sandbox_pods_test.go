// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// podsTest has pods that CRI makes without pause containers.
type podsTest struct {
	*testing.T
	*harness.CRI
	ctx    context.Context
	image  string
	before harness.Snapshot
}

func newPodsTest(t *testing.T) *podsTest {
	t.Helper()
	tt := harness.New(t, smoke.Ours) // skips where it has to
	c, err := harness.StartCRI(tt.Ctx, harness.Containerd24, smoke.Ours)
	require.NoError(t, err)
	return podsTestOn(tt, c)
}

func podsTestOn(tt *harness.T, c *harness.CRI) *podsTest {
	t := tt.T
	t.Helper()
	r := &podsTest{T: t, CRI: c, ctx: tt.Ctx}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("containerd's log:\n%s", c.LogTail(60))
		}
		require.NoError(t, c.Stop())
	})
	r.image = smoke.Image(&harness.T{T: t, Daemon: c.Inside(), Ctx: c.Inside().In(tt.Ctx)}).Name()
	// For pods around a pause container.
	d := r.Inside()
	_, err := d.Image(d.In(r.ctx), "pause", map[string]harness.File{"pause": smoke.Files(t)["native"]}, ocispec.ImageConfig{Entrypoint: []string{"/pause", "sleep"}})
	require.NoError(t, err)
	// What containerd makes once for all pods stays.
	t.Run("warm", func(t *testing.T) { r.runPod(t, r.config(nil)).container("/hello.wasm") })
	r.before = c.Snapshot()
	return r
}

// daemons are those of the pods.
func (r *podsTest) daemons() []harness.Process {
	return r.Processes(func(args []string) bool {
		return strings.Contains(args[0], "containerd-shim-") && slices.Contains(args, "-namespace")
	})
}

// podOf is a pod of a test.
type podOf struct {
	*podsTest
	id     string
	config *cri.PodSandboxConfig
	pid    int  // of its waiting process
	killed bool // of its daemon: containerd needs a moment
}

func (r *podsTest) config(change func(*cri.NamespaceOption)) *cri.PodSandboxConfig {
	config := r.Pod(harness.FreshID("pod"))
	config.Hostname = "inpod"
	config.DnsConfig = &cri.DNSConfig{Servers: []string{"192.0.2.1"}}
	options := config.Linux.SecurityContext.NamespaceOptions
	options.Network, options.Pid = cri.NamespaceMode_POD, cri.NamespaceMode_CONTAINER
	if change != nil {
		change(options)
	}
	return config
}

// runPod runs a pod, which ends with the test.
func (r *podsTest) runPod(t *testing.T, config *cri.PodSandboxConfig) *podOf {
	t.Helper()
	return r.runPodBy(t, "test", config)
}

// runPodBy runs it by a handler.
func (r *podsTest) runPodBy(t *testing.T, handler string, config *cri.PodSandboxConfig) *podOf {
	t.Helper()
	run, err := r.RunPodSandbox(r.ctx, &cri.RunPodSandboxRequest{Config: config, RuntimeHandler: handler})
	require.NoError(t, err)
	own := *r
	own.T = t
	p := &podOf{podsTest: &own, id: run.PodSandboxId, config: config}
	t.Cleanup(func() {
		p.remove()
		if r.before == nil {
			return
		}
		require.Empty(t, r.Leaks(r.before), "left behind")
		for _, dir := range p.dirs() {
			require.NoDirExists(t, dir)
		}
	})
	status := p.status()
	require.Equal(t, cri.PodSandboxState_SANDBOX_READY, status.Status.State)
	p.pid = pidIn(t, status.Info["info"])
	return p
}

// pidIn is the pid in what CRI tells whoever wants to know more.
func pidIn(t *testing.T, info string) (pid int) {
	t.Helper()
	_, after, _ := strings.Cut(info, `"pid":`)
	_, err := fmt.Sscanf(after, "%d", &pid)
	require.NoError(t, err, info)
	return pid
}

func (p *podOf) status() *cri.PodSandboxStatusResponse {
	p.Helper()
	status, err := p.PodSandboxStatus(p.ctx, &cri.PodSandboxStatusRequest{PodSandboxId: p.id, Verbose: true})
	require.NoError(p, err)
	return status
}

// dirs are where CRI has the pod's files.
func (p *podOf) dirs() []string {
	const sandboxes = "io.containerd.grpc.v1.cri/sandboxes"
	return []string{filepath.Join(p.Dir, "root", sandboxes, p.id), filepath.Join(p.State, sandboxes, p.id)}
}

// remove removes it as a kubelet does, which tries again.
func (p *podOf) remove() {
	p.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), harness.Slow(20*time.Second))
	defer cancel()
	for {
		_, err := p.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: p.id})
		if err == nil {
			_, err = p.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: p.id})
		}
		if err == nil {
			return
		}
		if !p.killed {
			require.NoError(p, err)
		}
		require.NoError(p, ctx.Err(), err)
		time.Sleep(100 * time.Millisecond)
	}
}

// container starts one in the pod, with its namespaces, as a kubelet does.
func (p *podOf) container(args ...string) string {
	p.Helper()
	name := harness.FreshID("c")
	config := &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: name}, Image: &cri.ImageSpec{Image: p.image}, Command: args, LogPath: name + ".log",
		Linux: &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{NamespaceOptions: p.config.Linux.SecurityContext.NamespaceOptions}},
	}
	created, err := p.CreateContainer(p.ctx, &cri.CreateContainerRequest{PodSandboxId: p.id, Config: config, SandboxConfig: p.config})
	require.NoError(p, err)
	_, err = p.StartContainer(p.ctx, &cri.StartContainerRequest{ContainerId: created.ContainerId})
	require.NoError(p, err)
	return created.ContainerId
}

// sh runs a script in a container and returns what it prints.
func (p *podOf) sh(id, script string) string {
	p.Helper()
	resp, err := p.ExecSync(p.ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: shell(script), Timeout: 20})
	require.NoError(p, err)
	require.Zero(p, resp.ExitCode, "%s%s", resp.Stdout, resp.Stderr)
	return string(resp.Stdout)
}

func (p *podOf) pidOf(id string) int {
	p.Helper()
	resp, err := p.ContainerStatus(p.ctx, &cri.ContainerStatusRequest{ContainerId: id, Verbose: true})
	require.NoError(p, err)
	return pidIn(p.T, resp.Info["info"])
}

func shell(script string) []string { return []string{"/bin/busybox", "sh", "-c", script} }

// A pod without a pause container has what one with it has: native programs and guests
// find its namespaces, its names and its memory, and CRI its statistics.
func TestSandboxPods(t *testing.T) {
	r := newPodsTest(t)
	users := &cri.UserNamespace{Uids: []*cri.IDMapping{{HostId: 100000, Length: 65536}}, Gids: []*cri.IDMapping{{HostId: 100000, Length: 65536}}}
	for name, test := range map[string]struct {
		change func(*cri.NamespaceOption)
		shared string // among all of the pod
		host   string // with the host
	}{
		"usual":            {nil, "net uts ipc", "user"},
		"shared processes": {func(o *cri.NamespaceOption) { o.Pid = cri.NamespaceMode_POD }, "net uts ipc pid", "user"},
		"host processes":   {func(o *cri.NamespaceOption) { o.Pid = cri.NamespaceMode_NODE }, "net uts ipc pid", "user pid"},
		"host network":     {func(o *cri.NamespaceOption) { o.Network = cri.NamespaceMode_NODE }, "net uts ipc", "user net uts"},
		"host ipc":         {func(o *cri.NamespaceOption) { o.Ipc = cri.NamespaceMode_NODE }, "net uts ipc", "user ipc"},
		"users":            {func(o *cri.NamespaceOption) { o.UsernsOptions = users }, "net uts ipc user", ""},
		"users, shared processes": {func(o *cri.NamespaceOption) {
			o.UsernsOptions, o.Pid = users, cri.NamespaceMode_POD
		}, "net uts ipc user pid", ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := r.runPod(t, r.config(test.change))
			native, guest := p.container(shell("echo ready; exec sleep 1000")...), p.container("/sleep.wasm")
			require.Len(t, p.daemons(), 1, "one daemon for the pod")
			for _, pid := range []int{p.pid, p.pidOf(native), p.pidOf(guest)} {
				for _, ns := range []string{"net", "uts", "ipc", "pid", "user"} {
					require.Equal(t, strings.Contains(test.host, ns), sameNamespace(t, ns, os.Getpid(), pid), "%s of the host", ns)
					if strings.Contains(test.shared, ns) {
						require.True(t, sameNamespace(t, ns, p.pid, pid), "%s of the pod", ns)
					}
				}
			}
			if !strings.Contains(test.host, "uts") {
				require.Equal(t, "inpod\n", p.sh(native, "busybox hostname"))
			}
			require.Equal(t, "inpod\n", p.sh(native, "busybox cat /etc/hostname"))
			require.Equal(t, "nameserver 192.0.2.1\n", p.sh(native, "busybox cat /etc/resolv.conf"))
			require.Equal(t, readFile(t, "/etc/hosts"), p.sh(native, "busybox cat /etc/hosts"))
			if !strings.Contains(test.host, "ipc") {
				p.sh(native, "echo text >/dev/shm/file")
				require.Equal(t, "text\n", p.sh(guest, "busybox cat /dev/shm/file"), "one memory for the pod")
			}
			if strings.Contains(test.shared, "pid") && !strings.Contains(test.host, "pid") {
				require.Equal(t, "wasmshim-pod\n", p.sh(native, "busybox cat /proc/1/comm"))
				require.NotEmpty(t, p.sh(native, "busybox ls /proc/1/root 2>&1 || echo refused"), "what the waiting process has is not for the pod")
			}
			require.Equal(t, "hello\n", p.sh(native, "echo hello"))
			hello, err := p.ExecSync(p.ctx, &cri.ExecSyncRequest{ContainerId: guest, Cmd: []string{"/hello.wasm"}, Timeout: 20})
			require.NoError(t, err)
			require.Equal(t, "hello\n", string(hello.Stdout))
			stats, err := p.PodSandboxStats(p.ctx, &cri.PodSandboxStatsRequest{PodSandboxId: p.id})
			require.NoError(t, err)
			require.NotZero(t, stats.Stats.Linux.Memory.WorkingSetBytes.GetValue())
			require.NotZero(t, stats.Stats.Linux.Cpu.UsageCoreNanoSeconds.GetValue())
			require.Len(t, stats.Stats.Linux.Containers, 2)
		})
	}
	for line := range strings.Lines(r.LogTail(10000)) {
		ours := strings.Contains(line, "runtime="+smoke.Ours) || strings.Contains(line, "libcontainer")
		if ours && !strings.Contains(line, "artifact") { // a compiler of somebody else's may hold up ours
			require.Contains(t, line, "level=info", "healthy pods leave no warnings")
		}
	}
}

// The usual way, a pod around a pause container, is there beside it, of the same binary.
func TestSandboxPaused(t *testing.T) {
	r := newPodsTest(t)
	run, err := r.RunPodSandbox(r.ctx, &cri.RunPodSandboxRequest{Config: r.config(nil), RuntimeHandler: "paused"})
	require.NoError(t, err)
	// It is executed in its own time.
	require.Eventually(t, func() bool {
		return len(r.Processes(func(args []string) bool { return args[0] == "/pause" })) == 1
	}, harness.Slow(10*time.Second), time.Millisecond)
	_, err = r.RemovePodSandbox(r.ctx, &cri.RemovePodSandboxRequest{PodSandboxId: run.PodSandboxId})
	require.NoError(t, err)
	require.Empty(t, r.Leaks(r.before))
}

// Pods share a daemon of the node, by the option that CRI hands on of its configuration,
// with pause containers and without; each is a pod as ever.
func TestNodeDaemonCRI(t *testing.T) {
	r := newPodsTest(t)
	before := r.before
	for name, handler := range map[string]string{"pause": "node", "no pause": "nodetest"} {
		t.Run(name, func(t *testing.T) {
			r.before = nil // the daemon stays for a while
			t.Run("pods", func(t *testing.T) {
				var pods []*podOf
				for range 3 {
					pods = append(pods, r.runPodBy(t, handler, r.config(nil)))
				}
				pids := map[int]bool{}
				for _, p := range pods {
					guest, native := p.container("/sleep.wasm"), p.container("/bin/sh", "-c", "sleep 1000")
					require.Equal(t, "inpod\n", p.sh(native, "cat /proc/sys/kernel/hostname"))
					pids[p.pidOf(guest)] = true
				}
				require.Len(t, pids, 3)
				require.Len(t, r.daemons(), 1)
				pods[0].remove()
				for _, p := range pods[1:] {
					require.Equal(t, "inpod\n", p.sh(p.container("/bin/sh", "-c", "sleep 1000"), "cat /proc/sys/kernel/hostname"))
				}
				require.Len(t, r.daemons(), 1)
			})
			for _, daemon := range r.daemons() {
				require.NoError(t, syscall.Kill(daemon.Pid, syscall.SIGTERM))
			}
			require.Empty(t, r.Leaks(before), "left behind")
		})
	}
	// A daemon that is killed takes its pods with it, and leaves nothing of them.
	r.before = nil
	t.Run("killed", func(t *testing.T) {
		for range 2 {
			p := r.runPodBy(t, "nodetest", r.config(nil))
			p.container("/sleep.wasm")
			p.killed = true
		}
		require.Len(t, r.daemons(), 1)
		require.NoError(t, syscall.Kill(r.daemons()[0].Pid, syscall.SIGKILL))
	})
	require.Empty(t, r.Leaks(before), "left behind")
}

// containerd ends, in order or not, and starts again. The pod goes on, and so do its
// containers; new ones have the same files and the same memory.
func TestSandboxRestart(t *testing.T) {
	for name, end := range map[string]func(*harness.Daemon) error{"killed": (*harness.Daemon).Kill, "ended": (*harness.Daemon).Terminate} {
		t.Run(name, func(t *testing.T) {
			r := newPodsTest(t)
			p := r.runPod(t, r.config(func(o *cri.NamespaceOption) { o.Pid = cri.NamespaceMode_POD }))
			old := p.container(shell("exec sleep 1000")...)
			p.sh(old, "echo text >/dev/shm/file")
			require.NoError(t, end(r.Daemon))
			require.NoError(t, r.Restart(p.ctx))
			require.Eventually(t, func() bool {
				status, err := p.PodSandboxStatus(p.ctx, &cri.PodSandboxStatusRequest{PodSandboxId: p.id})
				return err == nil && status.Status.State == cri.PodSandboxState_SANDBOX_READY
			}, 20*time.Second, 10*time.Millisecond)
			require.NoError(t, syscall.Kill(p.pid, 0))
			for _, id := range []string{old, p.container(shell("exec sleep 1000")...)} {
				require.Equal(t, "text\n", p.sh(id, "busybox cat /dev/shm/file"))
				require.Equal(t, "nameserver 192.0.2.1\n", p.sh(id, "busybox cat /etc/resolv.conf"))
				require.Equal(t, "inpod\n", p.sh(id, "busybox hostname; "))
				require.Equal(t, "wasmshim-pod\n", p.sh(id, "busybox cat /proc/1/comm"))
			}
			require.Len(t, p.daemons(), 1)
		})
	}
}

// A pod whose daemon is killed, or whose waiting process is, is not ready any more, says
// CRI; it can be removed, and nothing is left.
func TestSandboxPodKilled(t *testing.T) {
	r := newPodsTest(t)
	for name, kill := range map[string]func(*podOf) int{
		"daemon":  func(p *podOf) int { return p.daemons()[0].Pid },
		"process": func(p *podOf) int { return p.pid },
	} {
		t.Run(name, func(t *testing.T) {
			p := r.runPod(t, r.config(nil))
			container := p.container("/sleep.wasm")
			p.killed = name == "daemon"
			require.NoError(t, syscall.Kill(kill(p), syscall.SIGKILL))
			require.Eventually(t, func() bool {
				pods, err := p.ListPodSandbox(p.ctx, &cri.ListPodSandboxRequest{Filter: &cri.PodSandboxFilter{Id: p.id}})
				return err == nil && pods.Items[0].State == cri.PodSandboxState_SANDBOX_NOTREADY
			}, 20*time.Second, 10*time.Millisecond)
			require.Eventually(t, func() bool {
				status, err := p.PodSandboxStatus(p.ctx, &cri.PodSandboxStatusRequest{PodSandboxId: p.id})
				return err == nil && status.Status.State == cri.PodSandboxState_SANDBOX_NOTREADY
			}, 20*time.Second, 10*time.Millisecond)
			if name == "daemon" {
				require.Eventually(t, func() bool {
					status, err := p.ContainerStatus(p.ctx, &cri.ContainerStatusRequest{ContainerId: container})
					return err == nil && status.Status.State == cri.ContainerState_CONTAINER_EXITED && status.Status.ExitCode != 0
				}, 20*time.Second, 10*time.Millisecond)
				require.Empty(t, p.daemons())
			}
		})
	}
}
