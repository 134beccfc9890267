// SPDX-License-Identifier: Apache-2.0

// Package harness runs private containerds for tests, benchmarks and the demo.
//
// Everything that belongs to one daemon carries the daemon's name: its
// directory, its containerd namespace and, with that, the cgroups of its
// containers. So what is left of a daemon can be found, and ended, without
// touching anybody else's, also when the process that started it was killed.
package harness

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"text/template"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"golang.org/x/sys/unix"
)

// Version is one of the containerds that scripts/deps.sh provides.
type Version string

// The oldest and the newest containerd that a shim must work with; those in
// between are named as scripts/deps.sh names them.
const (
	Containerd16 Version = "1.6.20"
	Containerd24 Version = "2.4.2"
)

const (
	runcVersion = "1.5.2"

	// Unix socket paths end at 107 bytes, and containerd allows 38 for the
	// directory of shim sockets: base is short and fixed, not $TMPDIR.
	base       = "/tmp"
	namePrefix = "wst-"
)

// Is1 says whether it is a containerd 1.x.
func (v Version) Is1() bool { return strings.HasPrefix(string(v), "1.") }

// HasSocketDir says whether it can be told where shims put their sockets.
func (v Version) HasSocketDir() bool {
	return !v.Is1() && !strings.HasPrefix(string(v), "2.0.") && !strings.HasPrefix(string(v), "2.1.") && !strings.HasPrefix(string(v), "2.2.")
}

// HasUnpackConfig says whether its Transfer Service unpacks only what it is told
// to.
func (v Version) HasUnpackConfig() bool {
	return !v.Is1() && !strings.HasPrefix(string(v), "2.0.")
}

// HasErofs says whether images can be unpacked in the erofs snapshotter, of which
// containerds before 2.4 have less, and which needs Debian's erofs-utils.
func (v Version) HasErofs() bool {
	_, err := exec.LookPath("mkfs.erofs")
	return v == Containerd24 && err == nil
}

// Arch is this machine's architecture, for the configuration.
func (d *Daemon) Arch() string { return runtime.GOARCH }

// Daemon is a running private containerd.
type Daemon struct {
	Version   Version
	Namespace string // its containerd namespace, which no other daemon has; also the name of Dir
	Dir       string
	State     string // bundles are below
	Address   string // gRPC; the ttrpc one is Address + ".ttrpc"
	SocketDir string // where shims are told to put sockets, containerd 2.x only
	LogLevel  string
	Client    *client.Client

	path string // PATH of containerd and so of its shims
	cmd  *exec.Cmd
	done chan struct{} // closed when cmd has ended
}

// Repo is the checkout that the working directory lies in.
func Repo() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == "/" {
			return "", errors.New("not inside the libwasmshim checkout")
		}
	}
}

// CacheDir is where scripts/deps.sh puts what it builds.
func CacheDir() (string, error) {
	dir, err := os.UserCacheDir()
	return filepath.Join(dir, "libwasmshim"), err
}

// binDirs are the directories of the daemon's programs, in PATH order.
func binDirs(v Version) ([]string, error) {
	repo, err := Repo()
	if err != nil {
		return nil, err
	}
	cache, err := CacheDir()
	if err != nil {
		return nil, err
	}
	bin := filepath.Join(cache, "containerd-"+string(v), "bin")
	if v == Containerd16 { // Debian's package, unpacked
		bin = filepath.Join(cache, "containerd-"+string(v), "usr/bin")
	}
	return []string{filepath.Join(repo, "dist"), bin, filepath.Join(cache, "runc-"+runcVersion, "bin")}, nil
}

var config = template.Must(template.New("config").Parse(`
{{- if .Version.Is1}}version = 2{{else}}version = 3{{end}}
root = "{{.Dir}}/root"
state = "{{.State}}"
disabled_plugins = [
  "io.containerd.grpc.v1.cri",
  "io.containerd.internal.v1.opt",
  "io.containerd.internal.v1.tracing",
  "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.blockfile",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
{{- if not .Version.Is1}}
  "io.containerd.cri.v1.images",
  "io.containerd.cri.v1.runtime",
  "io.containerd.nri.v1.nri",
{{- end}}
  "io.containerd.differ.v1.erofs",
{{- if not .Version.HasErofs}}
  "io.containerd.snapshotter.v1.erofs",
{{- end}}
]

[grpc]
  address = "{{.Address}}"

[ttrpc]
  address = "{{.Address}}.ttrpc"

[debug]
  level = "{{.LogLevel}}"
{{if .Version.HasUnpackConfig}}
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
  platform = "linux/{{.Arch}}"
  snapshotter = "overlayfs"
  differ = "walking"

[[plugins."io.containerd.transfer.v1.local".unpack_config]]
  platform = "wasi/wasm"
  snapshotter = "overlayfs"
  differ = "walking"
{{end}}
{{- if .Version.HasSocketDir}}
[plugins."io.containerd.shim.v1.manager"]
  socket_dir = "{{.SocketDir}}"
{{end}}`))

