// SPDX-License-Identifier: Apache-2.0

package container

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/fscommon"
	"github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"
)

// killTimeout bounds the wait for killed processes: one in uninterruptible
// sleep may never go.
const killTimeout = 10 * time.Second

// cgroup is where a container's cgroup is, without the resources that were set.
type cgroup struct {
	Config cgroups.Cgroup
	Paths  map[string]string // by hierarchy
	// PrivatePID says that the container has a pid namespace of its own, and so
	// the kernel kills every process of the container with the init.
	PrivatePID bool
}

func newCgroup(config *configs.Config) (cgroup, error) {
	m, err := manager.New(config.Cgroups)
	if err != nil {
		return cgroup{}, fmt.Errorf("open cgroup: %w", err)
	}
	c := cgroup{Config: *config.Cgroups, Paths: maps.Clone(m.GetPaths()), PrivatePID: config.Namespaces.IsPrivate(configs.NEWPID)}
	c.Config.Resources = nil
	c.Config.SystemdProps = nil
	return c, nil
}

// cgroupRecord is the file in a container's state directory that says which
// cgroup Create chose: what comes later cannot derive it again, for want of the
// runtime's options.
const cgroupRecord = "cgroup.json"

func (c cgroup) save(stateDir string) error {
	b, err := json.Marshal(c)
	if err == nil {
		err = os.WriteFile(filepath.Join(stateDir, cgroupRecord), b, 0o600)
	}
	if err != nil {
		return fmt.Errorf("record the cgroup: %w", err)
	}
	return nil
}

// LinkCgroup has Cleanup find a container's cgroup below another root, too.
func LinkCgroup(id, root, other string) error {
	dir := filepath.Join(other, id)
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return err
	}
	return os.Link(filepath.Join(root, id, cgroupRecord), filepath.Join(dir, cgroupRecord))
}

// loadCgroup reads what save wrote. Without it nothing has entered the cgroup.
func loadCgroup(stateDir string) (c cgroup, found bool) {
	b, err := os.ReadFile(filepath.Join(stateDir, cgroupRecord))
	return c, err == nil && json.Unmarshal(b, &c) == nil
}

// manager returns a manager of the caller's own: managers are changed by their
// use, freezing and removing for example.
func (c cgroup) manager() (cgroups.Manager, error) {
	config := c.Config
	config.Resources = &cgroups.Resources{}
	m, err := manager.NewWithPaths(&config, maps.Clone(c.Paths))
	if err != nil {
		return nil, fmt.Errorf("open cgroup: %w", err)
	}
	return m, nil
}

// kill kills the container's processes, and those of also that are still the
// same, until none is left.
func (c cgroup) kill(also ...stat) error {
	// A dying process leaves the cgroup before it has let go of its mounts: those
	// once seen are watched until they are zombies or gone.
	seen := map[int]stat{}
	for _, s := range also {
		seen[s.pid] = s
	}
	deadline := time.Now().Add(killTimeout)
	for delay := time.Millisecond; ; delay = min(2*delay, 50*time.Millisecond) {
		pids, err := c.members()
		if err != nil {
			return err
		}
		if slices.Contains(pids, os.Getpid()) {
			return fmt.Errorf("kill processes of cgroup %v: this process is one of them", c.Paths)
		}
		for pid, s := range seen {
			if !slices.Contains(pids, pid) && !s.alive() {
				delete(seen, pid)
			}
		}
		for _, pid := range pids {
			if s, err := readStat(pid); err == nil {
				seen[pid] = s
			}
		}
		if len(seen) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("kill processes of cgroup: %v survive SIGKILL for %s", slices.Sorted(maps.Keys(seen)), killTimeout)
		}
		if unified := c.Paths[""]; unified != "" && len(pids) > 0 && !c.PrivatePID {
			_ = cgroups.WriteFile(unified, "cgroup.kill", "1") // since Linux 5.14
		}
		for pid := range seen {
			if err := unix.Kill(pid, unix.SIGKILL); forbidden(err) && slices.Contains(pids, pid) {
				_ = c.killUnasked(pid)
			}
		}
		if err := c.thaw(); err != nil {
			return err
		}
		time.Sleep(delay)
	}
}

