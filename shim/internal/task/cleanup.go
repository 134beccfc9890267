// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	api "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/libwasmshim/libwasmshim/shim/internal/container"
)

// outsideMark is a file in a bundle that says that its container is being cleaned up
// by a process that containerd has executed for that, and that tells of the exit.
const outsideMark = "shim.outside"

// cleanedUpOutside says whether somebody else cleans up a container, or has done so.
func cleanedUpOutside(bundle string) bool {
	if _, err := os.Stat(filepath.Join(bundle, outsideMark)); err == nil {
		return true
	}
	return !exists(bundle)
}

// daemonTimeout is how long a daemon may take to remove a container of its own.
const daemonTimeout = 3 * time.Second

// Cleanup removes everything of a container whose daemon is gone, or that containerd
// has given up, and returns the encoded DeleteResponse: the recorded exit status, or
// 137 if the container was alive until now. It may be called again. socket is the
// daemon's; empty if there is none.
func Cleanup(id, bundle, socket string) ([]byte, error) {
	// Where there is no room for it, or no bundle any more, a daemon that lives may tell of
	// the exit as well.
	_ = os.WriteFile(filepath.Join(bundle, outsideMark), nil, 0o600)
	if socket != "" {
		leaveToDaemon(socket, id)
	}
	err := container.Cleanup(id, filepath.Join(bundle, rootDir))
	// Somebody else may be at it as well, and have removed the bundle.
	if uerr := unmountRoot(filepath.Join(bundle, "rootfs")); uerr != nil && !errors.Is(uerr, os.ErrNotExist) {
		err = errors.Join(err, fmt.Errorf("unmount root file system: %w", uerr))
	}
	if err != nil {
		return nil, err
	}
	r, err := readRecord(bundle)
	if err != nil {
		r = &api.DeleteResponse{Pid: initPid(bundle), ExitStatus: 128 + uint32(sigkill), ExitedAt: timestamppb.New(time.Now())}
	}
	return proto.Marshal(r)
}

// leaveToDaemon has a living daemon remove a container that does not run, or that it
// is about to create for nobody, and end, if it has no other. Whatever it does not do
// is done from outside.
func leaveToDaemon(socket, id string) {
	ctx, cancel := context.WithTimeout(context.Background(), daemonTimeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return // it is dead
	}
	client := ttrpc.NewClient(conn)
	defer client.Close()
	daemon := api.NewTTRPCTaskClient(client)
	if _, err := daemon.Delete(ctx, &api.DeleteRequest{ID: id}); err != nil && ctx.Err() != nil {
		return
	}
	_, _ = daemon.Shutdown(ctx, &api.ShutdownRequest{ID: id})
}

// initPid is the pid of the container's init, 0 if it never had one.
func initPid(bundle string) uint32 {
	b, err := os.ReadFile(filepath.Join(bundle, initPidFile))
	if err != nil {
		return 0
	}
	pid, _ := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 32)
	return uint32(pid)
}
