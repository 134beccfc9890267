// SPDX-License-Identifier: Apache-2.0

package container

import (
	"cmp"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Limits are what a container may have of memory, in bytes, and of CPU time, in
// thousandths of a CPU; 0 is no limit.
type Limits struct{ Memory, CPU uint64 }

// LimitsOf are the limits that a spec sets.
func LimitsOf(spec *specs.Spec) Limits {
	if spec.Linux == nil || spec.Linux.Resources == nil {
		return Limits{}
	}
	return limitsOf(merge(cgroups.Resources{}, spec.Linux.Resources))
}

func limitsOf(r *cgroups.Resources) (l Limits) {
	const kernelPeriod = 100_000
	l.Memory = uint64(max(0, r.Memory))
	if r.CpuQuota > 0 {
		l.CPU = uint64(r.CpuQuota) * 1000 / cmp.Or(r.CpuPeriod, kernelPeriod)
	}
	return l
}