// forbidden says whether a signal was refused: AppArmor asks the profile of whom it is
// sent to.
func forbidden(err error) bool { return errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) }

// killUnasked kills one process of the cgroup by the kernel's own kill of a cgroup, which
// asks no security module: in one made for it, because its neighbours live on. It needs
// version 2, and Linux 5.14.
func (c cgroup) killUnasked(pid int) error {
	unified := c.Paths[""]
	if unified == "" || !exists(filepath.Join(unified, "cgroup.kill")) {
		return errors.ErrUnsupported
	}
	dir := filepath.Join(unified, "kill-"+strconv.Itoa(pid))
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	err := cgroups.WriteFile(dir, "cgroup.procs", strconv.Itoa(pid))
	if err == nil {
		err = cgroups.WriteFile(dir, "cgroup.kill", "1")
	}
	for delay := time.Millisecond; errors.Is(unix.Rmdir(dir), unix.EBUSY) && delay < time.Second; delay *= 2 {
		time.Sleep(delay)
	}
	return err
}

// members lists the processes that are the container's to kill. Those in
// cgroups below its own are, too, unless they end with its init: others there
// belong to a container that is nested in it.
func (c cgroup) members() ([]int, error) {
	if c.PrivatePID {
		return c.pids(cgroups.GetPids)
	}
	return c.pids(cgroups.GetAllPids)
}

// pids lists the processes of every hierarchy: a process may be on its way from
// one to the next, or have been moved in some.
func (c cgroup) pids(list func(path string) ([]int, error)) ([]int, error) {
	var all []int
	for _, path := range c.Paths {
		pids, err := list(path)
		if err != nil && !gone(err) {
			return nil, fmt.Errorf("list processes of cgroup: %w", err)
		}
		all = append(all, pids...)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// refusedForks counts how often the limit of processes has refused one; 0 where that is
// not known.
func (c cgroup) refusedForks() uint64 {
	dir := c.Paths["pids"]
	if cgroups.IsCgroup2UnifiedMode() {
		dir = c.Paths[""]
	}
	n, err := fscommon.GetValueByKey(dir, "pids.events", "max")
	if err != nil {
		return 0
	}
	return n
}

// remove removes the cgroup with all that is left in it. While another
// container is nested in it, that is refused.
func (c cgroup) remove() error {
	if !c.Config.Systemd && c.removeEmpty() {
		return nil
	}
	if err := c.kill(); err != nil {
		return err
	}
	others, err := c.pids(cgroups.GetAllPids)
	if err != nil {
		return err
	}
	if len(others) > 0 {
		return fmt.Errorf("remove cgroup: processes %v of others are in cgroups below it: %w", others, errdefs.ErrFailedPrecondition)
	}
	m, err := c.manager()
	if err != nil {
		return err
	}
	if err := m.Destroy(); err != nil {
		return fmt.Errorf("remove cgroup: %w", err)
	}
	return nil
}

// removeEmpty removes the cgroup as far as nothing is in it, and says whether
// that was all.
func (c cgroup) removeEmpty() bool {
	all := true
	for _, path := range c.Paths {
		if err := unix.Rmdir(path); err != nil && !errors.Is(err, unix.ENOENT) {
			all = false
		}
	}
	return all
}

// thaw ends a freeze of the cgroup itself.
func (c cgroup) thaw() error {
	m, err := c.manager()
	if err != nil {
		return err
	}
	state, err := m.GetFreezerState()
	if err != nil && !gone(err) {
		return fmt.Errorf("read freezer state: %w", err)
	}
	if state != cgroups.Frozen {
		return nil
	}
	if err := m.Freeze(cgroups.Thawed); err != nil && !gone(err) {
		// systemd removes a scope with its last process. To libcontainer that is a cgroup
		// that stays frozen.
		if state, stateErr := m.GetFreezerState(); stateErr == nil && state == cgroups.Undefined {
			return nil
		}
		return fmt.Errorf("thaw cgroup: %w", err)
	}
	return nil
}

// gone tells whether a cgroup's file could not be used because the cgroup was
// removed meanwhile.
func gone(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV)
}
