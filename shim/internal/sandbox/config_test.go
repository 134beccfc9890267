// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"testing"

	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// full is a configuration with all that is read, and more.
var full = &cri.PodSandboxConfig{
	Metadata: &cri.PodSandboxMetadata{Name: "n", Uid: "u", Namespace: "s", Attempt: 1}, Hostname: "h", LogDirectory: "/l",
	DnsConfig:    &cri.DNSConfig{Servers: []string{"1", "2"}, Searches: []string{"3"}, Options: []string{"4", "5"}},
	PortMappings: []*cri.PortMapping{{ContainerPort: 80, HostPort: 8080}},
	Labels:       map[string]string{"a": "b"}, Annotations: map[string]string{"c": "d"},
	Linux: &cri.LinuxPodSandboxConfig{
		CgroupParent: "/p", Sysctls: map[string]string{"net.b": "1", "kernel.a": "2"},
		Overhead: &cri.LinuxContainerResources{CpuShares: 3}, Resources: &cri.LinuxContainerResources{MemoryLimitInBytes: 4},
		SecurityContext: &cri.LinuxSandboxSecurityContext{
			RunAsUser: &cri.Int64Value{Value: 7}, RunAsGroup: &cri.Int64Value{}, SupplementalGroups: []int64{8},
			SelinuxOptions: &cri.SELinuxOption{Level: "s0"}, Seccomp: &cri.SecurityProfile{LocalhostRef: "x"},
			NamespaceOptions: &cri.NamespaceOption{
				Network: cri.NamespaceMode_POD, Pid: cri.NamespaceMode_NODE, Ipc: cri.NamespaceMode_NODE, TargetId: "t",
				UsernsOptions: &cri.UserNamespace{
					Uids: []*cri.IDMapping{{HostId: 9, Length: 10}}, Gids: []*cri.IDMapping{{HostId: 11, Length: 12}},
				},
			},
		},
	},
}

func TestParseConfig(t *testing.T) {
	options, err := typeurl.MarshalAnyToProto(full)
	require.NoError(t, err)
	c, err := parseConfig(options, "/net")
	require.NoError(t, err)
	require.Equal(t, &config{
		files: true, hostname: "h", dns: &dns{servers: []string{"1", "2"}, searches: []string{"3"}, options: []string{"4", "5"}},
		cgroupParent: "/p", sysctls: []sysctl{{"kernel.a", "2"}, {"net.b", "1"}, {"net.ipv4.ip_unprivileged_port_start", "0"}},
		network: "/net", hostPID: true, hostIPC: true, uids: &mapping{host: 9, size: 10}, gids: &mapping{host: 11, size: 12}, uid: 7, gid: 0,
	}, c)

	// Without anything, what proto3 leaves out is what it means.
	options, err = typeurl.MarshalAnyToProto(&cri.PodSandboxConfig{})
	require.NoError(t, err)
	c, err = parseConfig(options, "/net")
	require.NoError(t, err)
	require.Equal(t, &config{
		files: true, network: "/net", uid: nobody, gid: nobody,
		sysctls: []sysctl{{"net.ipv4.ip_unprivileged_port_start", "0"}, {"net.ipv4.ping_group_range", "0 2147483647"}},
	}, c)
}

// A message that is cut off is refused, or says less; with any byte of it changed it does
// no harm.
func TestParseConfigDamaged(t *testing.T) {
	whole, err := proto.Marshal(full)
	require.NoError(t, err)
	try := func(b []byte) {
		_, err := parseConfig(&anypb.Any{TypeUrl: configURL, Value: b}, "/net")
		if err != nil {
			require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
		}
	}
	for i := range whole {
		try(whole[:i])
		for _, change := range []byte{0x01, 0x80, 0xff} {
			damaged := append([]byte(nil), whole...)
			damaged[i] ^= change
			try(damaged)
		}
	}
}

func TestSysctlPath(t *testing.T) {
	for name, want := range map[string]string{
		"net.ipv4.ip_forward": "net/ipv4/ip_forward", "net.ipv4.conf.eth0/100.rp_filter": "net/ipv4/conf/eth0.100/rp_filter",
		"net/ipv4/conf/eth0.100/rp_filter": "net/ipv4/conf/eth0.100/rp_filter", "x": "x",
	} {
		require.Equal(t, want, sysctl{name: name}.path())
	}
}

func TestMessage(t *testing.T) {
	c := &config{hostname: "h", network: "/net", hostIPC: true, uid: 1, gid: 2, sysctls: []sysctl{{"kernel.a", "3"}}}
	require.Equal(t, "/dir\x00/net\x00new\x00up\x001\x002\x00h\x00kernel/a\x003\x00", string(c.message("/dir", "new")))
	c.hostNetwork = true
	require.Contains(t, string(c.message("/dir", "")), "\x00p\x001\x002\x00\x00kernel", "the host's name stays as it is")
}
