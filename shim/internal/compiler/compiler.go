// SPDX-License-Identifier: Apache-2.0

// Package compiler has the engine compile layers in a container without rights:
// whatever a guest's code makes of the compiler, it costs that container its
// artifacts and nothing else.
package compiler

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/moby/sys/user"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/libwasmshim/libwasmshim/shim/internal/container"
	"github.com/libwasmshim/libwasmshim/shim/internal/memfile"
	"github.com/libwasmshim/libwasmshim/shim/internal/rootless"
	"github.com/libwasmshim/libwasmshim/shim/internal/stage"
	"github.com/libwasmshim/libwasmshim/shim/internal/status"
)

// ErrUnsupported says that the engine leaves it at the originals.
var ErrUnsupported = errors.New("the engine compiles nothing ahead of this")

// ErrKilled says that somebody has killed the compiler: it says nothing about the
// guest.
var ErrKilled = errors.New("the compiler was killed")

// ErrStarved says that others had the processors for too long: it says nothing about
// the guest.
var ErrStarved = errors.New("this machine has too much else to do")

// ErrTooLong says that compiling took more time than it may.
var ErrTooLong = errors.New("compile_timeout is too short for this code")

// ErrTooLarge says that compiling took more memory than it may.
var ErrTooLarge = errors.New("compile_memory is too small for this code")

// Job is what is to be compiled.
type Job struct {
	// ID names the compiler's cgroup; see Name.
	ID string
	// Dir is an existing directory of the compiler's own.
	Dir string
	// Exe is the sealed binary.
	Exe    *os.File
	Layers []Layer
	// Kind, Options and LogLevel are what the engine sees; see stage.Context.
	Kind     uint32
	Options  []string
	LogLevel string
	Limits   Limits
	Place    Place
	Log      *log.Entry
}

// Layer is a layer of the guest's code.
type Layer struct {
	MediaType, Digest string
	File              *os.File // open for reading alone
}

// Limits bound what a compiler takes.
type Limits struct {
	Time   time.Duration // on a processor; see account
	Memory int64         // bytes, artifacts included
}

// Place is what the compilers of a machine have together.
type Place struct {
	Cgroup    string // the parent of their cgroups, a path or a slice of systemd's; "" is the default
	Compilers int    // how many may run at once; 0 is half the processors
}

// DefaultLimits are what a compiler may take if nobody says it.
var DefaultLimits = Limits{Time: time.Minute, Memory: 2 << 30}

const maxProcesses = 128

// Run compiles. The artifacts are sealed memory files, one for each layer, nil
// where the engine made none; the caller closes them. The error is
// ErrUnsupported, or says what ended the compiler. Nothing else is left.
func Run(ctx context.Context, job Job) (_ []*os.File, retErr error) {
	artifacts := make([]*os.File, len(job.Layers))
	defer func() {
		if retErr != nil {
			CloseAll(artifacts)
		}
	}()
	for i := range artifacts {
		f, err := memfile.New("artifact")
		if err != nil {
			return nil, err
		}
		artifacts[i] = f
	}
	report, err := status.New(job.Log)
	if err != nil {
		return nil, err
	}
	c, err := start(job, artifacts, report)
	if err != nil {
		report.Close()
		return nil, fmt.Errorf("start the compiler: %w", err)
	}
	go report.Follow()
	exit, overdue, oom, err := await(ctx, c, job.Limits)
	report.Drain()
	if err := errors.Join(err, removeRoot(job.Dir)); err != nil {
		return nil, err
	}
	switch {
	case overdue != nil:
		return nil, overdue
	case oom:
		return nil, fmt.Errorf("the compiler took more than %d MiB of memory: %w", job.Limits.Memory>>20, ErrTooLarge)
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case exit.Status == stage.ExitUnsupported:
		return nil, ErrUnsupported
	case report.Cause != "":
		return nil, errors.New(report.Cause)
	case exit.Signal == syscall.SIGKILL:
		return nil, ErrKilled
	case exit.Signal != 0:
		return nil, fmt.Errorf("the compiler was ended by signal %d (%s)", int(exit.Signal), exit.Signal)
	case exit.Status != 0:
		return nil, fmt.Errorf("the compiler exited with %d", exit.Status)
	}
	return seal(artifacts)
}

// Name is a Job's ID: it is unique where name is in a namespace.
func Name(namespace, name string) string { return namespace + "-" + name }

// Cleanup removes what a process that was killed while it ran Run has left of a
// compiler. It may be called at any time after that process's end.
func Cleanup(dir string) error {
	err := container.Cleanup(containerID, stateDir(dir))
	return errors.Join(err, removeRoot(dir))
}

