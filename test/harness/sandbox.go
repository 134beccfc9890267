// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"context"
	"os"
	"path/filepath"

	sandboxapi "github.com/containerd/containerd/api/runtime/sandbox/v1"
)

// Sandbox is a shim that the harness itself started for a sandbox, as containerd's
// sandboxer "shim" would, and its calls.
type Sandbox struct {
	sandboxapi.TTRPCSandboxService
	*ByHand
	Files, State string // where CRI has the pod's files, and its /dev/shm
}

// Sandbox makes a sandbox's bundle, where containerd would, and starts a shim for it.
func (p *Place) Sandbox(ctx context.Context, runtime string, dialect Dialect) (_ *Sandbox, retErr error) {
	const controller, cri = "io.containerd.sandbox.controller.v1.shim", "io.containerd.grpc.v1.cri/sandboxes"
	id := FreshID("pod")
	binary, err := p.ShimBinary(runtime)
	if err != nil {
		return nil, err
	}
	s := &Sandbox{
		ByHand: &ByHand{
			ID: id, Bundle: filepath.Join(p.State, "byhand", controller, p.Namespace, id),
			Streams: &Streams{Stdout: &Buffer{}, Stderr: &Buffer{}}, p: p, binary: binary,
		},
		Files: filepath.Join(p.State, "byhandroot", cri, id), State: filepath.Join(p.State, "byhand", cri, id),
	}
	defer func() {
		if retErr != nil {
			_ = s.Close(ctx)
		}
	}()
	work := filepath.Join(p.State, "byhandroot", controller, p.Namespace, id)
	for _, dir := range []string{work, filepath.Join(s.Bundle, "rootfs")} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, err
		}
	}
	if err := os.Symlink(work, filepath.Join(s.Bundle, "work")); err != nil {
		return nil, err
	}
	if err := s.openLog(); err != nil {
		return nil, err
	}
	if s.Shim, err = p.start(ctx, binary, s.Bundle, dialect, nil); err != nil {
		return nil, err
	}
	s.TTRPCSandboxService = sandboxapi.NewTTRPCSandboxClient(s.client)
	return s, nil
}

// Close does what containerd does to a sandbox's shim that it has no connection to any
// more, and removes the bundle.
func (s *Sandbox) Close(ctx context.Context) error {
	err := s.ByHand.Close(ctx)
	for _, dir := range []string{"byhand", "byhandroot"} {
		_ = os.RemoveAll(filepath.Join(s.p.State, dir))
	}
	return err
}