// Start starts a containerd of its own root, state, sockets and namespace.
// It first clears away what killed runs have left.
func Start(ctx context.Context, v Version) (*Daemon, error) { return StartLogging(ctx, v, "info") }

// StartLogging is Start with another log level, for containerd and its shims.
func StartLogging(ctx context.Context, v Version, level string) (_ *Daemon, retErr error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("containerd needs root for namespaces, mounts and cgroups")
	}
	Sweep()
	dirs, err := binDirs(v)
	if err != nil {
		return nil, err
	}
	for _, program := range []string{filepath.Join(dirs[1], "containerd"), filepath.Join(dirs[2], "runc")} {
		if _, err := os.Stat(program); err != nil {
			return nil, fmt.Errorf("%w (run make deps first)", err)
		}
	}
	var random [2]byte
	if _, err := rand.Read(random[:]); err != nil {
		return nil, err
	}
	name := namePrefix + strconv.Itoa(os.Getpid()) + "-" + hex.EncodeToString(random[:])
	dir := filepath.Join(base, name)
	d := &Daemon{
		Version:   v,
		LogLevel:  level,
		Namespace: name,
		Dir:       dir,
		State:     filepath.Join(dir, "state"),
		Address:   filepath.Join(dir, "c.sock"),
		SocketDir: filepath.Join(dir, "s"),
		path:      strings.Join(dirs, ":") + ":" + os.Getenv("PATH"),
		done:      make(chan struct{}),
	}
	defer func() {
		if retErr != nil {
			retErr = fmt.Errorf("start containerd %s: %w\n%s", v, retErr, d.LogTail(20))
			_ = d.Stop()
		}
	}()
	for _, sub := range []string{"", "tmp", "fifo"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o711); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "owner"), []byte(identity(os.Getpid())), 0o600); err != nil {
		return nil, err
	}
	var text bytes.Buffer
	if err := config.Execute(&text, d); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "config.toml"), text.Bytes(), 0o600); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	if err := d.run(log, filepath.Join(dirs[1], "containerd")); err != nil {
		return nil, err
	}
	return d, d.connect(ctx)
}

func (d *Daemon) run(log *os.File, program string) error {
	d.cmd = exec.Command(program, "-c", filepath.Join(d.Dir, "config.toml"))
	d.cmd.Env = d.Env()
	d.cmd.Dir = d.Dir
	d.cmd.Stdout, d.cmd.Stderr = log, log
	// A process group of its own: ^C at the terminal reaches only the owner,
	// which stops the daemon in order.
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := d.cmd.Start(); err != nil {
		return err
	}
	go func() {
		_ = d.cmd.Wait()
		close(d.done)
	}()
	return nil
}

// Env is the environment of the daemon: PATH leads to dist/ and to what
// scripts/deps.sh provides, and temporary files stay in the daemon's directory.
func (d *Daemon) Env() []string {
	env := []string{"PATH=" + d.path, "TMPDIR=" + filepath.Join(d.Dir, "tmp")}
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "PATH=") && !strings.HasPrefix(kv, "TMPDIR=") && !strings.HasPrefix(kv, "NOTIFY_SOCKET=") {
			env = append(env, kv)
		}
	}
	return env
}

func (d *Daemon) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		c, err := client.New(d.Address, client.WithDefaultNamespace(d.Namespace), client.WithTimeout(time.Minute))
		if err == nil {
			if _, err = c.Version(ctx); err == nil {
				d.Client = c
				return nil
			}
			c.Close()
		}
		select {
		case <-d.done:
			return errors.New("it ended at once")
		case <-ctx.Done():
			return fmt.Errorf("no answer after a minute: %w", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Pid is the containerd's process id.
func (d *Daemon) Pid() int { return d.cmd.Process.Pid }

// In is ctx in the daemon's namespace.
func (d *Daemon) In(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, d.Namespace)
}

// Bundle is the bundle directory of a container's task.
func (d *Daemon) Bundle(id string) string {
	return filepath.Join(d.State, "io.containerd.runtime.v2.task", d.Namespace, id)
}

// LookPath finds a program as the daemon does.
func (d *Daemon) LookPath(name string) (string, error) {
	for _, dir := range strings.Split(d.path, ":") {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("find %s: %w", name, fs.ErrNotExist)
}

// ShimBinary is the program that a runtime name stands for.
func (d *Daemon) ShimBinary(runtime string) (string, error) {
	parts := strings.Split(runtime, ".")
	if len(parts) < 2 {
		return "", fmt.Errorf("no runtime name: %q", runtime)
	}
	return d.LookPath("containerd-shim-" + strings.Join(parts[len(parts)-2:], "-"))
}

// Ctr runs containerd's own client and returns its standard output.
func (d *Daemon) Ctr(ctx context.Context, args ...string) (string, error) {
	program, err := d.LookPath("ctr")
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, program, append([]string{"--address", d.Address, "--namespace", d.Namespace}, args...)...)
	cmd.Env = append(d.Env(), "CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS=1") // of the host's cgroups
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return string(out), fmt.Errorf("ctr %s: %w: %s", strings.Join(args, " "), err, stderr.String())
	}
	return string(out), nil
}

