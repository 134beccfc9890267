// SPDX-License-Identifier: Apache-2.0

package entrypoint

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// answer says whether something is allowed. Only the kernel knows it for certain,
// and only once the container is there: whatever mode bits do not tell is perhaps.
type answer int

const (
	no answer = iota
	perhaps
	yes
)

// What mode bits allow: to read, and to execute a file or search a directory.
const (
	toRead    = 4
	toExecute = 1
)

// access is what the container's user may do, as a native program and as a
// guest.
type access struct {
	user uint32 // as the container names it
	uid  hostID
	gids []hostID
	// mapped says that there is a user namespace. What mode bits deny there, its
	// capabilities may allow.
	mapped bool

	native, guest privilege
}

// hostID is an ID of the container's on the host.
type hostID struct {
	id    uint32
	known bool
}

// privilege is what capabilities add to mode bits.
type privilege struct {
	override answer // CAP_DAC_OVERRIDE
	read     answer // CAP_DAC_READ_SEARCH
}

func newAccess(spec *specs.Spec) access {
	u := spec.Process.User
	a := access{user: u.UID}
	var uids, gids []specs.LinuxIDMapping
	if spec.Linux != nil {
		uids, gids = spec.Linux.UIDMappings, spec.Linux.GIDMappings
		a.mapped = slices.ContainsFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.UserNamespace })
	}
	a.uid = a.onHost(u.UID, uids)
	for _, gid := range append([]uint32{u.GID}, u.AdditionalGids...) {
		a.gids = append(a.gids, a.onHost(gid, gids))
	}
	caps := spec.Process.Capabilities
	if caps == nil {
		return a
	}
	// A native program is executed with the capabilities that the process has
	// until then, whoever its user is.
	in := func(set []string, name string) answer {
		if slices.Contains(set, name) {
			return yes
		}
		return no
	}
	a.native = privilege{in(caps.Effective, "CAP_DAC_OVERRIDE"), in(caps.Effective, "CAP_DAC_READ_SEARCH")}
	// A guest's file is opened after that: root has kept what is permitted and in
	// the bounding set, another user what is ambient.
	after := func(name string) answer {
		switch {
		case u.UID != 0:
			return min(perhaps, in(caps.Ambient, name))
		case in(caps.Permitted, name) != in(caps.Bounding, name):
			return perhaps
		}
		return in(caps.Permitted, name)
	}
	a.guest = privilege{after("CAP_DAC_OVERRIDE"), after("CAP_DAC_READ_SEARCH")}
	return a
}

func (a *access) onHost(id uint32, mappings []specs.LinuxIDMapping) hostID {
	if !a.mapped {
		return hostID{id, true}
	}
	for _, m := range mappings {
		if id >= m.ContainerID && id-m.ContainerID < m.Size {
			return hostID{m.HostID + id - m.ContainerID, true}
		}
	}
	return hostID{}
}

// may says whether a file's mode bits and a process's capabilities give a
// permission.
func (f *file) may(bit uint32, p privilege) answer {
	a := &f.v.access
	byMode := f.byMode(bit)
	if byMode == yes {
		return yes
	}
	byCapability := p.override
	switch directory := f.stat.Mode&unix.S_IFMT == unix.S_IFDIR; {
	case bit == toExecute && !directory && f.stat.Mode&0o111 == 0:
		// Nobody executes a file without any such bit.
		if f.plain() {
			return no
		}
		byCapability = no
	case bit == toRead, directory:
		byCapability = max(byCapability, p.read)
	}
	if a.mapped {
		byCapability = perhaps
	}
	return max(byMode, byCapability)
}

func (f *file) byMode(bit uint32) answer {
	a := &f.v.access
	is := func(id hostID, owner uint32) bool { return id.known && id.id == owner }
	mode := f.stat.Mode
	switch {
	case !f.plain(), !a.uid.known, slices.Contains(a.gids, hostID{}):
		return perhaps
	case is(a.uid, f.stat.Uid):
		mode >>= 6
	case slices.ContainsFunc(a.gids, func(g hostID) bool { return is(g, f.stat.Gid) }):
		mode >>= 3
	}
	if mode&bit != 0 {
		return yes
	}
	return no
}

// plain says whether mode bits and owner are all that decides about a file.
func (f *file) plain() bool {
	return !f.stands && !f.hasACL() && f.localKind()
}

func (f *file) hasACL() bool {
	_, err := unix.Getxattr("/proc/self/fd/"+strconv.Itoa(f.fd), "system.posix_acl_access", nil)
	return !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.EOPNOTSUPP)
}

// localKind says whether the file system is of a kind that decides by mode bits.
// Others ask a server or a program, which have rules of their own.
func (f *file) localKind() bool {
	var st unix.Statfs_t
	if err := unix.Fstatfs(f.fd, &st); err != nil {
		return false
	}
	switch int64(st.Type) {
	case unix.OVERLAYFS_SUPER_MAGIC, unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.F2FS_SUPER_MAGIC,
		unix.TMPFS_MAGIC, unix.RAMFS_MAGIC, unix.EROFS_SUPER_MAGIC_V1, unix.SQUASHFS_MAGIC, unix.ISOFS_SUPER_MAGIC:
		return true
	}
	return false
}

// way is what lies between the root directory and a file: whether it may be
// searched, and what forbids it.
type way struct{ native, guest passage }

type passage struct {
	allowed answer
	why     error // where it is not allowed
}

var freeWay = way{passage{allowed: yes}, passage{allowed: yes}}

// through is a way that also leads through a directory.
func (w way) through(dir *file, name string) way {
	return way{
		w.native.and(dir, name, "may not search it", toExecute, dir.v.access.native),
		w.guest.and(dir, name, "may not search it", toExecute, dir.v.access.guest),
	}
}

// and is a passage where something more has to be allowed.
func (p passage) and(f *file, name, refusal string, bit uint32, who privilege) passage {
	allowed := f.may(bit, who)
	if allowed == no && p.why == nil {
		p.why = fmt.Errorf("%s: the container's user %s (mode %04o, user %d): %w",
			name, refusal, f.stat.Mode&0o7777, f.v.access.user, errdefs.ErrPermissionDenied)
	}
	p.allowed = min(p.allowed, allowed)
	return p
}
