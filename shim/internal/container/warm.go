// SPDX-License-Identifier: Apache-2.0

package container

import (
	"os"
	"path/filepath"
	"sync"

	"github.com/opencontainers/cgroups"
)

// WarmCgroups makes the kernel's next move of a process into a cgroup cheap.
//
// Such a move takes a lock for writing (cgroup_threadgroup_rwsem) that is tuned
// for readers: the first writer waits for an RCU grace period, 10 to 40 ms, and
// those that follow within the next one do not. Moving this process to where it
// is already starts that wait now, while the caller goes on with what has to be
// done before the container's own move. It may be called from a goroutine of
// its own, and is best effort: errors do not matter.
func WarmCgroups() {
	file := ownCgroup()
	if file == "" {
		return
	}
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return
	}
	defer f.Close()
	_, _ = f.WriteString("0") // this process
}

// ownCgroup returns the cgroup.procs file of some cgroup of this process.
var ownCgroup = sync.OnceValue(func() string {
	paths, err := cgroups.ParseCgroupFile("/proc/self/cgroup")
	if err != nil {
		return ""
	}
	if p, ok := paths[""]; ok && cgroups.IsCgroup2UnifiedMode() {
		return filepath.Join("/sys/fs/cgroup", p, "cgroup.procs")
	}
	for _, sub := range []string{"pids", "cpu", "memory"} {
		if p, ok := paths[sub]; ok {
			file := filepath.Join("/sys/fs/cgroup", sub, p, "cgroup.procs")
			if _, err := os.Stat(file); err == nil {
				return file
			}
		}
	}
	return ""
})
