// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
)

// Config says what container to make.
type Config struct {
	ID          string // "" means a fresh one
	Runtime     string
	Image       client.Image
	Snapshotter string   // in which the image is unpacked; "" means Snapshotter
	Args        []string // "" means the image's
	Env         []string
	Opts        []oci.SpecOpts // applied last
	// OwnSpec are arguments for a spec that does not come from the image, and for a
	// container without a snapshot of it.
	OwnSpec []string
	// Pod is the id of the pod's sandbox container, which may be this one. Containers of a pod share a shim.
	Pod      string
	Stdin    io.Reader // nil means no stdin
	NoIO     bool      // no FIFOs at all
	Terminal bool
	Stdout   io.Writer // nil means the container's buffer
	// RuntimeOptions are those of the runtime, a message that containerd knows; nil means none.
	RuntimeOptions any
	// NewTask options.
	TaskOpts []client.NewTaskOpts
}

// Container is a container with its task.
type Container struct {
	client.Container
	Task   client.Task
	Stdout *Buffer
	Stderr *Buffer
	exit   <-chan client.ExitStatus
}

// Buffer is a bytes.Buffer for a writer and readers at once.
type Buffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// Len is how much has been written.
func (b *Buffer) Len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Len()
}

// WaitFor waits until text has been written: for timeout, and longer on a slow machine.
func (b *Buffer) WaitFor(text string, timeout time.Duration) error {
	for deadline := time.Now().Add(Slow(timeout)); ; time.Sleep(2 * time.Millisecond) {
		if bytes.Contains([]byte(b.String()), []byte(text)) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("no %q within %v in %q", text, timeout, b.String())
		}
	}
}

// endingReader tells when its reader has ended.
type endingReader struct {
	io.Reader
	ended chan struct{}
	once  sync.Once
}

func (r *endingReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil {
		r.once.Do(func() { close(r.ended) })
	}
	return n, err
}

var counter atomic.Int64

// FreshID is an id that this process has not used yet.
func FreshID(prefix string) string {
	return prefix + strconv.FormatInt(counter.Add(1), 10)
}

// Pod annotations, as the CRI plugin sets them.
const (
	podAnnotation  = "io.kubernetes.cri.sandbox-id"
	typeAnnotation = "io.kubernetes.cri.container-type"
)

// NewContainer makes a container without a task.
func (d *Daemon) NewContainer(ctx context.Context, c Config) (client.Container, error) {
	ctx = d.In(ctx)
	if c.ID == "" {
		c.ID = FreshID("c")
	}
	opts := []oci.SpecOpts{d.withCgroup(), oci.WithImageConfigArgs(c.Image, c.Args), oci.WithEnv(c.Env)}
	if len(c.Args) > 0 {
		opts = append(opts, oci.WithProcessArgs(c.Args...))
	}
	if c.Pod != "" {
		kind := "container"
		if c.Pod == c.ID {
			kind = "sandbox"
		}
		opts = append(opts, oci.WithAnnotations(map[string]string{podAnnotation: c.Pod, typeAnnotation: kind}))
	}
	if c.Terminal {
		opts = append(opts, oci.WithTTY)
	}
	if c.Snapshotter == "" {
		c.Snapshotter = Snapshotter
	}
	runtimeOptions := c.RuntimeOptions
	if Systemd || c.Runtime != Runc {
		runtimeOptions = everyContainers(c.RuntimeOptions)
	}
	snapshot := client.WithNewSnapshot(c.ID, c.Image)
	if len(c.OwnSpec) > 0 {
		opts = []oci.SpecOpts{d.withCgroup(), oci.WithProcessArgs(c.OwnSpec...)}
		snapshot = emptySnapshot(c.ID)
	}
	container, err := d.Client.NewContainer(ctx, c.ID,
		client.WithSnapshotter(c.Snapshotter),
		snapshot,
		client.WithImage(c.Image),
		client.WithRuntime(c.Runtime, runtimeOptions),
		client.WithNewSpec(append(opts, c.Opts...)...))
	if err != nil {
		return nil, fmt.Errorf("new container %s: %w", c.ID, err)
	}
	return container, nil
}

// emptySnapshot gives a container a root file system that is of no image.
func emptySnapshot(id string) client.NewContainerOpts {
	return func(ctx context.Context, c *client.Client, record *containers.Container) error {
		record.SnapshotKey = id
		_, err := c.SnapshotService(Snapshotter).Prepare(ctx, id, "")
		return err
	}
}

// RunTask starts a task of a container that is there.
func (d *Daemon) RunTask(ctx context.Context, container client.Container, c Config) (*Container, error) {
	created := &Container{Container: container}
	if err := d.createTask(ctx, created, c); err != nil {
		return nil, err
	}
	return created, created.Task.Start(d.In(ctx))
}

// Create makes a container and creates its task. The container is removed
// again when the task cannot be created.
func (d *Daemon) Create(ctx context.Context, c Config) (*Container, error) {
	container, err := d.NewContainer(ctx, c)
	if err != nil {
		return nil, err
	}
	created := &Container{Container: container}
	if err := d.createTask(ctx, created, c); err != nil {
		_ = container.Delete(d.In(ctx), client.WithSnapshotCleanup)
		return nil, err
	}
	return created, nil
}

