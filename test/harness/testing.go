// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
)

var daemon *Daemon // the test package's, nil when not root

// Main is a test package's TestMain: it gives the package a private daemon.
func Main(m *testing.M, v Version) {
	if os.Geteuid() != 0 {
		os.Exit(m.Run()) // New skips
	}
	var err error
	if daemon, err = Start(context.Background(), v); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(RunAndStop(m, daemon.Stop, func() {
		fmt.Fprintf(os.Stderr, "last lines of containerd's log:\n%s\n", daemon.LogTail(40))
	}))
}

// RunAndStop runs a package's tests, explains a failure, and stops what they used.
// A run that is interrupted stops it too; one that is killed or panics leaves that
// to the next run's Sweep.
func RunAndStop(m *testing.M, stop func() error, explain func()) int {
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		<-interrupted
		_ = stop()
		os.Exit(130)
	}()
	code := m.Run()
	if code != 0 {
		explain()
	}
	if err := stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	return code
}

// T is a test on the package's daemon.
type T struct {
	*testing.T
	*Daemon
	Runtime string
	Ctx     context.Context // in the daemon's namespace; ends with the test

	before Snapshot
}

// New begins a test. At its end nothing may be left that was not there before;
// containers of Run and Create are removed first.
func New(t *testing.T, runtime string) *T {
	t.Helper()
	if daemon == nil {
		t.Skip("needs root: containerd makes namespaces, mounts and cgroups")
	}
	ctx, cancel := context.WithTimeout(daemon.In(context.Background()), Slow(2*time.Minute))
	t.Cleanup(cancel)
	tt := &T{T: t, Daemon: daemon, Runtime: runtime, Ctx: ctx, before: daemon.Snapshot()}
	t.Cleanup(func() {
		if left := daemon.Leaks(tt.before); len(left) > 0 {
			t.Errorf("left behind:")
			for _, thing := range left {
				t.Errorf("  %s", thing)
			}
		}
	})
	return tt
}

// RequireNothingLeft fails if something is there that was not there when the
// test began, for a look in the middle of a test.
func (t *T) RequireNothingLeft() {
	t.Helper()
	require.Empty(t, t.Leaks(t.before), "left behind")
}

// Shims are the shims that were not there when the test began.
func (t *T) Shims() []Process {
	var found []Process
	for _, p := range t.Daemon.Shims() {
		if !t.before["process "+p.String()] {
			found = append(found, p)
		}
	}
	return found
}

// Image makes an image and unpacks it.
func (t *T) Image(name string, files map[string]File, config ocispec.ImageConfig) client.Image {
	t.Helper()
	image, err := t.Daemon.Image(t.Ctx, name, files, config)
	require.NoError(t, err)
	return image
}

// LayerImage makes an image whose only layer is a module, and unpacks it.
func (t *T) LayerImage(module []byte) client.Image {
	t.Helper()
	image, err := t.Daemon.LayerImage(t.Ctx, FreshID("wasm"), module)
	require.NoError(t, err)
	return image
}

// FileImage makes an ordinary image whose only file is a module, and unpacks it.
func (t *T) FileImage(module []byte) client.Image {
	t.Helper()
	image, err := t.Daemon.FileImage(t.Ctx, FreshID("plain"), module)
	require.NoError(t, err)
	return image
}

// Once runs a container to its end.
func (t *T) Once(c Config) Result {
	t.Helper()
	result, err := t.Finish(t.Run(c))
	require.NoError(t, err)
	return result
}

// Run starts a container that the end of the test removes.
func (t *T) Run(c Config) *Container {
	t.Helper()
	container := t.Create(c)
	require.NoError(t, container.Task.Start(t.Ctx))
	return container
}

// Create creates a container that the end of the test removes.
func (t *T) Create(c Config) *Container {
	t.Helper()
	if c.Runtime == "" {
		c.Runtime = t.Runtime
	}
	container, err := t.Daemon.Create(t.Ctx, c)
	require.NoError(t, err)
	t.Cleanup(func() {
		if err := t.Remove(context.Background(), container); err != nil {
			t.Errorf("%v", err)
		}
	})
	return container
}

// RequireStatus looks at the state of a container's task, or of another process of it.
func (t *T) RequireStatus(p client.Process, want client.ProcessStatus) {
	t.Helper()
	status, err := p.Status(t.Ctx)
	require.NoError(t, err, p.ID())
	require.Equal(t, want, status.Status, p.ID())
}

// Finish waits until the container has exited and removes it.
func (t *T) Finish(c *Container) (Result, error) {
	return t.Daemon.Finish(t.Ctx, c)
}

// ByHand makes a container past containerd. The end of the test removes it.
func (t *T) ByHand(c HandConfig) *ByHand {
	t.Helper()
	h, err := t.TryByHand(c)
	require.NoError(t, err)
	return h
}

// TryByHand is ByHand where the shim may refuse to start.
func (t *T) TryByHand(c HandConfig) (*ByHand, error) {
	t.Helper()
	if c.Runtime == "" {
		c.Runtime = t.Runtime
	}
	h, err := t.Daemon.ByHand(t.Ctx, c)
	if err == nil {
		t.Cleanup(func() {
			if err := h.Close(t.Ctx); err != nil {
				t.Errorf("%v", err)
			}
		})
	}
	return h, err
}
