// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"text/template"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/libwasmshim/libwasmshim/test/harness"
)

// The programs that scripts/deps.sh k8s builds.
var parts = []string{"kubernetes-1.37.2", "cri-tools-1.37.0", "etcd-3.7.3", "busybox-static"}

const (
	plugins = "cni-1.10.0"

	address  = "/run/containerd/containerd.sock" // in the node
	registry = "127.0.0.1:5056"                  // in the node
	cgroupFS = "/sys/fs/cgroup"
)

// node is a machine of a Kubernetes cluster whose processes, mounts, network, cgroups,
// /run and /var are its own.
type node struct {
	*harness.Place
	t      *testing.T
	images [][]byte
	env    []string
	init   int      // its first process
	start  []string // what enters its cgroups and runs a program
}

//go:embed node.sh
var nodeScript string

// containerdConfig is a containerd with the CRI plugin. Nobody but who has
// CAP_SYS_RESOURCE may lower a score for the killer of processes without memory.
var containerdConfig = template.Must(template.New("config").Parse(`
{{- $images := "io.containerd.cri.v1.images"}}{{$runtime := "io.containerd.cri.v1.runtime"}}
{{- if .Version.Is1}}{{$images = "io.containerd.grpc.v1.cri"}}{{$runtime = "io.containerd.grpc.v1.cri"}}version = 2{{else}}version = 3{{end}}
root = "{{.Dir}}/root"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.blockfile",
  "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.internal.v1.tracing",
  "io.containerd.internal.v1.opt",
]
[grpc]
  address = "{{.Address}}"
{{if .Version.Is1}}
[plugins.'{{$runtime}}']
  sandbox_image = "registry.k8s.io/pause:3.10"
{{- else}}
[plugins.'{{$images}}'.pinned_images]
  sandbox = "registry.k8s.io/pause:3.10"
[plugins.'{{$images}}'.runtime_platforms.wasmtime]
  platform = "wasi/wasm"
[plugins.'{{$runtime}}']
{{- end}}
  disable_apparmor = true
  restrict_oom_score_adj = true
[plugins.'{{$images}}'.registry]
  config_path = "{{.Dir}}/registries"
[plugins.'{{$runtime}}'.cni]
  {{if or .Version.Is1 (eq .Version "2.0.14")}}bin_dir = "{{.Plugins}}"{{else}}bin_dirs = ["{{.Plugins}}"]{{end}}
  conf_dir = "{{.Dir}}/cni"
[plugins.'{{$runtime}}'.containerd]
  default_runtime_name = "runc"
[plugins.'{{$runtime}}'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
{{- if not .Bare}}
[plugins.'{{$runtime}}'.containerd.runtimes.wasmtime]
  runtime_type = "io.containerd.wasmtime.v1"
{{- if not .Version.Is1}}
[plugins.'{{$runtime}}'.containerd.runtimes.sandboxes]
  runtime_type = "io.containerd.wasmtime.v1"
  sandboxer = "shim"
  disable_pause_image_pull = true
[plugins.'{{$runtime}}'.containerd.runtimes.node]
  runtime_type = "io.containerd.wasmtime.v1"
  options.daemon = "node"
  sandboxer = "shim"
  disable_pause_image_pull = true
[plugins.'{{$runtime}}'.containerd.runtimes.starved]
  runtime_type = "io.containerd.wasmtime.v1"
  options.compile_cgroup = "/compilers"
[plugins.'{{$runtime}}'.containerd.runtimes.starved-sandboxes]
  runtime_type = "io.containerd.wasmtime.v1"
  options.compile_cgroup = "/compilers"
  sandboxer = "shim"
  disable_pause_image_pull = true
{{- end}}
{{- end}}
`))

const bridge = `{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "promiscMode": true,
   "ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": "10.88.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}
]}`

// places are those of all nodes that there were, for who interrupts the tests.
var places struct {
	sync.Mutex
	all []*harness.Place
}

func TestMain(m *testing.M) {
	os.Exit(harness.RunAndStop(m, func() error {
		places.Lock()
		defer places.Unlock()
		var failed error
		for _, p := range places.all {
			failed = errors.Join(failed, p.Clear())
		}
		return failed
	}, func() {}))
}

// setup is what differs between nodes.
type setup struct {
	version harness.Version
	images  func() ([][]byte, error)
	bare    bool   // this runtime is not there
	kubelet string // more of its configuration
}

// starve gives compilers of the runtimes "starved" and "starved-sandboxes" a fifth of a CPU:
// a second and a half of work takes more than seven.
func (n *node) starve() (cgroup string) {
	n.t.Helper()
	cgroup = filepath.Join(cgroupFS, "cpu", n.Namespace, "compilers")
	require.NoError(n.t, os.Mkdir(cgroup, 0o755))
	require.NoError(n.t, os.WriteFile(filepath.Join(cgroup, "cpu.cfs_quota_us"), []byte("20000"), 0))
	return cgroup
}