// LogTail is the last lines of containerd's log. Shims log there too.
func (d *Daemon) LogTail(lines int) string {
	text, _ := os.ReadFile(filepath.Join(d.Dir, "log"))
	all := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// Kill kills containerd itself, as a crash would. Containers go on.
func (d *Daemon) Kill() error {
	if err := d.cmd.Process.Kill(); err != nil {
		return err
	}
	<-d.done
	return nil
}

// Terminate ends containerd itself in order. Containers go on.
func (d *Daemon) Terminate() error {
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	<-d.done
	return nil
}

// Restart starts containerd again on the same state, after Kill or Terminate.
func (d *Daemon) Restart(ctx context.Context) error {
	<-d.done
	if d.Client != nil {
		d.Client.Close()
	}
	_ = os.Remove(d.Address)
	log, err := os.OpenFile(filepath.Join(d.Dir, "log"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	defer log.Close()
	d.done = make(chan struct{})
	if err := d.run(log, d.cmd.Path); err != nil {
		return err
	}
	return d.connect(ctx)
}

// Stop stops the daemon and clears away everything of it.
func (d *Daemon) Stop() error {
	if d.Client != nil {
		d.Client.Close()
	}
	if d.cmd != nil && d.cmd.Process != nil {
		_ = d.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-d.done:
		case <-time.After(10 * time.Second):
			_ = d.cmd.Process.Kill()
			<-d.done
		}
	}
	return clear(d.Namespace)
}

// Sweep clears away what is left of daemons whose owner is gone.
func Sweep() {
	for _, name := range Orphans() {
		if err := clear(name); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
}

// Orphans are the names of daemons whose owner is gone.
func Orphans() []string {
	var names []string
	owners, _ := filepath.Glob(filepath.Join(base, namePrefix+"*", "owner"))
	for _, file := range owners {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		pid, _, _ := strings.Cut(string(text), " ")
		n, err := strconv.Atoi(pid)
		if err != nil || identity(n) != string(text) {
			names = append(names, filepath.Base(filepath.Dir(file)))
		}
	}
	return names
}

// identity is a process's id and start time: pids are used again.
func identity(pid int) string {
	p, err := readProcess(pid)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%d %d", pid, p.StartTime)
}

// clear kills every process of the named daemon, then removes its mounts,
// cgroups and directories.
func clear(name string) error {
	dir := filepath.Join(base, name)
	deadline := time.Now().Add(10 * time.Second)
	for {
		left := processes(name)
		if len(left) == 0 {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("clear %s: processes do not end: %v", name, left)
		}
		for _, p := range left {
			_ = unix.Kill(p.Pid, unix.SIGKILL)
		}
		time.Sleep(10 * time.Millisecond)
	}
	for _, m := range mounts(name) {
		_ = unix.Unmount(m, unix.MNT_DETACH)
	}
	for i := 0; i < 50; i++ {
		all := cgroups(name)
		if len(all) == 0 {
			break
		}
		for j := len(all) - 1; j >= 0; j-- { // children first
			_ = unix.Rmdir(all[j])
		}
		time.Sleep(10 * time.Millisecond)
	}
	_ = os.RemoveAll(runcRoot(name))
	for _, remembered := range memory(name) {
		_ = os.RemoveAll(remembered)
	}
	for _, socket := range oldSockets(name, 2000) {
		_ = os.Remove(socket)
	}
	if left := mounts(name); len(left) > 0 {
		// Removing the directory now would remove what is mounted there.
		return fmt.Errorf("clear %s: mounts do not go: %v", name, left)
	}
	return os.RemoveAll(dir)
}

// memory are the directories in which shims remember where the code of images
// is, and lock it.
func memory(name string) []string {
	dirs, _ := filepath.Glob(filepath.Join("/run/libwasmshim", name+"-*"))
	return dirs
}

// Forget makes shims forget what they remember of images, as a restart of the
// machine does.
func (d *Daemon) Forget() error {
	for _, dir := range memory(d.Namespace) {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}

// runcRoot is where runc's shim keeps runc's state of a namespace.
func runcRoot(name string) string { return filepath.Join("/run/containerd/runc", name) }
