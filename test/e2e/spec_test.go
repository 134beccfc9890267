// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	profile "github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// specRow is one thing that a spec can ask for.
type specRow struct {
	name   string
	change func(s *oci.Spec)
	look   string   // what busybox's sh in the container is asked, of init as /proc/1
	cgroup []string // CONTROLLER/FILE of the container's cgroup (version 1)
	// want is in what runc's container says: the row sees the change. It is empty where
	// the host decides whether there is such a thing.
	want string
	// late is that only the kernel or the container's init can refuse it: what they say
	// comes as text, which no code is made of.
	late bool
	// guest are pairs of what a native container says, and what a guest's says
	// instead; why is the reason.
	guest []string
	why   string
}

// fails is what is said of a container that cannot be created or started.
const fails = "fails"

func ofProcess(change func(p *specs.Process)) func(*oci.Spec) {
	return func(s *oci.Spec) { change(s.Process) }
}

func ofLinux(change func(l *specs.Linux)) func(*oci.Spec) {
	return func(s *oci.Spec) { change(s.Linux) }
}

func resources(r specs.LinuxResources) func(*oci.Spec) {
	return func(s *oci.Spec) {
		r.Devices = s.Linux.Resources.Devices
		s.Linux.Resources = &r
	}
}

func memory(m specs.LinuxMemory) func(*oci.Spec) {
	return resources(specs.LinuxResources{Memory: &m})
}

func cpu(c specs.LinuxCPU) func(*oci.Spec) { return resources(specs.LinuxResources{CPU: &c}) }

func blockIO(b specs.LinuxBlockIO) func(*oci.Spec) {
	return resources(specs.LinuxResources{BlockIO: &b})
}

func mounted(m ...specs.Mount) func(*oci.Spec) {
	return func(s *oci.Spec) { s.Mounts = append(s.Mounts, m...) }
}

// without leaves out a namespace: the container has the host's.
func without(kind specs.LinuxNamespaceType) func(*oci.Spec) {
	return ofLinux(func(l *specs.Linux) {
		l.Namespaces = slices.DeleteFunc(l.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind })
	})
}

// namespace gives a container a namespace of a kind: a new one, or the one of a path.
func namespace(kind specs.LinuxNamespaceType, path string) func(*oci.Spec) {
	return ofLinux(func(l *specs.Linux) {
		without(kind)(&oci.Spec{Linux: l})
		l.Namespaces = append(l.Namespaces, specs.LinuxNamespace{Type: kind, Path: path})
	})
}

// changes makes several of them.
func changes(all ...func(*oci.Spec)) func(*oci.Spec) {
	return func(s *oci.Spec) {
		for _, change := range all {
			change(s)
		}
	}
}

// lookNamespaces says of each namespace of init's whether it is the host's.
func lookNamespaces(t *testing.T) string {
	var script strings.Builder
	for _, kind := range []string{"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"} {
		host, err := os.Readlink("/proc/self/ns/" + kind)
		require.NoError(t, err)
		fmt.Fprintf(&script, "[ $(readlink /proc/self/ns/%[1]s) = '%[2]s' ] && echo %[1]s: the host\\'s || echo %[1]s: own\n", kind, host)
	}
	return script.String()
}

// A block device of this host, whatever it is.
func blockDevice(t *testing.T) specs.LinuxBlockIODevice {
	devices, err := filepath.Glob("/sys/block/*/dev")
	require.NoError(t, err)
	require.NotEmpty(t, devices, "a block device, for limits on it")
	text, err := os.ReadFile(devices[0])
	require.NoError(t, err)
	var d specs.LinuxBlockIODevice
	_, err = fmt.Sscanf(string(text), "%d:%d", &d.Major, &d.Minor)
	require.NoError(t, err)
	return d
}

const (
	lookStatus = "grep -E '^(Uid|Gid|Groups|Umask|Cap...|NoNewPrivs|Seccomp):' /proc/1/status"
	lookMount  = `awk '$5 == "/mnt" { print $6, $7 ~ /:/ ? substr($7, 1, index($7, ":")) : "" }' /proc/1/mountinfo; grep ' /mnt ' /proc/mounts; `
	lookCgroup = "cat /proc/1/cgroup"
)

