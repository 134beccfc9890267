// SPDX-License-Identifier: Apache-2.0

package container

import (
	"testing"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
)

// What an engine is told of limits is what the container was created with, and then what
// updates have changed.
func TestLimits(t *testing.T) {
	memory := func(n int64) *specs.LinuxResources {
		return &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &n}}
	}
	quota := func(n int64) *specs.LinuxResources {
		return &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: &n}}
	}
	require.Equal(t, Limits{}, LimitsOf(&specs.Spec{}))
	require.Equal(t, Limits{Memory: 5}, LimitsOf(&specs.Spec{Linux: &specs.Linux{Resources: memory(5)}}))
	now := cgroups.Resources{}
	for _, step := range []struct {
		name string
		r    *specs.LinuxResources
		want Limits
	}{
		{"nothing", &specs.LinuxResources{}, Limits{}},
		{"memory", memory(1 << 20), Limits{Memory: 1 << 20}},
		{"0 is nothing", memory(0), Limits{Memory: 1 << 20}},
		{"quota of the kernel's period", quota(50_000), Limits{1 << 20, 500}},
		{"period", &specs.LinuxResources{CPU: &specs.LinuxCPU{Period: new(uint64(10_000))}}, Limits{1 << 20, 5000}},
		{"quota of this period", quota(1_000), Limits{1 << 20, 100}},
		{"no quota", quota(-1), Limits{Memory: 1 << 20}},
		{"no memory limit", memory(-1), Limits{}},
	} {
		now = *merge(now, step.r)
		require.Equal(t, step.want, limitsOf(&now), step.name)
	}
}