func start(job Job, artifacts []*os.File, report *status.Status) (_ *container.Container, retErr error) {
	defer report.HandedOver()
	sc := &stage.Context{Name: "compiler", Kind: job.Kind, Options: job.Options, LogLevel: job.LogLevel}
	var files []*os.File
	for i, l := range job.Layers {
		sc.Layers = append(sc.Layers, stage.Layer{
			MediaType: l.MediaType, Digest: l.Digest, FD: uint32(stage.FDLayers + 2*i), Artifact: uint32(stage.FDLayers + 2*i + 1),
		})
		files = append(files, l.File, artifacts[i])
	}
	f, err := sc.File()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := os.MkdirAll(rootDir(job.Dir), 0o755); err != nil {
		return nil, err
	}
	defer func() {
		if retErr != nil {
			retErr = errors.Join(retErr, removeRoot(job.Dir))
		}
	}()
	owner, err := newUser()
	if err != nil {
		return nil, err
	}
	path := cgroupPath(job)
	if path == "" {
		job.Log.Info("the compiler has no cgroup: none was delegated to this user, and no systemd of this user's answers; rlimits bound it")
	}
	spec := newSpec(job, path, owner)
	c, err := container.Create(container.Config{
		ID: containerID, Root: stateDir(job.Dir), Bundle: job.Dir, Spec: spec, NoNewKeyring: true, SystemdCgroup: isSystemd(path),
	}, container.Process{
		Args: []string{stage.Exe, "compiler"}, Env: []string{stage.CompilerEnv}, Spec: spec.Process,
		ExtraFiles: append([]*os.File{job.Exe, f, report.Peer}, files...),
	})
	if err != nil {
		return nil, err
	}
	if err := c.WatchOOM(func() {}); err != nil {
		job.Log.WithError(err).Debug("a compiler that is killed for want of memory may not say so")
	}
	if err := c.Start(); err != nil {
		_, _, _, werr := await(context.Background(), c, Limits{})
		return nil, errors.Join(err, werr)
	}
	return c, nil
}

// await waits for the end and removes the container. overdue says that its time was up, oom
// that its memory was.
func await(ctx context.Context, c *container.Container, limits Limits) (exit container.Exit, overdue error, oom bool, err error) {
	exit, overdue, err = watch(ctx, c, limits)
	if err != nil {
		if err := c.Signal(syscall.SIGKILL, true); err != nil && !errdefs.IsNotFound(err) {
			return exit, overdue, false, fmt.Errorf("kill the compiler: %w", err)
		}
		if exit, err = c.Wait(context.Background()); err != nil {
			return exit, overdue, false, err
		}
	}
	oom = overdue == nil && c.OutOfMemory()
	return exit, overdue, oom, c.Delete()
}

// rootName is the root directory of a compiler in its job's directory. The spec has it as it
// is: what leads to that directory may be a link (/run/user where RootlessKit has made a /run),
// and libcontainer refuses one in a root's path.
const rootName = "compiler/root"

// containerID is libcontainer's name for a compiler; its state is in a
// directory of its own.
const containerID = "compiler"

func workDir(dir string) string  { return filepath.Join(dir, "compiler") }
func rootDir(dir string) string  { return filepath.Join(dir, rootName) }
func stateDir(dir string) string { return filepath.Join(workDir(dir), "state") }

