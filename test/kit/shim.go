// SPDX-License-Identifier: Apache-2.0

// Package kit finds out what an engine can do: it takes a shim's binary, plays
// containerd, and runs small guests in real containers.
package kit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"
)

const namespace = "wasmshim-test"

// job is one container with one guest.
type job struct {
	binary string            // the shim's
	files  map[string][]byte // what the root file system has
	args   []string
	env    []string
	stdin  []byte
	toml   string // runtime options
	memory int64  // limit in bytes, 0 for none
	// during is called once the guest has printed what until says.
	until  string
	during func(*container) error
}

// result is what came of it.
type result struct {
	exit           int
	stdout, stderr string
	log            string
	root           string // the root file system, until the job's directory is gone
	ended          time.Duration
}

// container is a running job.
type container struct {
	id      string
	dir     string
	service task.TTRPCTaskService
	killed  time.Time
}

func (c *container) path(name string) string { return filepath.Join(c.dir, name) }

func (c *container) kill(ctx context.Context, sig unix.Signal) error {
	c.killed = time.Now()
	_, err := c.service.Kill(ctx, &task.KillRequest{ID: c.id, Signal: uint32(sig)})
	return err
}

// run does a job in dir, an empty directory that is the caller's to remove.
func (j *job) run(ctx context.Context, dir, id string) (_ result, retErr error) {
	c := &container{id: id, dir: dir}
	if err := j.bundle(c); err != nil {
		return result{}, err
	}
	log, err := j.openLog(c)
	if err != nil {
		return result{}, err
	}
	defer func() {
		if text := log(); retErr != nil && text != "" {
			retErr = fmt.Errorf("%w; the shim's log:\n%s", retErr, text)
		}
	}()
	closeShim, err := j.start(ctx, c)
	if err != nil {
		return result{}, err
	}
	defer func() { retErr = errors.Join(retErr, closeShim()) }()
	r, err := j.live(ctx, c)
	r.log = log()
	return r, err
}

// bundle writes what containerd would.
func (j *job) bundle(c *container) error {
	for _, dir := range []string{"rootfs/proc", "rootfs/dev", "rootfs/tmp"} {
		if err := os.MkdirAll(c.path(dir), 0o755); err != nil {
			return err
		}
	}
	for name, data := range j.files {
		path := c.path(filepath.Join("rootfs", name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			return err
		}
	}
	for _, name := range []string{"stdout", "stderr"} {
		if err := os.WriteFile(c.path(name), nil, 0o600); err != nil {
			return err
		}
	}
	text, err := json.Marshal(j.spec(c.id))
	if err != nil {
		return err
	}
	return os.WriteFile(c.path("config.json"), text, 0o600)
}

func (j *job) spec(id string) *specs.Spec {
	spec := &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: "rootfs"},
		Process: &specs.Process{
			Args: j.args, Env: append([]string{"PATH=/"}, j.env...), Cwd: "/", NoNewPrivileges: true, Capabilities: &specs.LinuxCapabilities{},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755", "size=64k"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: "/" + namespace + "-" + id,
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.MountNamespace},
				{Type: specs.PIDNamespace},
				{Type: specs.NetworkNamespace},
				{Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace},
			},
			Resources: &specs.LinuxResources{},
		},
	}
	if j.memory > 0 {
		spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &j.memory}
	}
	return spec
}

// openLog makes the FIFO that shims log to, and reads it.
func (j *job) openLog(c *container) (text func() string, _ error) {
	if err := unix.Mkfifo(c.path("log"), 0o600); err != nil {
		return nil, fmt.Errorf("make log fifo: %w", err)
	}
	f, err := os.OpenFile(c.path("log"), os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open log fifo: %w", err)
	}
	var out bytes.Buffer
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(&out, f)
	}()
	return sync.OnceValue(func() string {
		// What is in the FIFO is read; then the wait for more ends.
		_ = f.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		<-done
		f.Close()
		return out.String()
	}), nil
}

