// SPDX-License-Identifier: Apache-2.0

package container

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/containerd/cgroups/v3/cgroup2"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/cgroups"
	"google.golang.org/protobuf/proto"
)

// cgroupRoot is where the hierarchies are mounted.
const cgroupRoot = "/sys/fs/cgroup"

// Stats are what the container's cgroup counts: the io.containerd.cgroups.v1.Metrics
// or .v2.Metrics that containerd's clients read. They are there from Create to Delete,
// as long as the cgroup is; then the error is errdefs.ErrNotFound.
func (c *Container) Stats() (proto.Message, error) {
	metrics, err := c.cgroup.stats()
	switch {
	case errors.Is(err, cgroup1.ErrCgroupDeleted), err != nil && gone(err):
		return nil, fmt.Errorf("cgroup of container %s is gone: %w", c.id, errdefs.ErrNotFound)
	case err != nil:
		return nil, fmt.Errorf("read the cgroup of container %s: %w", c.id, err)
	}
	return metrics, nil
}

func (c cgroup) stats() (proto.Message, error) {
	if unified := c.unified(); unified != "" {
		m, err := cgroup2.Load(strings.TrimPrefix(unified, cgroupRoot))
		if err != nil {
			return nil, err
		}
		return m.Stat()
	}
	cg, err := cgroup1.Load(c.inHierarchy)
	if err != nil {
		return nil, err
	}
	return cg.Stat(cgroup1.IgnoreNotExist)
}

// inHierarchy is the cgroup's path in a hierarchy of version 1.
func (c cgroup) inHierarchy(controller cgroup1.Name) (string, error) {
	path, ok := strings.CutPrefix(c.Paths[string(controller)], cgroupRoot+"/")
	if !ok {
		return "", cgroup1.ErrControllerNotActive
	}
	_, path, _ = strings.Cut(path, "/")
	return filepath.Join("/", path), nil
}

// unified is the cgroup's directory where version 2 counts and limits everything; empty
// elsewhere, also where both versions are in use.
func (c cgroup) unified() string {
	if !cgroups.IsCgroup2UnifiedMode() {
		return ""
	}
	return c.Paths[""]
}
