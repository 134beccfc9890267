// SPDX-License-Identifier: Apache-2.0

package container

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/configs/validate"
	"github.com/opencontainers/runc/libcontainer/seccomp"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Validate refuses specs that this package cannot run, before anything exists
// that would need cleaning up. Errors are errdefs.ErrInvalidArgument.
func Validate(spec *specs.Spec) error {
	switch {
	case spec == nil:
		return invalid("config.json is empty; a Linux container's spec is needed")
	case spec.Root == nil || spec.Root.Path == "":
		return invalid("config.json has no root.path; it must name the directory of the root filesystem")
	case !hasMountNamespace(spec):
		return invalid("config.json asks for no mount namespace; linux.namespaces must have one of type %q, or the container's mounts would stay on the host", specs.MountNamespace)
	case !hasProc(spec):
		return invalid("config.json has no mount at /proc; add {\"destination\": \"/proc\", \"type\": \"proc\", \"source\": \"proc\"} to mounts: the container's process is started through /proc/self/fd")
	case filepath.Clean("/"+spec.Linux.CgroupsPath) == "/" && spec.Linux.CgroupsPath != "":
		return invalid("linux.cgroupsPath %q is the root cgroup; it must name a cgroup of the container's own", spec.Linux.CgroupsPath)
	case spec.Linux.Seccomp != nil && !seccomp.Enabled:
		return fmt.Errorf("config.json has a seccomp profile, and this shim was built without seccomp: build it with -tags seccomp: %w", errdefs.ErrInvalidArgument)
	}
	return ValidateProcess(spec.Process)
}

// ValidID says whether id can name a container: it is used as a file's name.
func ValidID(id string) bool {
	return id != "" && id != "." && id != ".." && !strings.ContainsRune(id, '/')
}

// ValidateProcess refuses processes that this package cannot run. Errors are
// errdefs.ErrInvalidArgument.
func ValidateProcess(p *specs.Process) error {
	switch {
	case p == nil:
		return invalid("config.json has no process; it must say what to run")
	case p.Cwd == "":
		return invalid("process.cwd is empty; it must be an absolute path")
	case !filepath.IsAbs(p.Cwd):
		return invalid("process.cwd is %q; it must be an absolute path", p.Cwd)
	}
	return nil
}

func hasMountNamespace(spec *specs.Spec) bool {
	return spec.Linux != nil && slices.ContainsFunc(spec.Linux.Namespaces, func(ns specs.LinuxNamespace) bool {
		return ns.Type == specs.MountNamespace
	})
}

func hasProc(spec *specs.Spec) bool {
	return slices.ContainsFunc(spec.Mounts, func(m specs.Mount) bool {
		return isAtProc(m) && (m.Type == "proc" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind"))
	})
}

func isAtProc(m specs.Mount) bool { return filepath.Clean("/"+m.Destination) == "/proc" }

func invalid(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errdefs.ErrInvalidArgument)...)
}

// configMu guards specconv.AllowedDevices, see newConfig.
var configMu sync.Mutex

// newConfig turns a valid spec into libcontainer's form.
func newConfig(cfg Config) (*configs.Config, error) {
	// runc lives in the bundle and knows it by the kernel's name for it;
	// libcontainer refuses a rootfs behind a symbolic link such as /var/run.
	bundle, err := filepath.EvalSymlinks(cfg.Bundle)
	if err != nil {
		return nil, fmt.Errorf("find bundle: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	spec := absolute(cfg.Spec, bundle, cfg.ID, cfg.SystemdCgroup)
	joined := withoutJoinedMappings(spec)
	configMu.Lock()
	defer configMu.Unlock()
	config, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{
		CgroupName:       cfg.ID,
		UseSystemdCgroup: cfg.SystemdCgroup,
		NoPivotRoot:      cfg.NoPivotRoot,
		NoNewKeyring:     cfg.NoNewKeyring,
		RootlessEUID:     os.Geteuid() != 0,
		RootlessCgroups:  rootlessCgroups(cfg.SystemdCgroup),
		Spec:             spec,
	})
	// The default devices in a config point into specconv.AllowedDevices, and a
	// user namespace makes specconv write their owner: in runc that ends with the
	// process, here it would give the next container's /dev/null to a stranger.
	if config != nil {
		for i, d := range config.Devices {
			own := *d
			config.Devices[i] = &own
		}
	}
	for _, d := range specconv.AllowedDevices {
		d.Uid, d.Gid = 0, 0
	}
	if err != nil {
		return nil, fmt.Errorf("config.json: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if err := validate.Validate(config); err != nil {
		return nil, fmt.Errorf("config.json: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if joined != nil && (!sameMappings(config.UIDMappings, joined.UIDMappings) || !sameMappings(config.GIDMappings, joined.GIDMappings)) {
		return nil, invalid("config.json: the user namespace to join has other mappings (%v, %v) than linux.uidMappings and linux.gidMappings say", config.UIDMappings, config.GIDMappings)
	}
	// The last label tells hooks the bundle; specconv took the working directory.
	config.Labels[len(config.Labels)-1] = "bundle=" + bundle
	return config, nil
}

// withoutJoinedMappings takes the mappings of a user namespace that is to be joined,
// and has them already, out of spec, and returns what was there. containerd gives both,
// for which libcontainer writes a warning for each container.
func withoutJoinedMappings(spec *specs.Spec) *specs.Linux {
	was := spec.Linux
	if was == nil || len(was.UIDMappings)+len(was.GIDMappings) == 0 || !slices.ContainsFunc(was.Namespaces, func(ns specs.LinuxNamespace) bool {
		return ns.Type == specs.UserNamespace && ns.Path != ""
	}) {
		return nil
	}
	linux := *was
	linux.UIDMappings, linux.GIDMappings = nil, nil
	spec.Linux = &linux
	return was
}

func sameMappings(a []configs.IDMap, b []specs.LinuxIDMapping) bool {
	return slices.EqualFunc(a, b, func(a configs.IDMap, b specs.LinuxIDMapping) bool {
		return a == configs.IDMap{ContainerID: int64(b.ContainerID), HostID: int64(b.HostID), Size: int64(b.Size)}
	})
}

// absolute returns a copy of spec in which no path depends on this process:
// libcontainer takes relative ones from the working directory and from the
// caller's own cgroup, which differ between the daemon and a later cleanup.
func absolute(spec *specs.Spec, bundle, id string, systemd bool) *specs.Spec {
	s := *spec
	root := *spec.Root
	if !filepath.IsAbs(root.Path) {
		root.Path = filepath.Join(bundle, root.Path)
	}
	s.Root = &root
	s.Mounts = slices.Clone(spec.Mounts)
	for i, m := range s.Mounts {
		bind := slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
		if bind && !filepath.IsAbs(m.Source) {
			s.Mounts[i].Source = filepath.Join(bundle, m.Source)
		}
	}
	linux := *spec.Linux
	linux.CgroupsPath = cgroupsPath(spec, id, systemd)
	s.Linux = &linux
	return &s
}

// cgroupsPath returns the spec's cgroup, or the one that runc takes for a spec
// without. A user may have no right to make any, which libcontainer puts up with only
// where none was asked for; there, too, it is recorded which one was made.
func cgroupsPath(spec *specs.Spec, id string, systemd bool) string {
	p := spec.Linux.CgroupsPath
	switch {
	case systemd && p == "":
		return ":runc:" + id // slice, prefix and name of the scope; the slice is the driver's choice
	case systemd:
		return p
	case p == "" && rootlessCgroups(systemd):
		return ""
	case p == "":
		p = id
	}
	return filepath.Clean("/" + p)
}