// removeRoot removes the directories: by name, because the root may be a mount
// point for a process that is not quite gone, and must then be left.
func removeRoot(dir string) error {
	for _, name := range []string{"root/proc", "root/dev", "root", "state", ""} {
		if err := os.Remove(filepath.Join(workDir(dir), name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove the compiler's directory: %w", err)
		}
	}
	return nil
}

// defaultSlice is the default Place where systemd runs: the root's cgroups are systemd's.
// Elsewhere it is the root, and for a user beside the shim's cgroup.
const defaultSlice = "libwasmshim.slice"

// cgroupPath is where a compiler's cgroup is; "" where a user can make none. There may be
// several containerds, each with a container of one name.
func cgroupPath(job Job) string {
	name := fmt.Sprintf("compiler-%s-%08x", job.ID, crc32.ChecksumIEEE([]byte(job.Dir)))
	parent := job.Place.Cgroup
	if parent == "" && container.SystemdRuns() {
		parent = defaultSlice
	}
	if isSlice(parent) {
		return parent + ":libwasmshim:" + name
	}
	if parent == "" && rootless.Is() {
		if parent = container.DelegatedCgroup(); parent == "" {
			return ""
		}
	}
	return path.Join("/", parent, "libwasmshim-"+name)
}

// isSlice says whether a place is a slice of systemd's.
func isSlice(cgroup string) bool {
	return strings.HasSuffix(cgroup, ".slice") && !strings.Contains(cgroup, "/")
}

// isSystemd says whether a path has the form that systemd's cgroup driver takes.
func isSystemd(path string) bool { return path != "" && !strings.HasPrefix(path, "/") }

// newUser chooses a user and a group that nobody else is: another process of a compiler's
// user could open what it has open, and write to its memory.
func newUser() (u specs.User, _ error) {
	for _, kind := range []struct {
		id   *uint32
		maps func() ([]user.IDMap, error)
	}{{&u.UID, user.CurrentProcessUIDMap}, {&u.GID, user.CurrentProcessGIDMap}} {
		maps, err := kind.maps()
		if err != nil {
			return u, fmt.Errorf("read the ids of this user namespace: %w", err)
		}
		first, count, err := strangers(maps)
		if err != nil {
			return u, err
		}
		var random [4]byte
		if _, err := rand.Read(random[:]); err != nil {
			return u, err
		}
		*kind.id = first + binary.NativeEndian.Uint32(random[:])%count
	}
	return u, nil
}

// strangers are ids above all that is given to people, services, and user namespaces; of a
// user's own namespace, which has few, those that images use least.
func strangers(maps []user.IDMap) (first, count uint32, _ error) {
	const usual, usualCount, nobody = 0x70000000, 0x0fffffff, 65534
	var last user.IDMap
	for _, m := range maps {
		if m.ID <= usual && m.ID+m.Count >= usual+usualCount {
			return usual, usualCount, nil
		}
		if m.ID >= last.ID {
			last = m
		}
	}
	end := last.ID + last.Count
	if last.ID <= nobody && nobody < end {
		end = nobody
	}
	count = uint32(max(0, end-last.ID) / 4)
	if count == 0 {
		return 0, 0, fmt.Errorf("the compiler needs a user and a group of its own: found %v in this user namespace, accepted: a range of ids, as newuidmap gives it (/etc/subuid, /etc/subgid): %w", maps, errdefs.ErrFailedPrecondition)
	}
	return uint32(end) - count, count, nil
}

// cpuShares is a compiler's weight, where a container that asks for nothing has
// 1024: whoever runs already goes first.
const cpuShares = 102

func newSpec(job Job, cgroup string, owner specs.User) *specs.Spec {
	limits := job.Limits
	seconds := uint64(limits.Time/time.Second+1) * maxThreads
	pids := int64(maxProcesses)
	noSwap := limits.Memory
	shares := uint64(cpuShares)
	killFirst := 1000
	spec := &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: rootName, Readonly: true},
		Process: &specs.Process{
			User: owner, Cwd: "/", NoNewPrivileges: true,
			Capabilities: &specs.LinuxCapabilities{}, OOMScoreAdj: &killFirst,
			Rlimits: []specs.POSIXRlimit{
				{Type: "RLIMIT_CORE"},
				{Type: "RLIMIT_CPU", Soft: seconds, Hard: seconds},
				{Type: "RLIMIT_FSIZE", Soft: MaxArtifact, Hard: MaxArtifact},
				{Type: "RLIMIT_NOFILE", Soft: 1024, Hard: 1024},
			},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "noexec", "mode=755", "size=64k", "ro"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: cgroup,
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.MountNamespace},
				{Type: specs.PIDNamespace},
				{Type: specs.NetworkNamespace},
				{Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace},
			},
			Resources: &specs.LinuxResources{
				Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}},
				CPU:     &specs.LinuxCPU{Shares: &shares},
				Memory:  &specs.LinuxMemory{Limit: &limits.Memory, Swap: &noSwap},
				Pids:    &specs.LinuxPids{Limit: &pids},
			},
			MaskedPaths: []string{
				"/proc/acpi", "/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
				"/proc/scsi", "/proc/sysrq-trigger", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug",
			},
			Seccomp: seccompProfile(),
		},
	}
	if cgroup == "" {
		spec.Linux.Resources = nil
		memory, processes := uint64(limits.Memory), uint64(pids)
		spec.Process.Rlimits = append(spec.Process.Rlimits,
			specs.POSIXRlimit{Type: "RLIMIT_DATA", Soft: memory, Hard: memory},
			specs.POSIXRlimit{Type: "RLIMIT_NPROC", Soft: processes, Hard: processes})
	}
	return spec
}

// MaxArtifact is how large an artifact can be, in bytes.
const MaxArtifact = 1 << 30

// maxThreads is how many CPUs' worth of time a compiler can use up in its time.
const maxThreads = 16

// seal makes the artifacts unchangeable and drops the empty ones.
func seal(artifacts []*os.File) ([]*os.File, error) {
	for i, f := range artifacts {
		st, err := f.Stat()
		if err != nil {
			return nil, err
		}
		if st.Size() == 0 {
			f.Close()
			artifacts[i] = nil
			continue
		}
		if err := memfile.Seal(f); err != nil {
			return nil, err
		}
	}
	return artifacts, nil
}

// CloseAll closes files, of which some may be nil.
func CloseAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}
