// SPDX-License-Identifier: Apache-2.0

package container

import (
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/systemd"
	"golang.org/x/sys/unix"

	"github.com/libwasmshim/libwasmshim/shim/internal/rootless"
)

// SystemdRuns says whether there is a systemd that makes cgroups for this process: the
// machine's, or the one of the user whose containerd it is.
func SystemdRuns() bool {
	if !systemd.IsRunningSystemd() {
		return false
	}
	return !rootless.MachinesSystemd() || initialNamespaces() && usersSystemd()
}

// initialNamespaces says whether the ids of processes and the paths of cgroups are those that
// a systemd of the machine knows: RootlessKit may have made namespaces for them, too. Nested in
// a container they never are, and no systemd of a user is looked for there.
func initialNamespaces() bool {
	for name, initial := range map[string]uint64{"pid": 0xeffffffc, "cgroup": 0xeffffffb} { // PROC_PID_INIT_INO, PROC_CGROUP_INIT_INO
		var st unix.Stat_t
		if unix.Stat("/proc/self/ns/"+name, &st) != nil || st.Ino != initial {
			return false
		}
	}
	return true
}

// usersSystemd says whether the systemd that this process finds by its environment is an
// ordinary user's.
var usersSystemd = sync.OnceValue(func() bool {
	uid, err := systemd.DetectUID()
	return err == nil && uid != 0
})

// rootlessCgroups says whether cgroups are somebody else's but for what was delegated, as
// runc finds out with --rootless=auto. libcontainer then speaks to the user's systemd, and
// leaves out what a user cannot do.
func rootlessCgroups(systemd bool) bool {
	switch {
	case os.Geteuid() != 0:
		return true
	case !rootless.Is():
		return false
	case systemd:
		return usersSystemd()
	}
	return true
}

// DelegatedCgroup is the cgroup, as a path in the hierarchy of version 2, that this process's
// own is in, if this process may make others there; else "". There runc makes those of
// containers whose spec names none: a cgroup that has processes cannot limit those below it.
func DelegatedCgroup() string {
	own := ownCgroup()
	if !cgroups.IsCgroup2UnifiedMode() || own == "" || own == cgroupRoot {
		return ""
	}
	parent := filepath.Dir(own)
	for _, path := range []string{parent, filepath.Join(parent, "cgroup.procs")} {
		if unix.Access(path, unix.W_OK) != nil {
			return ""
		}
	}
	return filepath.Join("/", strings.TrimPrefix(parent, cgroupRoot))
}
