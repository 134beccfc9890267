// SPDX-License-Identifier: Apache-2.0

// Package rootless knows what is otherwise where an ordinary user runs containerd: in a
// user namespace, in which the user is root, and the machine's directories, cgroups and
// systemd are somebody else's. RootlessKit makes one.
package rootless

import (
	"os"
	"path/filepath"
	"sync"

	"github.com/moby/sys/userns"
	"golang.org/x/sys/unix"
)

// Is says whether this process is in a user namespace.
func Is() bool { return userns.RunningInUserNS() }

// RunDir is where sockets and what is only remembered belong: /run, and for a user
// XDG_RUNTIME_DIR. There it does not matter whether /run is one that RootlessKit has made
// for the namespace (--copy-up=/run), which is gone with it, or the machine's, where a user
// can write nothing. Where the machine's root has a login in a container that has a user
// namespace, what is remembered must not go with the login: the rule is runc's.
var RunDir = sync.OnceValue(func() string {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); Is() && os.Getenv("USER") != "root" && filepath.IsAbs(dir) {
		return filepath.Clean(dir)
	}
	return "/run"
})

// StateDir is where what is only remembered is. In a /run of a user namespace it has a name
// of its own: RootlessKit (--copy-up=/run) puts links there to what the machine's /run has.
func StateDir() string {
	name := "libwasmshim"
	if Is() && RunDir() == "/run" {
		name = "libwasmshim-rootless"
	}
	return filepath.Join(RunDir(), name)
}

// Env is what a process of this program needs of the environment to find the user's
// directories and systemd.
func Env() (env []string) {
	if !Is() {
		return nil
	}
	for _, name := range []string{"XDG_RUNTIME_DIR", "USER", "DBUS_SESSION_BUS_ADDRESS", "PATH"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// MachinesSystemd says whether the systemd that /run shows, if it shows one, is of another
// user namespace, and so takes no orders from here.
func MachinesSystemd() bool {
	var st unix.Stat_t
	return Is() && unix.Stat("/run/systemd/system", &st) == nil && st.Uid != 0
}
