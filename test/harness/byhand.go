// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	task3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/typeurl/v2"
	"golang.org/x/sys/unix"
)

// ByHand is a container on a shim that the harness itself started, as
// containerd would: bundles can be wrong, calls come in any order, and no
// containerd stands between.
type ByHand struct {
	*Shim
	*Streams
	ID     string
	Bundle string
	RootFS string // bind-mounted as the container's root; "" for none
	Log    Buffer // what the shim logged

	p      *Place
	binary string
	log    *os.File
}

// HandConfig says what to make by hand.
type HandConfig struct {
	ID      string // "" means a fresh one
	Runtime string
	Dialect Dialect
	RootFS  string // a directory
	Args    []string
	Opts    []oci.SpecOpts
	Stdin   io.Reader
	// OpenStdin is for who writes to Streams.Stdin itself.
	OpenStdin bool
	Terminal  bool
	NoIO      bool
	// Config is config.json's text; nil means made from Args and Opts, empty means no config.json.
	Config *string
	// Shim is an earlier container's, whose shim this one is to use.
	Shim *ByHand
	// Within is a program, by its path, with arguments, that runs the shim's command, which
	// follows them.
	Within []string
}

// ByHand makes a bundle and starts a shim for it. Close it at the end.
func (p *Place) ByHand(ctx context.Context, c HandConfig) (_ *ByHand, retErr error) {
	if c.ID == "" {
		c.ID = FreshID("c")
	}
	binary, err := p.ShimBinary(c.Runtime)
	if err != nil {
		return nil, err
	}
	h := &ByHand{
		ID: c.ID, Bundle: filepath.Join(p.State, "byhand", c.ID), RootFS: c.RootFS,
		Streams: &Streams{Stdout: &Buffer{}, Stderr: &Buffer{}}, p: p, binary: binary,
	}
	defer func() {
		if retErr != nil {
			_ = h.Close(ctx)
		}
	}()
	if err := os.MkdirAll(filepath.Join(h.Bundle, "rootfs"), 0o711); err != nil {
		return nil, err
	}
	if c.Config == nil {
		text, err := p.spec(ctx, c)
		if err != nil {
			return nil, err
		}
		c.Config = &text
	}
	if *c.Config != "" {
		if err := os.WriteFile(filepath.Join(h.Bundle, "config.json"), []byte(*c.Config), 0o600); err != nil {
			return nil, err
		}
	}
	if !c.NoIO {
		if h.Streams, err = p.Streams(c.ID, c.OpenStdin || c.Stdin != nil, c.Terminal); err != nil {
			return nil, err
		}
	}
	if c.Stdin != nil {
		go func(to io.WriteCloser) {
			_, _ = io.Copy(to, c.Stdin)
			to.Close()
		}(h.Stdin)
	}
	if err := h.openLog(); err != nil {
		return nil, err
	}
	if c.Shim != nil {
		h.Shim, err = Dial(c.Shim.Address)
	} else {
		h.Shim, err = p.start(ctx, binary, h.Bundle, c.Dialect, c.Within)
	}
	return h, err
}

// openLog makes the FIFO that shims log to and reads it, as containerd does.
func (h *ByHand) openLog() error {
	path := filepath.Join(h.Bundle, "log")
	if err := unix.Mkfifo(path, 0o700); err != nil {
		return fmt.Errorf("make log fifo: %w", err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("open log fifo: %w", err)
	}
	h.log = f
	go func() { _, _ = io.Copy(&h.Log, f) }()
	return nil
}

func (p *Place) spec(ctx context.Context, c HandConfig) (string, error) {
	opts := append([]oci.SpecOpts{p.withCgroup(), oci.WithProcessArgs(c.Args...)}, c.Opts...)
	spec, err := oci.GenerateSpec(p.In(ctx), nil, &containers.Container{ID: c.ID}, opts...)
	if err != nil {
		return "", err
	}
	spec.Root.Path = "rootfs"
	text, err := json.Marshal(spec)
	return string(text), err
}

// Create asks the shim to create the task.
func (h *ByHand) Create(ctx context.Context) (*task3.CreateTaskResponse, error) {
	return h.Shim.Create(ctx, h.Request())
}

// Request is what Create asks.
func (h *ByHand) Request() *task3.CreateTaskRequest {
	r := &task3.CreateTaskRequest{ID: h.ID, Bundle: h.Bundle}
	if h.RootFS != "" {
		r.Rootfs = []*types.Mount{{Type: "bind", Source: h.RootFS, Options: []string{"rbind"}}}
	}
	if o := everyContainers(nil); Systemd && o != nil {
		var err error
		if r.Options, err = typeurl.MarshalAnyToProto(o); err != nil {
			panic(err) // it is of a type that is known
		}
	}
	c := h.Config
	r.Stdin, r.Stdout, r.Stderr, r.Terminal = c.Stdin, c.Stdout, c.Stderr, c.Terminal
	return r
}

// DeleteCommand runs the shim's delete command for the bundle and returns what it printed.
func (h *ByHand) DeleteCommand(ctx context.Context) ([]byte, error) {
	cmd, err := h.p.ShimCommand(ctx, h.binary, h.Bundle, Dialect23, "delete")
	if err != nil {
		return nil, err
	}
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("shim delete: %w", err)
	}
	return out, nil
}

// Close ends the container and, if that was the last, the shim.
func (h *ByHand) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), Slow(20*time.Second))
	defer cancel()
	if h.Shim != nil {
		_, _ = h.Kill(ctx, &task3.KillRequest{ID: h.ID, Signal: 9, All: true})
		short, cancel := context.WithTimeout(ctx, Slow(2*time.Second))
		_, _ = h.Wait(short, &task3.WaitRequest{ID: h.ID})
		_, _ = h.Delete(short, &task3.DeleteRequest{ID: h.ID})
		cancel()
		_, _ = h.Shutdown(ctx, &task3.ShutdownRequest{ID: h.ID})
		h.Shim.Close()
	}
	_ = h.Streams.Close()
	if h.log != nil {
		h.log.Close()
	}
	_, err := h.DeleteCommand(ctx)
	for _, m := range mounts(h.p.Namespace) {
		if strings.HasPrefix(m, h.Bundle+"/") {
			return fmt.Errorf("still mounted: %s", m) // and so not safe to remove
		}
	}
	if err := os.RemoveAll(h.Bundle); err != nil {
		return err
	}
	_ = os.Remove(filepath.Dir(h.Bundle)) // if it is empty
	return err
}
