// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"
)

// Machine looks at the kernel, and at what it was told to do.
func Machine() []Finding {
	return []Finding{kernel(), cgroup(), securityModules()}
}

func kernel() Finding {
	const about = "kernel"
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ok(about, "").but(Problem, "its version cannot be had: "+err.Error(), "")
	}
	f := ok(about, "Linux %s", unix.ByteSliceToString(u.Release[:]))
	fd, err := unix.Openat2(unix.AT_FDCWD, "/", &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC})
	if err != nil {
		return f.but(Problem, "it has no openat2(2), by which every path in a container is looked up: "+err.Error(), "use Linux 5.6 or newer")
	}
	_ = unix.Close(fd)
	if _, err := os.Stat("/proc/sys/kernel/seccomp"); err != nil {
		f = f.but(Note, "it has no seccomp", "containers have no filter of system calls; use a kernel with CONFIG_SECCOMP_FILTER")
	}
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION); errno != 0 {
		f = f.but(Note, "it has no Landlock ("+errno.Error()+")", "guests see /proc read-only where it would be hidden; use Linux 5.13 or newer with Landlock in its list of security modules (lsm=)")
	}
	return f
}

// controllers are those of version 2 without which limits have no effect.
var controllers = []string{"cpu", "memory", "pids"}

func cgroup() Finding {
	const about = "cgroups"
	systemd := "no systemd"
	if fi, err := os.Lstat("/run/systemd/system"); err == nil && fi.IsDir() {
		systemd = "systemd: where the kubelet's cgroupDriver is systemd, the runtime needs SystemdCgroup = true"
	}
	if !cgroups.IsCgroup2UnifiedMode() {
		return ok(about, "version 1, %s", systemd).but(Note, "kubelets of 1.35 and later refuse version 1", "boot with systemd.unified_cgroup_hierarchy=1 for Kubernetes")
	}
	f := ok(about, "version 2, %s", systemd)
	b, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
	if err != nil {
		return f.but(Problem, err.Error(), "mount cgroup2 at /sys/fs/cgroup")
	}
	var missing []string
	for _, c := range controllers {
		if !slices.Contains(strings.Fields(string(b)), c) {
			missing = append(missing, c)
		}
	}
	if len(missing) > 0 {
		return f.but(Problem, "without the controllers "+strings.Join(missing, ", "), "have them delegated to this machine or user; without one its limits have no effect")
	}
	return f
}

func securityModules() Finding {
	const about = "security modules"
	b, err := os.ReadFile("/sys/kernel/security/lsm")
	if err != nil {
		return ok(about, "unknown: securityfs is not mounted")
	}
	f := ok(about, "%s", strings.TrimSpace(string(b)))
	if b, err := os.ReadFile("/sys/fs/selinux/enforce"); err == nil && strings.TrimSpace(string(b)) == "1" {
		return f.but(Note, "SELinux is enforcing", "a guest's process runs this program under the container's label: see SELinux in docs/operators.md")
	}
	return f
}

// Binary looks at a program's file, and at what containerd would find by its name in the
// directories of path, its PATH. Without a path nothing is said of that.
func Binary(name, file, path string) Finding {
	const about = "program"
	f := ok(about, "%s", file)
	info, err := os.Stat(file)
	if err != nil {
		return f.but(Problem, err.Error(), "")
	}
	f.Found += ", mode " + info.Mode().Perm().String()
	if info.Mode().Perm()&0o022 != 0 {
		f = f.but(Problem, "others than its owner may change it, and it runs as root", "chmod 0755 "+file)
	}
	if path == "" {
		return f
	}
	for _, dir := range filepath.SplitList(path) {
		found, err := os.Stat(filepath.Join(dir, name))
		if err != nil || found.IsDir() || found.Mode().Perm()&0o111 == 0 {
			continue
		}
		if !os.SameFile(found, info) {
			return f.but(Note, "containerd finds another file first: "+filepath.Join(dir, name), "remove one of the two, if they are not the same version")
		}
		return f
	}
	return f.but(Problem, "containerd does not find "+name+" in its PATH, "+path, "install -m 0755 "+file+" /usr/local/bin/"+name)
}