func specRows(t *testing.T) []specRow {
	host := t.TempDir()
	for dir := host; dir != "/" && strings.HasPrefix(dir, os.TempDir()+"/"); dir = filepath.Dir(dir) {
		require.NoError(t, os.Chmod(dir, 0o755))
	}
	require.NoError(t, os.WriteFile(filepath.Join(host, "file"), []byte("of the host\n"), 0o644))
	block := blockDevice(t)
	blockName := fmt.Sprintf("%d:%d", block.Major, block.Minor)
	throttle := func(rate uint64) []specs.LinuxThrottleDevice {
		return []specs.LinuxThrottleDevice{{LinuxBlockIODevice: block, Rate: rate}}
	}
	namespaces := lookNamespaces(t)
	self := fmt.Sprintf("/proc/%d/ns/", os.Getpid())
	devNull := specs.LinuxDevice{Path: "/dev/mine", Type: "c", Major: 1, Minor: 3, FileMode: new(os.FileMode(0o640)), UID: new(uint32(7)), GID: new(uint32(8))}
	caps := func(c specs.LinuxCapabilities) func(*oci.Spec) {
		return ofProcess(func(p *specs.Process) { p.Capabilities = &c })
	}
	one, two := []string{"CAP_KILL"}, []string{"CAP_KILL", "CAP_NET_RAW"}
	mkdir := specs.LinuxSyscall{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno, ErrnoRet: new(uint(unix.EXDEV))}
	seccomp := func(p specs.LinuxSeccomp) func(*oci.Spec) {
		return ofLinux(func(l *specs.Linux) {
			p.Architectures = []specs.Arch{specs.ArchX86_64}
			l.Seccomp = &p
		})
	}
	tryMkdir := "mkdir /tmp-made 2>&1; grep ^Seccomp: /proc/1/status"
	var devices atomic.Int32
	return []specRow{
		{name: "ociVersion", change: func(s *oci.Spec) { s.Version = "9.9.9" }, look: "echo runs", want: "runs"},
		{name: "process.user", change: ofProcess(func(p *specs.Process) { p.User = specs.User{UID: 1000, GID: 1001} }), look: lookStatus, want: "Uid:\t1000"},
		{name: "process.user.umask", change: ofProcess(func(p *specs.Process) { p.User.Umask = new(uint32(0o27)) }), look: lookStatus, want: "Umask:\t0027"},
		{name: "process.user.additionalGids", change: ofProcess(func(p *specs.Process) { p.User.AdditionalGids = []uint32{7, 8} }), look: lookStatus, want: "Groups:\t7 8"},
		{name: "process.cwd", change: ofProcess(func(p *specs.Process) { p.Cwd = "/work" }), look: "pwd; readlink /proc/1/cwd", want: "/work\n/work"},
		{name: "process.cwd is made", change: ofProcess(func(p *specs.Process) { p.Cwd = "/not/there" }), look: "pwd; stat -c '%a %u' /not/there", want: "/not/there"},
		{name: "process.env", change: ofProcess(func(p *specs.Process) { p.Env = []string{"PATH=/bin", "A=1", "A=2"} }), look: "env | sort", want: "A=2"},
		{name: "process.capabilities.bounding", change: caps(specs.LinuxCapabilities{Bounding: two}), look: lookStatus, want: "CapBnd:\t0000000000002020"},
		{name: "process.capabilities.effective", change: caps(specs.LinuxCapabilities{Bounding: two, Permitted: two, Effective: one}), look: lookStatus, want: "CapBnd:\t0000000000002020"},
		{name: "process.capabilities.permitted", change: caps(specs.LinuxCapabilities{Bounding: two, Permitted: one, Effective: one}), look: lookStatus, want: "CapBnd:\t0000000000002020"},
		{name: "process.capabilities.inheritable", change: caps(specs.LinuxCapabilities{Bounding: two, Permitted: two, Inheritable: one}), look: lookStatus, want: "CapInh:\t0000000000000020"},
		{name: "process.capabilities.ambient", change: changes(ofProcess(func(p *specs.Process) { p.User = specs.User{UID: 1000, GID: 1000} }),
			caps(specs.LinuxCapabilities{Bounding: two, Permitted: two, Effective: two, Inheritable: two, Ambient: one})), look: lookStatus, want: "CapAmb:\t0000000000000020"},
		{name: "process.rlimits", change: ofProcess(func(p *specs.Process) {
			p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 777, Soft: 666}, {Type: "RLIMIT_CORE", Hard: 5, Soft: 4}, {Type: "RLIMIT_MEMLOCK", Hard: 1 << 20, Soft: 1 << 19}}
		}), look: "cat /proc/1/limits; ulimit -a", want: "666"},
		{name: "process.rlimits of no kind", change: ofProcess(func(p *specs.Process) { p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOPE"}} }), want: fails},
		{name: "process.noNewPrivileges", change: ofProcess(func(p *specs.Process) { p.NoNewPrivileges = false }), look: lookStatus, want: "NoNewPrivs:\t0"},
		{name: "process.apparmorProfile", late: true, change: ofProcess(func(p *specs.Process) { p.ApparmorProfile = "no-such-profile" }), want: fails},
		{name: "process.oomScoreAdj", change: ofProcess(func(p *specs.Process) { p.OOMScoreAdj = new(321) }), look: "cat /proc/1/oom_score_adj /proc/self/oom_score_adj", want: "321\n321"},
		{
			name: "process.scheduler", change: ofProcess(func(p *specs.Process) { p.Scheduler = &specs.Scheduler{Policy: specs.SchedBatch, Nice: 5} }),
			look: "for p in 1 self; do sed 's/.*) //' /proc/$p/stat | awk '{ print \"nice\", $17, \"policy\", $39 }'; done", want: "nice 5 policy 3",
		},
		{name: "process.scheduler.priority, flags", late: true, change: ofProcess(func(p *specs.Process) {
			p.Scheduler = &specs.Scheduler{Policy: specs.SchedFIFO, Priority: 3, Flags: []specs.LinuxSchedulerFlag{specs.SchedFlagResetOnFork}}
		}), look: "for p in 1 self; do sed 's/.*) //' /proc/$p/stat | awk '{ print \"nice\", $17, \"priority\", $38, \"policy\", $39 }'; done"},
		{name: "process.scheduler.runtime, deadline, period", late: true, change: ofProcess(func(p *specs.Process) {
			// Without the flag it could make no threads, which a guest's engine needs.
			p.Scheduler = &specs.Scheduler{Policy: specs.SchedDeadline, Flags: []specs.LinuxSchedulerFlag{specs.SchedFlagResetOnFork}, Runtime: 10_000_000, Deadline: 20_000_000, Period: 30_000_000}
		}), look: "for p in 1 self; do sed 's/.*) //' /proc/$p/stat | awk '{ print \"nice\", $17, \"priority\", $38, \"policy\", $39 }'; done"},
		{name: "process.scheduler of no kind", late: true, change: ofProcess(func(p *specs.Process) { p.Scheduler = &specs.Scheduler{Policy: "SCHED_NOPE"} }), want: fails},
		{name: "process.selinuxLabel", change: ofProcess(func(p *specs.Process) { p.SelinuxLabel = "system_u:system_r:container_t:s0" }), want: fails},
		{name: "process.ioPriority", change: ofProcess(func(p *specs.Process) {
			p.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 6}
		}), look: "ionice -p 1; ionice -p $$", want: "prio 6"},
		{
			name: "process.execCPUAffinity", change: ofProcess(func(p *specs.Process) { p.ExecCPUAffinity = &specs.CPUAffinity{Initial: "0", Final: "1"} }),
			look: "grep Cpus_allowed_list /proc/self/status /proc/1/status", want: "/proc/self/status:Cpus_allowed_list:\t1\n",
		},

		{name: "root.readonly", change: func(s *oci.Spec) { s.Root.Readonly = true }, look: "touch /made 2>&1; awk '$5 == \"/\" { print $6 }' /proc/1/mountinfo", want: "Read-only file system"},
		{name: "root.path is not there", change: func(s *oci.Spec) { s.Root.Path = filepath.Join(host, "nope") }, want: fails},
		{name: "hostname", change: func(s *oci.Spec) { s.Hostname = "mine" }, look: "hostname", want: "mine"},
		{name: "domainname", change: func(s *oci.Spec) { s.Domainname = "example.org" }, look: "cat /proc/sys/kernel/domainname", want: "example.org"},
		{name: "annotations", change: func(s *oci.Spec) {
			s.Annotations = map[string]string{"org.example.one": "1"}
			s.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", `grep -o '"annotations":{[^}]*}' >/said`}}}}
		}, look: "cat /said", want: `"org.example.one":"1"`},
		{name: "hooks.timeout", late: true, change: func(s *oci.Spec) {
			s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sleep", Args: []string{"sleep", "100"}, Timeout: new(1)}}}
		}, want: fails},

		{name: "mounts: tmpfs", change: mounted(tmpfs("/mnt", "size=64k", "nosuid", "noexec", "nodev")), look: lookMount, want: "nosuid,nodev,noexec"},
		{name: "mounts: read-only bind", change: mounted(specs.Mount{Destination: "/mnt", Source: host, Type: "bind", Options: []string{"rbind", "ro", "noexec"}}), look: lookMount + "cat /mnt/file; touch /mnt/made 2>&1", want: "of the host"},
		{name: "mounts: bind of a file", change: mounted(bind(filepath.Join(host, "file"), "/mnt")), look: "cat /mnt", want: "of the host"},
		{name: "mounts: recursive options", change: mounted(specs.Mount{Destination: "/mnt", Source: host, Type: "bind", Options: []string{"rbind", "rro", "rnosuid"}}), look: lookMount, want: "ro,nosuid"},
		{name: "mounts: propagation", change: mounted(specs.Mount{Destination: "/mnt", Source: host, Type: "bind", Options: []string{"rbind", "rshared"}}), look: lookMount, want: "shared"},
		{name: "mounts: tmpcopyup", change: mounted(tmpfs("/etc", "tmpcopyup")), look: "ls /etc; grep ' /etc ' /proc/mounts", want: "passwd"},
		{name: "mounts: cgroup", change: mounted(specs.Mount{Destination: "/mnt", Type: "cgroup", Source: "cgroup", Options: []string{"ro"}}), look: "ls /mnt; cat /mnt/pids/pids.max", want: "memory"},
		{
			name: "mounts: the usual ones", change: func(*oci.Spec) {}, look: "sed 's/lowerdir.*//; s/size=[0-9]*k//' /proc/mounts", want: "mqueue",
			guest: []string{"proc /proc proc rw,", "proc /proc proc ro,"}, why: "a guest has the root directory open: guest_proc",
		},
		{
			name: "mounts.uidMappings, gidMappings", change: mounted(specs.Mount{
				Destination: "/mnt", Source: host, Type: "bind", Options: []string{"rbind"},
				UIDMappings: []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1000, Size: 10}}, GIDMappings: []specs.LinuxIDMapping{{ContainerID: 0, HostID: 2000, Size: 10}},
			}),
			look: "stat -c '%u %g' /mnt/file", want: "1000 2000",
		},
		{name: "mounts: of no kind", late: true, change: mounted(specs.Mount{Destination: "/mnt", Type: "nope", Source: "nope"}), want: fails},
		{name: "mounts: source is not there", change: mounted(bind(filepath.Join(host, "nope"), "/mnt")), want: fails},

		{name: "linux.uidMappings, gidMappings", change: changes(namespace(specs.UserNamespace, ""), ofLinux(func(l *specs.Linux) {
			l.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 0, Size: 100}, {ContainerID: 100, HostID: 100100, Size: 1000}}
			l.GIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 0, Size: 200}}
		})), look: "cat /proc/1/uid_map /proc/1/gid_map; ls -ln /dev/null /etc/passwd; " + namespaces, want: "user: own"},
		{name: "linux.uidMappings without a namespace", change: ofLinux(func(l *specs.Linux) {
			l.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1000, Size: 100}}
		}), look: "cat /proc/1/uid_map", want: "4294967295"},
		{name: "linux.sysctl", change: ofLinux(func(l *specs.Linux) { l.Sysctl = map[string]string{"net.ipv4.ip_unprivileged_port_start": "77"} }), look: "cat /proc/sys/net/ipv4/ip_unprivileged_port_start", want: "77"},
		{name: "linux.sysctl of the host", change: ofLinux(func(l *specs.Linux) { l.Sysctl = map[string]string{"kernel.pid_max": "77777"} }), want: fails},
		{name: "linux.cgroupsPath", change: ofLinux(func(l *specs.Linux) { l.CgroupsPath += "-own" }), look: lookCgroup, want: "-own"},
		{name: "linux.cgroupsPath is the root", change: ofLinux(func(l *specs.Linux) { l.CgroupsPath = "/.." }), look: lookCgroup, want: fails},

		{name: "linux.namespaces", change: func(*oci.Spec) {}, look: namespaces, want: "net: own"},
		{name: "linux.namespaces: cgroup", change: namespace(specs.CgroupNamespace, ""), look: namespaces + lookCgroup, want: "cgroup: own"},
		{name: "linux.namespaces: the host's network", change: without(specs.NetworkNamespace), look: namespaces, want: "net: the host's"},
		{name: "linux.namespaces: the host's ipc", change: without(specs.IPCNamespace), look: namespaces, want: "ipc: the host's"},
		{name: "linux.namespaces: the host's uts", change: changes(without(specs.UTSNamespace), func(s *oci.Spec) { s.Hostname = "" }), look: namespaces, want: "uts: the host's"},
		{name: "linux.namespaces: the host's pid", change: without(specs.PIDNamespace), look: namespaces, want: "pid: the host's"},
		{name: "linux.namespaces.path: network", change: namespace(specs.NetworkNamespace, self+"net"), look: namespaces, want: "net: the host's"},
		{name: "linux.namespaces.path: ipc", change: namespace(specs.IPCNamespace, self+"ipc"), look: namespaces, want: "ipc: the host's"},
		{name: "linux.namespaces.path: of another kind", late: true, change: namespace(specs.IPCNamespace, self+"uts"), want: fails},
		{name: "linux.namespaces.path is not there", late: true, change: namespace(specs.IPCNamespace, filepath.Join(host, "nope")), want: fails},
		{
			name: "linux.timeOffsets", change: changes(namespace(specs.TimeNamespace, ""), ofLinux(func(l *specs.Linux) {
				l.TimeOffsets = map[string]specs.LinuxTimeOffset{"monotonic": {Secs: 1000}, "boottime": {Secs: 100000, Nanosecs: 5}}
			})),
			look: namespaces + "cat /proc/1/timens_offsets; [ $(cut -d. -f1 /proc/uptime) -gt 100000 ] && echo shifted", want: "shifted",
		},
		{name: "linux.timeOffsets without a namespace", change: ofLinux(func(l *specs.Linux) { l.TimeOffsets = map[string]specs.LinuxTimeOffset{"monotonic": {Secs: 1000}} }), want: fails},
		{name: "linux.devices", change: ofLinux(func(l *specs.Linux) { l.Devices = append(l.Devices, devNull) }), look: "stat -c '%A %u %g %t:%T' /dev/mine", want: "crw-r----- 7 8 1:3"},
		{name: "linux.netDevices", change: func(s *oci.Spec) {
			name := fmt.Sprintf("specdev%d", devices.Add(1))
			// It ends with the container's namespace, and its peer with it.
			assert.NoError(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "p"}))
			s.Linux.NetDevices = map[string]specs.LinuxNetDevice{name: {Name: "mine0"}}
		}, look: "ls /sys/class/net", want: "mine0"},
		{name: "linux.netDevices is not there", late: true, change: ofLinux(func(l *specs.Linux) { l.NetDevices = map[string]specs.LinuxNetDevice{"nosuchdev0": {}} }), want: fails},
		{name: "linux.seccomp.defaultAction", change: seccomp(specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{mkdir}}), look: tryMkdir, want: "Invalid cross-device link\nSeccomp:\t2"},
		{name: "linux.seccomp.defaultErrnoRet", change: func(s *oci.Spec) {
			s.Linux.Seccomp = profile.DefaultProfile(s)
			s.Linux.Seccomp.DefaultErrnoRet = new(uint(unix.EXDEV))
		}, look: "mount -t tmpfs none /tmp 2>&1", want: "Invalid cross-device link"},
		{name: "linux.seccomp.syscalls.args", change: seccomp(specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{
			Names: []string{"kill"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Index: 1, Value: 0xff, ValueTwo: 5, Op: specs.OpMaskedEqual}},
		}}}), look: "trap '' 5 6; kill -5 $$ 2>/dev/null || echo denied; kill -6 $$ && echo passed", want: "denied\npassed"},
		{name: "linux.seccomp.flags", change: seccomp(specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagLog}, Syscalls: []specs.LinuxSyscall{mkdir}}), look: tryMkdir, want: "Seccomp:\t2"},
		{name: "linux.seccomp.flags of no kind", change: seccomp(specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{"NOPE"}, Syscalls: []specs.LinuxSyscall{mkdir}}), want: fails},
		{name: "linux.seccomp.listenerPath", late: true, change: seccomp(specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerPath: filepath.Join(host, "nope"), ListenerMetadata: "x", Syscalls: []specs.LinuxSyscall{{
			Names: []string{"swapon"}, Action: specs.ActNotify,
		}}}), want: fails},
		{name: "linux.rootfsPropagation", change: ofLinux(func(l *specs.Linux) { l.RootfsPropagation = "shared" }), look: "awk '$5 == \"/\" { print substr($7, 1, 7) }' /proc/1/mountinfo", want: "shared:"},
		{name: "linux.rootfsPropagation of no kind", change: ofLinux(func(l *specs.Linux) { l.RootfsPropagation = "nope" }), want: fails},
		{name: "linux.maskedPaths", change: ofLinux(func(l *specs.Linux) { l.MaskedPaths = []string{"/etc/passwd", "/work", "/nope"} }), look: "wc -c </etc/passwd; ls -A /work; grep -E ' /(etc|work)' /proc/mounts | cut -d' ' -f 2-3", want: "0\n"},
		{name: "linux.readonlyPaths", change: ofLinux(func(l *specs.Linux) { l.ReadonlyPaths = []string{"/etc", "/nope"} }), look: "touch /etc/made 2>&1; touch /work/made 2>&1", want: "Read-only file system"},
		{name: "linux.mountLabel", late: true, change: ofLinux(func(l *specs.Linux) { l.MountLabel = "system_u:object_r:container_file_t:s0" }), look: "grep -c context= /proc/mounts", want: ""},
		{name: "linux.intelRdt", change: ofLinux(func(l *specs.Linux) {
			l.IntelRdt = &specs.LinuxIntelRdt{ClosID: "c", Schemata: []string{"L3:0=f"}, L3CacheSchema: "L3:0=f", MemBwSchema: "MB:0=20", EnableMonitoring: true}
		}), want: fails},
		{name: "linux.memoryPolicy", change: ofLinux(func(l *specs.Linux) {
			l.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "0", Flags: []specs.MemoryPolicyFlagType{specs.MpolFStaticNodes}}
		}), look: "cut -d' ' -f2 /proc/1/numa_maps | sort -u", want: "bind"},
		{name: "linux.personality", change: ofLinux(func(l *specs.Linux) {
			l.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux32, Flags: []specs.LinuxPersonalityFlag{"ADDR_NO_RANDOMIZE"}}
		}), look: "uname -m; cat /proc/1/personality", want: "i686"},
		{name: "linux.personality of no kind", change: ofLinux(func(l *specs.Linux) { l.Personality = &specs.LinuxPersonality{Domain: "NOPE"} }), want: fails},

		{name: "linux.resources.devices", change: ofLinux(func(l *specs.Linux) {
			l.Resources.Devices = append(l.Resources.Devices, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: new(int64(77)), Minor: new(int64(5)), Access: "rw"})
		}), cgroup: []string{"devices/devices.list"}, want: "c 77:5 rw"},
		{name: "linux.resources.memory.limit, swap", change: memory(specs.LinuxMemory{Limit: new(int64(100 << 20)), Swap: new(int64(200 << 20))}), cgroup: []string{"memory/memory.limit_in_bytes", "memory/memory.memsw.limit_in_bytes"}, want: "104857600\n209715200"},
		{name: "linux.resources.memory.limit", change: memory(specs.LinuxMemory{Limit: new(int64(100 << 20))}), cgroup: []string{"memory/memory.limit_in_bytes"}, want: "104857600"},
		{name: "linux.resources.memory.reservation", change: memory(specs.LinuxMemory{Reservation: new(int64(50 << 20))}), cgroup: []string{"memory/memory.soft_limit_in_bytes"}, want: "52428800"},
		{name: "linux.resources.memory.kernel", change: memory(specs.LinuxMemory{Kernel: new(int64(50 << 20))}), cgroup: []string{"memory/memory.limit_in_bytes"}, want: "9223372036854771712"},
		{name: "linux.resources.memory.kernelTCP", change: memory(specs.LinuxMemory{KernelTCP: new(int64(50 << 20))}), cgroup: []string{"memory/memory.kmem.tcp.limit_in_bytes"}, want: "9223372036854771712"},
		{name: "linux.resources.memory.swappiness", change: memory(specs.LinuxMemory{Swappiness: new(uint64(33))}), cgroup: []string{"memory/memory.swappiness"}, want: "33"},
		{name: "linux.resources.memory.disableOOMKiller", change: memory(specs.LinuxMemory{DisableOOMKiller: new(true)}), cgroup: []string{"memory/memory.oom_control"}, want: "oom_kill_disable 1"},
		{name: "linux.resources.memory.useHierarchy", change: memory(specs.LinuxMemory{UseHierarchy: new(true)}), cgroup: []string{"memory/memory.use_hierarchy"}, want: "1"},
		{name: "linux.resources.memory.checkBeforeUpdate", change: memory(specs.LinuxMemory{Limit: new(int64(100 << 20)), CheckBeforeUpdate: new(true)}), cgroup: []string{"memory/memory.limit_in_bytes"}, want: "104857600"},
		{name: "linux.resources.cpu.shares", change: cpu(specs.LinuxCPU{Shares: new(uint64(333))}), cgroup: []string{"cpu/cpu.shares"}, want: "333"},
		{
			name: "linux.resources.cpu.quota, burst, period", change: cpu(specs.LinuxCPU{Quota: new(int64(50000)), Period: new(uint64(200000)), Burst: new(uint64(1000))}),
			cgroup: []string{"cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us", "cpu/cpu.cfs_burst_us"}, want: "50000\n200000\n1000",
		},
		{name: "linux.resources.cpu.realtimeRuntime, realtimePeriod", late: true, change: cpu(specs.LinuxCPU{RealtimeRuntime: new(int64(1000)), RealtimePeriod: new(uint64(1000000))}), cgroup: []string{"cpu/cpu.rt_runtime_us"}, want: ""},
		{name: "linux.resources.cpu.cpus, mems", change: cpu(specs.LinuxCPU{Cpus: "0", Mems: "0"}), cgroup: []string{"cpuset/cpuset.cpus", "cpuset/cpuset.mems"}, look: "grep Cpus_allowed_list /proc/1/status", want: "Cpus_allowed_list:\t0\n"},
		{name: "linux.resources.cpu.idle", change: cpu(specs.LinuxCPU{Idle: new(int64(1))}), cgroup: []string{"cpu/cpu.idle"}, want: "1"},
		{name: "linux.resources.pids", change: resources(specs.LinuxResources{Pids: &specs.LinuxPids{Limit: new(int64(77))}}), cgroup: []string{"pids/pids.max"}, want: "77"},
		{name: "linux.resources.blockIO.weight, leafWeight", late: true, change: blockIO(specs.LinuxBlockIO{Weight: new(uint16(300)), LeafWeight: new(uint16(300))}), cgroup: []string{"blkio/blkio.bfq.weight"}, want: ""},
		{name: "linux.resources.blockIO.weightDevice", late: true, change: blockIO(specs.LinuxBlockIO{WeightDevice: []specs.LinuxWeightDevice{{LinuxBlockIODevice: block, Weight: new(uint16(300)), LeafWeight: new(uint16(300))}}}), cgroup: []string{"blkio/blkio.bfq.weight_device"}, want: ""},
		{name: "linux.resources.blockIO.throttleReadBpsDevice", change: blockIO(specs.LinuxBlockIO{ThrottleReadBpsDevice: throttle(1 << 20)}), cgroup: []string{"blkio/blkio.throttle.read_bps_device"}, want: blockName + " 1048576"},
		{name: "linux.resources.blockIO.throttleWriteBpsDevice", change: blockIO(specs.LinuxBlockIO{ThrottleWriteBpsDevice: throttle(1 << 21)}), cgroup: []string{"blkio/blkio.throttle.write_bps_device"}, want: blockName + " 2097152"},
		{name: "linux.resources.blockIO.throttleReadIOPSDevice", change: blockIO(specs.LinuxBlockIO{ThrottleReadIOPSDevice: throttle(111)}), cgroup: []string{"blkio/blkio.throttle.read_iops_device"}, want: blockName + " 111"},
		{name: "linux.resources.blockIO.throttleWriteIOPSDevice", change: blockIO(specs.LinuxBlockIO{ThrottleWriteIOPSDevice: throttle(222)}), cgroup: []string{"blkio/blkio.throttle.write_iops_device"}, want: blockName + " 222"},
		{name: "linux.resources.hugepageLimits", late: true, change: resources(specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4 << 20}}}), cgroup: []string{"hugetlb/hugetlb.2MB.limit_in_bytes"}, want: ""},
		{name: "linux.resources.network", late: true, change: resources(specs.LinuxResources{Network: &specs.LinuxNetwork{ClassID: new(uint32(77)), Priorities: []specs.LinuxInterfacePriority{{Name: "lo", Priority: 3}}}}), cgroup: []string{"net_cls/net_cls.classid", "net_prio/net_prio.ifpriomap"}, want: ""},
		{name: "linux.resources.rdma", late: true, change: resources(specs.LinuxResources{Rdma: map[string]specs.LinuxRdma{"mlx5_1": {HcaHandles: new(uint32(3)), HcaObjects: new(uint32(4))}}}), cgroup: []string{"rdma/rdma.max"}, want: ""},
		{name: "linux.resources.unified", change: resources(specs.LinuxResources{Unified: map[string]string{"memory.high": "100000000"}}), want: fails},
	}
}

