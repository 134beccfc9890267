// SPDX-License-Identifier: Apache-2.0

package container

import (
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/opencontainers/cgroups"
)

var hurrying atomic.Bool

// HurryMoves has the next processes enter their cgroups without a wait, for some
// milliseconds. It returns at once, and is for moments when a start is about to come.
//
// Since Linux 6.0 the first move between cgroups after a while waits until every CPU has
// been through the scheduler, which is most of what a start on an idle machine takes; moves
// that come during the wait share it, and those after it have none. A process that moves to
// where it is already makes the kernel wait as well, and changes nothing.
func HurryMoves() {
	if !hurrying.CompareAndSwap(false, true) {
		return
	}
	go func() {
		defer hurrying.Store(false)
		if dir := ownCgroup(); dir != "" {
			_ = cgroups.WriteCgroupProc(dir, os.Getpid())
		}
	}()
}

// ownCgroup is a directory that this process is in; empty if there is none that can be seen.
func ownCgroup() string {
	own, err := cgroups.ParseCgroupFile("/proc/self/cgroup")
	if err != nil {
		return ""
	}
	if cgroups.IsCgroup2UnifiedMode() {
		return filepath.Join(cgroupRoot, own[""])
	}
	// Where version 1 is mounted is known but for odd machines, and a list of all mounts is long.
	if path, ok := own["cpu"]; ok && exists(filepath.Join(cgroupRoot, "cpu", path)) {
		return filepath.Join(cgroupRoot, "cpu", path)
	}
	dir, _ := cgroups.GetOwnCgroupPath("cpu")
	return dir
}
