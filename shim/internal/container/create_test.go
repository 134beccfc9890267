// SPDX-License-Identifier: Apache-2.0

package container

import (
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
)

func TestLacking(t *testing.T) {
	memory := &specs.LinuxMemory{Limit: new(int64(1 << 20))}
	for name, c := range map[string]struct {
		controllers []string
		resources   *specs.LinuxResources
		lacks       string
	}{
		"nothing asked":  {nil, nil, ""},
		"no limits":      {nil, &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: new(int64(-1))}, Pids: &specs.LinuxPids{Limit: new(int64(-1))}, CPU: &specs.LinuxCPU{Shares: new(uint64(2))}}, ""},
		"all there":      {[]string{"cpu", "memory"}, &specs.LinuxResources{Memory: memory}, ""},
		"no memory":      {[]string{"cpu", "cpuset"}, &specs.LinuxResources{Memory: memory}, "memory"},
		"no pids":        {[]string{"memory"}, &specs.LinuxResources{Memory: memory, Pids: &specs.LinuxPids{Limit: new(int64(5))}}, "pids"},
		"no time of CPU": {[]string{"cpuset"}, &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: new(int64(1000)), Cpus: "0"}}, "cpu"},
		"no choice":      {[]string{"cpu"}, &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "0"}}, "cpuset"},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, c.lacks, lacking(c.controllers, c.resources)) })
	}
}