func (d *Daemon) createTask(ctx context.Context, created *Container, c Config) (retErr error) {
	ctx = d.In(ctx)
	created.Stdout, created.Stderr = &Buffer{}, &Buffer{}
	if c.Stdout == nil {
		c.Stdout = created.Stdout
	}
	creator, follow := d.streams(c.Stdin, c.Stdout, created.Stderr, c.Terminal, c.NoIO)
	task, err := created.NewTask(ctx, creator, c.TaskOpts...)
	if err != nil {
		return err
	}
	created.Task = task
	follow(ctx, task)
	// Asked before Start: no exit can be missed.
	created.exit, err = task.Wait(ctx)
	return err
}

// streams makes the streams of a process. follow closes the process's input when stdin
// has ended, as ctr does: the shim holds it open until it is told.
func (d *Daemon) streams(stdin io.Reader, stdout, stderr io.Writer, terminal, none bool) (_ cio.Creator, follow func(context.Context, client.Process)) {
	follow = func(context.Context, client.Process) {}
	if stdin != nil {
		ending := &endingReader{Reader: stdin, ended: make(chan struct{})}
		stdin = ending
		follow = func(ctx context.Context, p client.Process) {
			go func() {
				select {
				case <-ending.ended:
					_ = p.CloseIO(ctx, client.WithStdinCloser)
				case <-ctx.Done():
				}
			}()
		}
	}
	if none {
		return cio.NullIO, follow
	}
	opts := []cio.Opt{cio.WithStreams(stdin, stdout, stderr), cio.WithFIFODir(filepath.Join(d.Dir, "fifo"))}
	if terminal {
		opts = append(opts, cio.WithTerminal)
	}
	return cio.NewCreator(opts...), follow
}

// Run makes a container and starts it.
func (d *Daemon) Run(ctx context.Context, c Config) (*Container, error) {
	container, err := d.Create(ctx, c)
	if err != nil {
		return nil, err
	}
	if err := container.Task.Start(d.In(ctx)); err != nil {
		_ = d.Remove(ctx, container)
		return nil, fmt.Errorf("start %s: %w", container.ID(), err)
	}
	return container, nil
}

// Result is what a finished container has left.
type Result struct {
	Code           uint32
	At             time.Time
	Stdout, Stderr string
}

// Finish waits until the container has exited and removes it.
func (d *Daemon) Finish(ctx context.Context, c *Container) (Result, error) {
	if err := c.Wait(ctx); err != nil {
		_ = d.Remove(context.WithoutCancel(ctx), c)
		return Result{Stdout: c.Stdout.String(), Stderr: c.Stderr.String()}, err
	}
	awaitOutput(c, c.Task.IO())
	status, err := c.Task.Delete(d.In(ctx)) // waits for the end of the output too
	if err != nil {
		_ = d.Remove(context.WithoutCancel(ctx), c)
		return Result{}, fmt.Errorf("delete task %s: %w", c.ID(), err)
	}
	result := Result{Code: status.ExitCode(), At: status.ExitTime(), Stdout: c.Stdout.String(), Stderr: c.Stderr.String()}
	return result, c.Delete(d.In(ctx), client.WithSnapshotCleanup)
}

// Runc is the runtime of runc's shim.
const Runc = "io.containerd.runc.v2"

// awaitOutput waits until the output of a process that has ended was read, where the
// runtime is runc's: containerd's client closes its ends before it deletes, and then
// loses what it has not read. (Ours is to see to it that nothing is lost.)
func awaitOutput(c *Container, output cio.IO) {
	info, err := c.Info(context.Background(), client.WithoutRefreshedMetadata)
	if err != nil || info.Runtime.Name != Runc || output == nil {
		return
	}
	ended := make(chan struct{})
	go func() {
		output.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(Slow(2 * time.Second)): // somebody else has it, too
	}
}

// Wait waits until the container has exited.
func (c *Container) Wait(ctx context.Context) error {
	select {
	case status := <-c.exit:
		return status.Error()
	case <-ctx.Done():
		return fmt.Errorf("wait for %s: %w", c.ID(), ctx.Err())
	}
}

// Once runs a container to its end.
func (d *Daemon) Once(ctx context.Context, c Config) (Result, error) {
	container, err := d.Run(ctx, c)
	if err != nil {
		return Result{}, err
	}
	return d.Finish(ctx, container)
}

// Remove ends a container in whatever state it is and removes it.
func (d *Daemon) Remove(ctx context.Context, c *Container) error {
	ctx, cancel := context.WithTimeout(d.In(ctx), Slow(30*time.Second))
	defer cancel()
	if c.Task != nil {
		_ = c.Task.Kill(ctx, syscall.SIGKILL, client.WithKillAll)
		_, err := c.Task.Delete(ctx, client.WithProcessKill)
		if err != nil {
			discard(c.Task) // containerd may have removed the task by itself
		}
		if err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("delete task %s: %w", c.ID(), err)
		}
	}
	if err := c.Delete(ctx, client.WithSnapshotCleanup); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("delete container %s: %w", c.ID(), err)
	}
	return nil
}

// WithSpec changes a spec by hand.
func WithSpec(change func(*oci.Spec)) oci.SpecOpts {
	return func(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
		change(s)
		return nil
	}
}
