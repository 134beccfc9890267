// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"context"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/moby/sys/userns"
)

// Systemd says whether containers' cgroups are made by systemd here, as
// WASMSHIM_CGROUPS=systemd asks for; else shims make them.
var Systemd = os.Getenv("WASMSHIM_CGROUPS") == "systemd"

// NodeDaemon says whether containers of our shims ask for a daemon of the node, as
// WASMSHIM_DAEMON=node asks for. One that has nothing to do is not taken for left behind.
var NodeDaemon = os.Getenv("WASMSHIM_DAEMON") == "node"

// Rootless says whether all this runs in a user namespace, by an ordinary user: see
// TestRootless of test/vm.
var Rootless = userns.RunningInUserNS()

// without says that containers' specs name no cgroup, as WASMSHIM_CGROUPS=none asks for.
var without = os.Getenv("WASMSHIM_CGROUPS") == "none"

// Slice is where the cgroups are that systemd makes.
var Slice = map[bool]string{false: "system.slice", true: "user.slice"}[Rootless]

// RunDir is where shims put what belongs into /run.
func RunDir() string {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); Rootless && dir != "" {
		return dir
	}
	return "/run"
}

// Scope is the unit of a container whose cgroup systemd has made.
func (p *Place) Scope(id string) string { return p.Namespace + "-" + id + ".scope" }

// Cgroup is the path of a container's cgroup in a hierarchy.
func (p *Place) Cgroup(id string) string {
	if Systemd {
		return filepath.Join("/", Slice, p.Scope(id))
	}
	return filepath.Join("/", p.Namespace, id)
}

// withCgroup names the container's cgroup as its driver has it.
func (p *Place) withCgroup() oci.SpecOpts {
	return func(_ context.Context, _ oci.Client, c *containers.Container, s *oci.Spec) error {
		switch {
		case Systemd:
			s.Linux.CgroupsPath = Slice + ":" + p.Namespace + ":" + c.ID
		case without:
			s.Linux.CgroupsPath = ""
		}
		return nil
	}
}

// everyContainers adds to a container's options what holds for all of them here: the
// driver of cgroups, and which daemon serves them.
func everyContainers(runtimeOptions any) any {
	text := ""
	if Systemd {
		text += "SystemdCgroup = true\n"
	}
	if NodeDaemon {
		text += "daemon = 'node'\n"
	}
	if text == "" {
		return runtimeOptions
	}
	switch o := runtimeOptions.(type) {
	case nil:
		if !NodeDaemon {
			return &options.Options{SystemdCgroup: true}
		}
		return &runtimeoptions.Options{ConfigBody: []byte(text)}
	case *runtimeoptions.Options:
		if o.ConfigPath == "" {
			return &runtimeoptions.Options{TypeUrl: o.TypeUrl, ConfigBody: append([]byte(text), o.ConfigBody...)}
		}
	}
	return runtimeOptions // which says it itself
}

// scopes are the named daemon's units, failed ones too, which systemd keeps a file
// of as long as it knows them.
func scopes(name string) []string {
	files, _ := filepath.Glob(filepath.Join(RunDir(), "systemd/transient", name+"-*"))
	return files
}
