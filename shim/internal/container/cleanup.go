// SPDX-License-Identifier: Apache-2.0

package container

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/runc/libcontainer"
)

// Cleanup removes what a killed daemon left of one container: processes, cgroup,
// state. It may be called from any process, at any time, any number of times.
//
// The state directory is what says that there is something to remove. Without it
// nothing was created. libcontainer enters the cgroup long before it writes
// state.json, so where the cgroup is stands in a file of our own.
func Cleanup(id, root string) error {
	if !ValidID(id) {
		return invalid("container id %q; it may have letters, digits and _ + - . only", id)
	}
	if err := cleanup(id, root); err != nil {
		return fmt.Errorf("clean up container %s: %w", id, err)
	}
	_ = os.Remove(root)
	return nil
}

func cleanup(id, root string) error {
	dir := filepath.Join(root, id)
	if !exists(dir) {
		return nil
	}
	if cg, found := loadCgroup(dir); found {
		if err := cg.kill(initOf(root, id)...); err != nil {
			return err
		}
		if err := cg.remove(); err != nil {
			return err
		}
	}
	lc, err := load(root, id)
	if err != nil {
		return os.RemoveAll(dir) // the state was not written yet, or a crash of the host has damaged it
	}
	return inBundle(lc, lc.Destroy) // runs the poststop hooks, too
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

// initOf returns a container's init, if it is known.
func initOf(root, id string) []stat {
	lc, err := load(root, id)
	if err != nil {
		return nil
	}
	state, err := lc.State()
	if err != nil || state.InitProcessPid <= 0 {
		return nil
	}
	return []stat{{pid: state.InitProcessPid, start: state.InitProcessStartTime}}
}
