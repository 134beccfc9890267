// SPDX-License-Identifier: Apache-2.0

package task

import (
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/libwasmshim/libwasmshim/shim/internal/stage"
)

// runnerSets are limits that a runner sets itself: libcontainer sets a process's
// before its own work in that process is done, which is written in Go, whose runtime
// takes a gigabyte of addresses. It would end at random for want of a few more.
var runnerSets = map[string]uint32{"RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_DATA": unix.RLIMIT_DATA}

// splitLimits parts limits into those that libcontainer sets and those that a runner
// does.
func splitLimits(limits []specs.POSIXRlimit) (early []specs.POSIXRlimit, late []stage.Rlimit) {
	for _, l := range limits {
		if resource, ok := runnerSets[l.Type]; ok {
			late = append(late, stage.Rlimit{Resource: resource, Soft: l.Soft, Hard: l.Hard})
		} else {
			early = append(early, l)
		}
	}
	return early, late
}

// checkLimits refuses limits under which a runner with these arguments would end
// before it can say why.
func checkLimits(limits []specs.POSIXRlimit, least map[string]uint64, args []string) error {
	for _, l := range limits {
		bytes, ok := least[l.Type]
		if l.Type == "RLIMIT_STACK" {
			for _, a := range args {
				bytes += uint64(len(a)) + 1
			}
		}
		if ok && l.Soft < bytes {
			return fmt.Errorf("process.rlimits: found %s of %d bytes, accepted for a guest: %d or more, which the program that runs it takes: %w", l.Type, l.Soft, bytes, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}
