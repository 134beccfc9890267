// SPDX-License-Identifier: Apache-2.0

package task

import (
	"path"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// guestProc keeps a guest, which has the container's root directory open, from
// reaching through /proc into the process that runs it: by writing to
// /proc/self/mem it would be free of the engine. mode is the runtime's option
// guest_proc. It returns the spec to be used, the paths that the runner is to
// hide from the guest, and whether it must.
//
//	full      nothing is done
//	readonly  /proc is mounted read-only: no file there can be opened for writing
//	hidden    no file there can be opened at all, by Landlock
//	auto      hidden where the root file system is read-only, else readonly
//
// Landlock allows hierarchies, so that hiding /proc takes away the right to make
// something directly in "/" as well. With a read-only root nobody misses it.
func guestProc(spec *specs.Spec, mode string) (_ *specs.Spec, hidden []string, must bool) {
	if mode == "full" {
		return spec, nil, false
	}
	s := *spec
	s.Mounts = slices.Clone(spec.Mounts)
	var procs []string
	for i, m := range s.Mounts {
		// What is bound in from the host is what somebody wanted as it is.
		if m.Type != "proc" {
			continue
		}
		procs = append(procs, path.Clean("/"+m.Destination))
		s.Mounts[i].Options = append(slices.Clone(m.Options), "ro")
	}
	if mode == "hidden" || (mode != "readonly" && spec.Root.Readonly) {
		return &s, procs, mode == "hidden"
	}
	return &s, nil, false
}
