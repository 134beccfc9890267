// SPDX-License-Identifier: Apache-2.0

package container

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync"

	"github.com/containerd/cgroups/v3/cgroup1"
	stats1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	"github.com/containerd/cgroups/v3/cgroup2"
	stats2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/opencontainers/cgroups"
	"google.golang.org/protobuf/proto"
)

// cgroupRoot is where the one hierarchy of version 2 is mounted.
const cgroupRoot = "/sys/fs/cgroup"

// Stats is what the container's cgroup has used, in the message that containerd reads
// for this version of cgroups. Once the cgroup is gone, its count of processes that
// were killed for want of memory is all that there is.
func (c *Container) Stats() (proto.Message, error) {
	c.checkOOM()
	c.oom.mu.Lock()
	kills := c.oom.total
	c.oom.mu.Unlock()
	if cgroups.IsCgroup2UnifiedMode() {
		m, err := c.cgroup.stats2()
		if err != nil {
			return nil, fmt.Errorf("statistics of container %s: %w", c.id, err)
		}
		if m.MemoryEvents == nil {
			m.MemoryEvents = &stats2.MemoryEvents{}
		}
		m.MemoryEvents.OomKill = max(m.MemoryEvents.OomKill, kills)
		return m, nil
	}
	m, err := c.cgroup.stats1()
	if err != nil {
		return nil, fmt.Errorf("statistics of container %s: %w", c.id, err)
	}
	// As in version 2, with those of the cgroups below.
	if m.MemoryOomControl == nil {
		m.MemoryOomControl = &stats1.MemoryOomControl{}
	}
	m.MemoryOomControl.OomKill = max(m.MemoryOomControl.OomKill, kills)
	return m, nil
}

func (c cgroup) stats2() (*stats2.Metrics, error) {
	m, err := cgroup2.Load(strings.TrimPrefix(c.Paths[""], cgroupRoot))
	if err != nil {
		return nil, err
	}
	all, err := m.Stat()
	if gone(err) {
		return &stats2.Metrics{}, nil
	}
	return all, err
}

// controllers1 are those of version 1 that this machine has.
var controllers1 = sync.OnceValues(cgroup1.Default)

func (c cgroup) stats1() (*stats1.Metrics, error) {
	controllers, err := controllers1()
	if err != nil {
		return nil, err
	}
	m := &stats1.Metrics{CPU: &stats1.CPUStat{Throttling: &stats1.Throttle{}, Usage: &stats1.CPUUsage{}}}
	for _, controller := range controllers {
		s, ok := controller.(interface {
			Path(path string) string
			Stat(path string, m *stats1.Metrics) error
		})
		dir := c.Paths[string(controller.Name())]
		if !ok || dir == "" {
			continue
		}
		path, err := filepath.Rel(s.Path(""), dir)
		if err == nil {
			err = s.Stat(path, m)
		}
		// A file that this kernel does not have, or a cgroup that is gone.
		if err != nil && !gone(err) {
			return nil, err
		}
	}
	return m, nil
}