// observe says what became of a container: what it and its cgroup look like, or that
// it fails. It runs beside others, and so says what went wrong as an error.
func observe(t *harness.T, image client.Image, runtime string, args []string, row specRow) (said string, refusal, err error) {
	c, err := t.Daemon.Create(t.Ctx, harness.Config{Runtime: runtime, Image: image, Args: args, Opts: []oci.SpecOpts{harness.WithSpec(row.change)}})
	if err != nil {
		return fails, err, nil
	}
	defer func() {
		if removed := t.Remove(t.Ctx, c); err == nil {
			err = removed
		}
	}()
	if err := c.Task.Start(t.Ctx); err != nil {
		return fails, err, nil
	}
	if err := c.Stdout.WaitFor("ready", 10*time.Second); err != nil {
		return "", nil, fmt.Errorf("%w, and %q", err, c.Stderr)
	}
	if row.look != "" {
		script := strings.ReplaceAll(row.look, "/proc/1/", "/proc/$init/")
		init := "init=1; [ $(readlink /proc/self) -lt 1000 ] || init=" + fmt.Sprint(c.Task.Pid()) + "\n"
		e, err := t.Daemon.AddExec(t.Ctx, c, harness.ExecConfig{Args: []string{"/bin/sh", "-c", init + script}})
		if err == nil {
			err = e.Start(t.Ctx)
		}
		if err != nil {
			return "exec " + fails, err, nil
		}
		result, err := e.Finish(t.Ctx)
		if err != nil {
			return "", nil, err
		}
		said = result.Stdout + result.Stderr
	}
	for _, file := range row.cgroup {
		controller, name := filepath.Split(file)
		text, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", controller, t.Namespace, c.ID(), name))
		if err != nil {
			text = []byte("no " + file + "\n")
		}
		said += string(text)
	}
	return strings.ReplaceAll(said, c.ID(), "ID"), nil, nil
}

