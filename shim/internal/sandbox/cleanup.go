// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"time"

	api "github.com/containerd/containerd/api/runtime/sandbox/v1"
	"github.com/containerd/ttrpc"

	"github.com/libwasmshim/libwasmshim/shim/internal/container"
	"github.com/libwasmshim/libwasmshim/shim/internal/task"
)

// daemonTimeout is how long a daemon may take to remove a sandbox of its own.
const daemonTimeout = 3 * time.Second

// LeaveToDaemon has a daemon that lives remove its sandbox, and end: containerd has given
// it up. Whatever it does not do is done from outside. socket is the daemon's; empty if
// there is none.
func LeaveToDaemon(bundle, socket string) {
	if !IsBundle(bundle) || socket == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), daemonTimeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return // it is dead
	}
	client := ttrpc.NewClient(conn)
	defer client.Close()
	_, _ = api.NewTTRPCSandboxClient(client).ShutdownSandbox(ctx, &api.ShutdownSandboxRequest{SandboxID: filepath.Base(bundle)})
}

// Cleanup removes what a sandbox has outside of its bundle, if this bundle is a
// sandbox's. It may be called from any process, any number of times.
func Cleanup(bundle string) error {
	if !IsBundle(bundle) {
		return nil
	}
	if err := killContainers(bundle); err != nil {
		return err
	}
	dir, stateDir, err := criDirs(bundle)
	if errors.Is(err, os.ErrNotExist) {
		return nil // removed by somebody else
	}
	if err != nil {
		return err
	}
	if err := unmountShm(stateDir); err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(dir), os.RemoveAll(stateDir))
}

// killContainers ends what is left of a sandbox's containers. When the daemon has died,
// containerd up to 2.3 calls for the sandbox alone, and removes the containers' bundles.
func killContainers(bundle string) error {
	root := task.StateRoot(bundle)
	entries, err := os.ReadDir(root)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		err = errors.Join(err, container.Cleanup(e.Name(), root))
	}
	return err
}
