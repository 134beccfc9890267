// SPDX-License-Identifier: Apache-2.0

package task

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	api "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/containerd/v2/core/mount"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/libwasmshim/libwasmshim/shim/internal/container"
)

// The records in a bundle. Both hold the bytes of a DeleteResponse.
const (
	// exitRecord keeps a container's exit status if the daemon dies.
	exitRecord = "shim.exit"
	// deletedRecord says that nothing is left to clean up: the delete that
	// containerd execs prints it without starting Go.
	deletedRecord = "shim.deleted"
)

// record is the task's answer to Delete.
func (t *task) record() *api.DeleteResponse {
	return &api.DeleteResponse{Pid: t.pid, ExitStatus: uint32(t.exit.Status), ExitedAt: timestamppb.New(t.exit.At)}
}

// writeRecord writes a record in one piece or not at all.
func writeRecord(bundle, name string, r *api.DeleteResponse) error {
	b, err := proto.Marshal(r)
	if err != nil {
		return err
	}
	path := filepath.Join(bundle, name)
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func readRecord(bundle string) (*api.DeleteResponse, error) {
	b, err := os.ReadFile(filepath.Join(bundle, exitRecord))
	if err != nil {
		return nil, err
	}
	r := &api.DeleteResponse{}
	if err := proto.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("parse %s: %w", exitRecord, err)
	}
	return r, nil
}

// Cleanup removes everything of a container whose daemon is gone and returns
// the encoded DeleteResponse: the recorded exit status, or 137 if the container
// was alive until now. It may be called again.
func Cleanup(id, bundle string) ([]byte, error) {
	err := container.Cleanup(id, filepath.Join(bundle, rootDir))
	if uerr := mount.UnmountRecursive(filepath.Join(bundle, "rootfs"), 0); uerr != nil {
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

// initPid is the pid of the container's init, 0 if it never had one.
func initPid(bundle string) uint32 {
	b, err := os.ReadFile(filepath.Join(bundle, initPidFile))
	if err != nil {
		return 0
	}
	pid, _ := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 32)
	return uint32(pid)
}
