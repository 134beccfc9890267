// SPDX-License-Identifier: Apache-2.0

package container

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/containerd/cgroups/v3/cgroup2"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/cgroups/systemd"
	"github.com/opencontainers/runc/libcontainer/configs"
	"google.golang.org/protobuf/proto"
)

// Pod is the place of a pod's waiting process, where a pause container would be. What
// Cleanup removes of a container it removes of a pod, too.
type Pod struct {
	cfg      Config
	config   *configs.Config
	stateDir string
}

// NewPod checks what a pod is to have as libcontainer does for a container.
func NewPod(cfg Config) (*Pod, error) {
	config, err := newConfig(cfg)
	if err != nil {
		return nil, err
	}
	config.Cgroups.SkipDevices = true // it has no files
	return &Pod{cfg: cfg, config: config, stateDir: filepath.Join(cfg.Root, cfg.ID)}, nil
}

// Enter makes the cgroup, with a process in it.
func (p *Pod) Enter(pid int) error {
	defer useBus(p.cfg.SystemdCgroup)()
	if err := os.MkdirAll(p.stateDir, 0o711); err != nil {
		return err
	}
	c, err := newCgroup(p.config)
	if err == nil {
		err = c.save(p.stateDir)
	}
	if err != nil {
		return err
	}
	m, err := manager.New(p.config.Cgroups)
	if err != nil {
		return fmt.Errorf("open cgroup: %w", err)
	}
	if err := m.Apply(pid); err != nil {
		return fmt.Errorf("enter cgroup: %w", err)
	}
	if err := m.Set(p.config.Cgroups.Resources); err != nil {
		return fmt.Errorf("set the cgroup's resources: %w", err)
	}
	return nil
}

// CgroupsPath is what CRI names the cgroup of a container by, in a spec, below its pod's:
// in the form of the driver that made the pod's.
func CgroupsPath(parent, id string) string {
	if slice := path.Base(parent); strings.HasSuffix(slice, ".slice") {
		return slice + ":cri-containerd:" + id
	}
	return path.Join(parent, id)
}

// StatsOf is the time and the memory that a cgroup has used, which is named by its path, or
// by its slice. CRI asks for no more of a pod, but all the time.
func StatsOf(parent string) (proto.Message, error) {
	dir := filepath.Clean("/" + parent)
	if strings.HasSuffix(parent, ".slice") && !strings.Contains(strings.TrimPrefix(parent, "/"), "/") {
		var err error
		if dir, err = systemd.ExpandSlice(path.Base(parent)); err != nil {
			return nil, fmt.Errorf("cgroup %s: %w: %w", parent, err, errdefs.ErrInvalidArgument)
		}
	}
	if cgroups.IsCgroup2UnifiedMode() {
		if !exists(filepath.Join(cgroupRoot, dir)) {
			return nil, noCgroup(dir)
		}
		m, err := cgroup2.Load(dir)
		if err != nil {
			return nil, err
		}
		return m.StatFiltered(cgroup2.StatCPU | cgroup2.StatMemory)
	}
	controllers, err := controllers1()
	if err != nil {
		return nil, err
	}
	c := cgroup{Paths: map[string]string{}}
	for _, controller := range controllers {
		switch controller.Name() {
		case cgroup1.Cpuacct, cgroup1.Cpu, cgroup1.Memory:
			if s, ok := controller.(interface{ Path(path string) string }); ok && exists(s.Path(dir)) {
				c.Paths[string(controller.Name())] = s.Path(dir)
			}
		}
	}
	if len(c.Paths) == 0 {
		return nil, noCgroup(dir)
	}
	return c.stats1()
}

func noCgroup(dir string) error {
	return fmt.Errorf("there is no cgroup %s: %w", dir, errdefs.ErrNotFound)
}