// newNode starts a node with a containerd and a registry of images, or skips the test.
// The end of the test ends it.
func newNode(t *testing.T, s setup) *node {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: a node is made of namespaces, mounts and cgroups")
	}
	if _, err := os.Stat(filepath.Join(cgroupFS, "memory")); err != nil {
		t.Skip("needs cgroup v1, or both: a node's own root of a cgroup v2 could have no limits")
	}
	archives, err := s.images()
	require.NoError(t, err)
	place, err := harness.NewPlace(s.version)
	require.NoError(t, err)
	places.Lock()
	places.all = append(places.all, place)
	places.Unlock()
	n := &node{Place: place, t: t}
	t.Cleanup(func() {
		if t.Failed() {
			n.showLogs()
		}
		require.NoError(t, n.Clear())
	})
	n.Address = address
	cache, err := harness.CacheDir()
	require.NoError(t, err)
	n.env = append(n.Env(), "CONTAINERD_ADDRESS="+address, "KUBECONFIG="+n.Dir+"/config", "HOME="+n.Dir)
	for _, part := range parts {
		require.DirExists(t, filepath.Join(cache, part, "bin"), "run scripts/deps.sh k8s first")
		n.env[0] += ":" + filepath.Join(cache, part, "bin") // PATH is the first
	}
	if s.bare {
		repo, err := harness.Repo()
		require.NoError(t, err)
		n.env[0] = strings.ReplaceAll(n.env[0], filepath.Join(repo, "dist")+":", "")
	}
	var config bytes.Buffer
	require.NoError(t, containerdConfig.Execute(&config, map[string]any{
		"Version": s.version, "Bare": s.bare, "Dir": n.Dir, "Address": address, "Plugins": filepath.Join(cache, plugins, "bin"),
	}))
	n.write("config.toml", config.String())
	n.write("cni/10-bridge.conflist", fmt.Sprintf(bridge, n.Dir+"/ipam"))
	n.write("registries/_default/hosts.toml", fmt.Sprintf("[host.\"http://%s\"]\n  capabilities = [\"pull\", \"resolve\"]\n", registry))
	n.write("node.sh", nodeScript)
	n.images = archives
	n.boot()
	return n
}

// boot starts all that a node has without Kubernetes.
func (n *node) boot() {
	n.t.Helper()
	n.namespaces()
	r, err := harness.NewRegistryOn(n.listen(registry), n.images...)
	require.NoError(n.t, err)
	n.t.Cleanup(r.Close)
	n.containerd()
}

// reboot ends everything at once, and boots. What is on disks stays.
func (n *node) reboot() {
	n.t.Helper()
	require.NoError(n.t, syscall.Kill(n.init, syscall.SIGKILL))
	n.eventually(time.Minute, func() error {
		if left := n.Processes(func([]string) bool { return true }); len(left) > 0 {
			return fmt.Errorf("%v go on", left)
		}
		return nil
	})
	var cgroups []string
	_ = filepath.WalkDir(cgroupFS, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() && strings.Contains(path, "/"+n.Namespace) {
			cgroups = append(cgroups, path)
		}
		return nil
	})
	for _, path := range slices.Backward(cgroups) { // leaves first
		require.NoError(n.t, os.Remove(path))
	}
	require.NoError(n.t, os.Remove(n.Dir+"/ready"))
	n.boot()
}

// write writes a file below the node's directory.
func (n *node) write(name, text string) {
	n.t.Helper()
	path := filepath.Join(n.Dir, name)
	require.NoError(n.t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(n.t, os.WriteFile(path, []byte(text), 0o644))
}

// namespaces makes them, and the cgroups in which all that runs in the node is.
func (n *node) namespaces() {
	n.t.Helper()
	hierarchies, err := os.ReadDir(cgroupFS)
	require.NoError(n.t, err)
	enter := ""
	for _, h := range hierarchies {
		if !h.IsDir() {
			continue // a second name of another
		}
		parent := filepath.Join(cgroupFS, h.Name())
		own := filepath.Join(parent, n.Namespace)
		require.NoError(n.t, os.MkdirAll(own, 0o755))
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} { // empty in a new one
			if value, err := os.ReadFile(filepath.Join(parent, file)); err == nil {
				require.NoError(n.t, os.WriteFile(filepath.Join(own, file), value, 0))
			}
		}
		enter += "echo $$ >" + own + "/cgroup.procs; "
	}
	n.start = []string{"sh", "-c", enter + `exec "$@"`, "sh"}
	cmd := n.outside("unshare", "--mount", "--propagation", "private", "--net", "--uts", "--ipc", "--cgroup", "--pid", "--fork", "--kill-child", "--mount-proc",
		"sh", n.Dir+"/node.sh", n.Dir, n.Namespace)
	log := n.log("node")
	cmd.Stdout, cmd.Stderr = log, log
	require.NoError(n.t, cmd.Start())
	go func() { _ = cmd.Wait() }()
	n.eventually(time.Minute, func() error {
		_, err := os.Stat(n.Dir + "/ready")
		return err
	})
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", cmd.Process.Pid))
	require.NoError(n.t, err)
	n.init, err = strconv.Atoi(strings.TrimSpace(string(children)))
	require.NoError(n.t, err)
}