func (j *job) command(c *container, action string) *exec.Cmd {
	cmd := exec.Command(j.binary, "-namespace", namespace, "-address", c.path("no-containerd"), "-publish-binary", "/bin/false", "-id", c.id, "-bundle", c.dir, action)
	cmd.Dir = c.dir
	cmd.Env = []string{"MAX_SHIM_VERSION=2"}
	for _, name := range []string{"PATH", "GODEBUG", "GOGC"} {
		if value, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	return cmd
}

// start starts the shim as containerd 1.7 does.
func (j *job) start(ctx context.Context, c *container) (end func() error, _ error) {
	out, err := j.command(c, "start").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%s start: %w: %s", filepath.Base(j.binary), err, bytes.TrimSpace(out))
	}
	var answer struct{ Address string }
	if err := json.Unmarshal(out, &answer); err != nil {
		return nil, fmt.Errorf("%s start answered %q: %w", filepath.Base(j.binary), out, err)
	}
	conn, err := net.DialTimeout("unix", strings.TrimPrefix(answer.Address, "unix://"), 5*time.Second)
	if err != nil {
		return nil, err
	}
	client := ttrpc.NewClient(conn)
	c.service = task.NewTTRPCTaskClient(client)
	return func() error {
		_, _ = c.service.Shutdown(context.WithoutCancel(ctx), &task.ShutdownRequest{ID: c.id})
		client.Close()
		out, err := j.command(c, "delete").CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s delete: %w: %s", filepath.Base(j.binary), err, bytes.TrimSpace(out))
		}
		return nil
	}, nil
}

// live is the container's life.
func (j *job) live(ctx context.Context, c *container) (result, error) {
	request := &task.CreateTaskRequest{ID: c.id, Bundle: c.dir, Stdout: "file://" + c.path("stdout"), Stderr: "file://" + c.path("stderr")}
	if j.stdin != nil {
		w, err := j.openStdin(c)
		if err != nil {
			return result{}, err
		}
		defer w.Close()
		request.Stdin = c.path("stdin")
	}
	if j.toml != "" {
		a, err := typeurl.MarshalAny(&runtimeoptions.Options{ConfigBody: []byte(j.toml)})
		if err != nil {
			return result{}, err
		}
		request.Options = &anypb.Any{TypeUrl: a.GetTypeUrl(), Value: a.GetValue()}
	}
	if _, err := c.service.Create(ctx, request); err != nil {
		return result{}, err
	}
	defer func() {
		_, _ = c.service.Kill(context.WithoutCancel(ctx), &task.KillRequest{ID: c.id, Signal: uint32(unix.SIGKILL), All: true})
		_, _ = c.service.Wait(context.WithoutCancel(ctx), &task.WaitRequest{ID: c.id})
		_, _ = c.service.Delete(context.WithoutCancel(ctx), &task.DeleteRequest{ID: c.id})
	}()
	if _, err := c.service.Start(ctx, &task.StartRequest{ID: c.id}); err != nil {
		return result{}, err
	}
	if j.stdin != nil {
		if _, err := c.service.CloseIO(ctx, &task.CloseIORequest{ID: c.id, Stdin: true}); err != nil {
			return result{}, err
		}
	}
	if j.during != nil {
		if err := c.await(ctx, j.until); err != nil {
			return result{}, err
		}
		if err := j.during(c); err != nil {
			return result{}, err
		}
	}
	exit, err := c.service.Wait(ctx, &task.WaitRequest{ID: c.id})
	if err != nil {
		return result{}, fmt.Errorf("the guest has not ended: %w", err)
	}
	r := result{exit: int(exit.ExitStatus), root: c.path("rootfs")}
	if !c.killed.IsZero() {
		r.ended = exit.ExitedAt.AsTime().Sub(c.killed)
	}
	// What a daemon copies is all there when the container is deleted, not before.
	if _, err := c.service.Delete(ctx, &task.DeleteRequest{ID: c.id}); err != nil {
		return result{}, err
	}
	for name, to := range map[string]*string{"stdout": &r.stdout, "stderr": &r.stderr} {
		text, err := os.ReadFile(c.path(name))
		if err != nil {
			return result{}, err
		}
		*to = string(text)
	}
	return r, nil
}

// openStdin makes the FIFO for stdin and fills it; what is written must fit.
func (j *job) openStdin(c *container) (*os.File, error) {
	if err := unix.Mkfifo(c.path("stdin"), 0o600); err != nil {
		return nil, fmt.Errorf("make stdin fifo: %w", err)
	}
	r, err := os.OpenFile(c.path("stdin"), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	w, err := os.OpenFile(c.path("stdin"), os.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		r.Close()
		return nil, err
	}
	_, err = w.Write(j.stdin)
	w.Close()
	return r, err
}

// await waits until the guest has printed text.
func (c *container) await(ctx context.Context, text string) error {
	for {
		out, err := os.ReadFile(c.path("stdout"))
		if err != nil {
			return err
		}
		if strings.Contains(string(out), text) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the guest has not printed %q: %w", text, ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}
