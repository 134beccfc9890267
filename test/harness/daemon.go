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
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"text/template"
	"time"

	"github.com/containerd/containerd/v2/client"
)

// Version is one of the containerds that scripts/deps.sh provides.
type Version string

// The oldest and the newest containerd that a shim must work with; those in
// between are named as scripts/deps.sh names them.
const (
	Containerd16 Version = "1.6.20"
	Containerd24 Version = "2.4.2"
)

// Is1 says whether it is a containerd 1.x.
func (v Version) Is1() bool { return strings.HasPrefix(string(v), "1.") }

// HasSocketDir says whether it can be told where shims put their sockets.
func (v Version) HasSocketDir() bool {
	return !v.Is1() && !strings.HasPrefix(string(v), "2.0.") && !strings.HasPrefix(string(v), "2.1.") && !strings.HasPrefix(string(v), "2.2.")
}

// TellsSocketDir says whether the daemon tells shims where to put their sockets.
func (d *Daemon) TellsSocketDir() bool { return d.Version.HasSocketDir() && !Rootless }

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
	*Place
	LogLevel string
	CRI      string // the configuration of the CRI plugin, which is there only with one
	Client   *client.Client

	cmd  *exec.Cmd
	done chan struct{} // closed when cmd has ended
}

var config = template.Must(template.New("config").Parse(`
{{- if .Version.Is1}}version = 2{{else}}version = 3{{end}}
root = "{{.Dir}}/root"
state = "{{.State}}"
disabled_plugins = [
{{- if not .CRI}}
  "io.containerd.grpc.v1.cri",
{{- end}}
  "io.containerd.internal.v1.opt",
  "io.containerd.internal.v1.tracing",
  "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.blockfile",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
{{- if not (or .CRI .Version.Is1)}}
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
{{- if .TellsSocketDir}}
[plugins."io.containerd.shim.v1.manager"]
  socket_dir = "{{.SocketDir}}"
{{end}}
{{.CRI}}`))

// Start starts a containerd of its own root, state, sockets and namespace.
// It first clears away what killed runs have left.
func Start(ctx context.Context, v Version) (*Daemon, error) { return StartLogging(ctx, v, "info") }

// StartLogging is Start with another log level, for containerd and its shims.
func StartLogging(ctx context.Context, v Version, level string) (*Daemon, error) {
	return start(ctx, v, level, "")
}

func start(ctx context.Context, v Version, level, cri string) (_ *Daemon, retErr error) {
	p, err := NewPlace(v)
	if err != nil {
		return nil, err
	}
	d := &Daemon{Place: p, LogLevel: level, CRI: cri, done: make(chan struct{})}
	defer func() {
		if retErr != nil {
			retErr = fmt.Errorf("start containerd %s: %w\n%s", v, retErr, d.LogTail(20))
			_ = d.Stop()
		}
	}()
	program, err := d.LookPath("containerd")
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	if err := config.Execute(&text, d); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(d.Dir, "config.toml"), text.Bytes(), 0o600); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(d.Dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	if err := d.run(log, program); err != nil {
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

func (d *Daemon) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, Slow(time.Minute))
	defer cancel()
	for {
		c, err := client.New(d.Address, client.WithDefaultNamespace(d.Namespace), client.WithTimeout(Slow(time.Minute)))
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

// Bundle is the bundle directory of a container's task.
func (d *Daemon) Bundle(id string) string {
	return filepath.Join(d.State, "io.containerd.runtime.v2.task", d.Namespace, id)
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

// EndIdle ends daemons of the node, which wait for more.
func (d *Daemon) EndIdle() {
	for deadline := time.Now().Add(2 * time.Second); len(d.Shims()) > 0 && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		for _, shim := range d.Shims() {
			_ = syscall.Kill(shim.Pid, syscall.SIGTERM)
		}
	}
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
		case <-time.After(Slow(10 * time.Second)):
			_ = d.cmd.Process.Kill()
			<-d.done
		}
	}
	d.EndIdle()
	return d.Clear()
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