// listen listens in the node's network. The sockets of what is accepted are there, too.
func (n *node) listen(address string) net.Listener {
	n.t.Helper()
	runtime.LockOSThread() // the network is one thread's
	defer runtime.UnlockOSThread()
	own, err := os.Open("/proc/thread-self/ns/net")
	require.NoError(n.t, err)
	defer own.Close()
	theirs, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", n.init))
	require.NoError(n.t, err)
	defer theirs.Close()
	require.NoError(n.t, unix.Setns(int(theirs.Fd()), unix.CLONE_NEWNET))
	defer func() { require.NoError(n.t, unix.Setns(int(own.Fd()), unix.CLONE_NEWNET)) }()
	l, err := net.Listen("tcp", address)
	require.NoError(n.t, err)
	return l
}

// outside is a command in the node's cgroups, and in nothing else of it.
func (n *node) outside(args ...string) *exec.Cmd {
	cmd := exec.Command(n.start[0], append(n.start[1:len(n.start):len(n.start)], args...)...)
	cmd.Env = n.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// command is one in the node. The end of ctx ends it.
func (n *node) command(ctx context.Context, args ...string) *exec.Cmd {
	args = append([]string{"nsenter", "-t", strconv.Itoa(n.init), "-m", "-n", "-u", "-i", "-C", "-p", "--"}, args...)
	bare := n.outside(args...)
	cmd := exec.CommandContext(ctx, bare.Path, bare.Args[1:]...)
	cmd.Env, cmd.SysProcAttr = bare.Env, bare.SysProcAttr
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // nsenter forks
	// Another child of this process has its pipes, too, until it is executed: seconds, on a busy machine.
	cmd.WaitDelay = 20 * time.Second
	return cmd
}

// run runs a command in the node; text is its standard output.
func (n *node) run(timeout time.Duration, args ...string) (text string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	cmd := n.command(ctx, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s%s", strings.Join(args, " "), err, out, stderr.String())
	}
	return string(out), err
}

// log is a log of the node's, which begins with the first run of what writes it.
func (n *node) log(name string) *os.File {
	n.t.Helper()
	f, err := os.OpenFile(filepath.Join(n.Dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	require.NoError(n.t, err)
	n.t.Cleanup(func() { f.Close() })
	return f
}

// daemon starts a program that goes on until the node ends, or kill.
func (n *node) daemon(name string, args ...string) {
	n.t.Helper()
	log := n.log(name)
	cmd := n.command(context.Background(), append([]string{name}, args...)...)
	cmd.Stdout, cmd.Stderr = log, log
	require.NoError(n.t, cmd.Start())
	go func() { _ = cmd.Wait() }()
}

// kill kills what runs of a program in the node, and waits for its end.
func (n *node) kill(name string) {
	n.t.Helper()
	n.eventually(time.Minute, func() error {
		all := n.Processes(func(args []string) bool { return filepath.Base(args[0]) == name })
		for _, p := range all {
			_ = syscall.Kill(p.Pid, syscall.SIGKILL)
		}
		if len(all) > 0 {
			return fmt.Errorf("%d of %s are there", len(all), name)
		}
		return nil
	})
}

// containerd starts it and waits for its answer.
func (n *node) containerd() {
	n.t.Helper()
	n.daemon("containerd", "-c", n.Dir+"/config.toml", "--log-level", "info")
	n.eventually(time.Minute, func() error {
		_, err := n.run(5*time.Second, "crictl", "-r", "unix://"+address, "version")
		return err
	})
}

// eventually asks until there is no error.
func (n *node) eventually(within time.Duration, ask func() error) {
	n.t.Helper()
	require.NoError(n.t, eventually(within, ask))
}

func eventually(within time.Duration, ask func() error) error {
	for deadline := time.Now().Add(within); ; time.Sleep(100 * time.Millisecond) {
		err := ask()
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// showLogs shows the ends of all logs.
func (n *node) showLogs() {
	logs, _ := filepath.Glob(n.Dir + "/*.log")
	slices.Sort(logs)
	for _, log := range logs {
		text, _ := os.ReadFile(log)
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		n.t.Logf("the end of %s:\n%s", filepath.Base(log), strings.Join(lines[max(0, len(lines)-15):], "\n"))
	}
}