// What a spec can ask for comes to a container of either kind as with runc: each field
// is changed, and looked at from within and in the cgroup.
func TestSpecLikeRunc(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	image := smoke.Image(tt)
	for _, row := range specRows(t) {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			kinds := []struct {
				name, runtime string
				args          []string
			}{{"runc", smoke.Runc, sleepers["native"]}, {"native", smoke.Ours, sleepers["native"]}, {"guest", smoke.Ours, sleepers["guest"]}}
			said := make([]string, len(kinds))
			refusals, errs := make([]error, len(kinds)), make([]error, len(kinds))
			var group sync.WaitGroup
			for i, kind := range kinds {
				group.Go(func() { said[i], refusals[i], errs[i] = observe(tt, image, kind.runtime, kind.args, row) })
			}
			group.Wait()
			for i, kind := range kinds {
				require.NoError(t, errs[i], kind.name)
				t.Logf("%s: %s %v", kind.name, said[i], refusals[i])
			}
			require.Contains(t, said[0], row.want, "the row sees nothing")
			assert.Equal(t, said[0], said[1], "native")
			assert.Equal(t, strings.NewReplacer(row.guest...).Replace(said[0]), said[2], "guest")
			for i, kind := range kinds[1:] {
				if err := refusals[i+1]; err != nil && !row.late {
					assert.NotEqual(t, codes.Unknown, status.Code(errgrpc.ToGRPC(err)), "%s: %v", kind.name, err)
				}
			}
		})
	}
}
