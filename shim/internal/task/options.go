// SPDX-License-Identifier: Apache-2.0

package task

import (
	"fmt"
	"strings"

	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// runtimeOptions are those of runc's options that mean something here.
type runtimeOptions struct{ *options.Options }

// parseOptions reads the runtime's options. What would change how a container
// runs and is not supported is refused, never ignored.
func parseOptions(a *anypb.Any) (runtimeOptions, error) {
	o := runtimeOptions{&options.Options{}}
	if a == nil || a.TypeUrl == "" {
		return o, nil
	}
	if !a.MessageIs(o.Options) && a.TypeUrl != string(o.ProtoReflect().Descriptor().FullName()) {
		if len(a.Value) == 0 {
			return o, nil
		}
		return o, fmt.Errorf("runtime options of type %s are not supported; accepted: %s: %w",
			a.TypeUrl, o.ProtoReflect().Descriptor().FullName(), errdefs.ErrNotImplemented)
	}
	if err := proto.Unmarshal(a.Value, o.Options); err != nil {
		return o, fmt.Errorf("parse runtime options: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	for name, set := range map[string]bool{
		"BinaryName":    o.BinaryName != "",
		"Root":          o.Root != "",
		"CriuImagePath": o.CriuImagePath != "",
		"CriuWorkPath":  o.CriuWorkPath != "",
		"IoUid":         o.IoUid != 0,
		"IoGid":         o.IoGid != 0,
	} {
		if set {
			return o, fmt.Errorf("runtime option %s is not supported by this shim; remove it from the runtime's options: %w", name, errdefs.ErrNotImplemented)
		}
	}
	return o, nil
}

// systemdCgroup says whether systemd's cgroup driver is to be used: by option,
// or because the path has that driver's form, slice:prefix:name.
func (o runtimeOptions) systemdCgroup(spec *specs.Spec) bool {
	return o.SystemdCgroup || systemdPath(spec)
}

func systemdPath(spec *specs.Spec) bool {
	if spec.Linux == nil {
		return false
	}
	p := spec.Linux.CgroupsPath
	return !strings.HasPrefix(p, "/") && strings.Count(p, ":") == 2
}
