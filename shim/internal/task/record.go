// SPDX-License-Identifier: Apache-2.0

package task

import (
	"fmt"
	"os"
	"path/filepath"

	api "github.com/containerd/containerd/api/runtime/task/v2"
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

// deleted is the answer to the Delete of a process that had this pid and has ended so.
func deleted(pid uint32, exit container.Exit) *api.DeleteResponse {
	return &api.DeleteResponse{Pid: pid, ExitStatus: uint32(exit.Status), ExitedAt: timestamppb.New(exit.At)}
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
