// SPDX-License-Identifier: Apache-2.0

package container

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Cleanup removes what a killed daemon left of one container: processes, cgroup,
// state. It may be called from any process, at any time, any number of times.
//
// The state directory is what says that there is something to remove. Without it
// nothing was created, and the cgroup that the spec names may be another
// container's. libcontainer enters the cgroup long before it writes state.json,
// so the cgroup comes from the spec wherever the state does not tell it.
func Cleanup(id, root string, spec *specs.Spec, systemd bool) error {
	if !ValidID(id) {
		return invalid("container id %q; it may have letters, digits and _ + - . only", id)
	}
	dir := filepath.Join(root, id)
	if !exists(dir) {
		_ = os.Remove(root)
		return nil
	}
	lc, err := load(root, id)
	if err != nil {
		lc = nil // the spec has to do
	}
	m, init, err := left(lc, id, spec, systemd)
	if err != nil {
		return fmt.Errorf("clean up container %s: %w", id, err)
	}
	if err := killCgroup(m, init...); err != nil {
		return fmt.Errorf("clean up container %s: %w", id, err)
	}
	if lc != nil {
		err = lc.Destroy() // runs the poststop hooks, too
	} else if err = m.Destroy(); err == nil {
		err = os.RemoveAll(dir)
	}
	if err != nil {
		return fmt.Errorf("clean up container %s: %w", id, err)
	}
	_ = os.Remove(root)
	return nil
}

// load reads a container from its state.json. libcontainer dereferences what it
// finds there, and the file may hold anything after a crash of the host.
func load(root, id string) (lc *libcontainer.Container, err error) {
	defer func() {
		if r := recover(); r != nil {
			lc, err = nil, fmt.Errorf("load state: %v", r)
		}
	}()
	if lc, err = libcontainer.Load(root, id); err != nil {
		return nil, fmt.Errorf("load state: %w", err)
	}
	return lc, nil
}

// left returns the cgroup of a container and, if it is known, its init.
func left(lc *libcontainer.Container, id string, spec *specs.Spec, systemd bool) (cgroups.Manager, []stat, error) {
	if lc == nil {
		m, err := specCgroup(id, spec, systemd)
		return m, nil, err
	}
	state, err := lc.State()
	if err != nil {
		return nil, nil, fmt.Errorf("read state: %w", err)
	}
	m, err := manager.NewWithPaths(state.Config.Cgroups, state.CgroupPaths)
	if err != nil {
		return nil, nil, fmt.Errorf("open cgroup: %w", err)
	}
	if state.InitProcessPid <= 0 {
		return m, nil, nil
	}
	return m, []stat{{pid: state.InitProcessPid, start: state.InitProcessStartTime}}, nil
}

func specCgroup(id string, spec *specs.Spec, systemd bool) (cgroups.Manager, error) {
	path := cgroupsPath(spec, id, systemd)
	if !systemd && path == "/" {
		return nil, invalid("linux.cgroupsPath is the root cgroup")
	}
	config, err := specconv.CreateCgroupConfig(&specconv.CreateOpts{
		CgroupName:       id,
		UseSystemdCgroup: systemd,
		Spec:             &specs.Spec{Linux: &specs.Linux{CgroupsPath: path}},
	}, nil)
	if err != nil {
		return nil, invalid("linux.cgroupsPath: %v", err)
	}
	m, err := manager.New(config)
	if err != nil {
		return nil, fmt.Errorf("open cgroup %q: %w", path, err)
	}
	return m, nil
}
