// SPDX-License-Identifier: Apache-2.0

// Package compiler has the engine compile layers in a container without rights:
// whatever a guest's code makes of the compiler, it costs that container its
// artifacts and nothing else.
package compiler

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/libwasmshim/libwasmshim/shim/internal/container"
	"github.com/libwasmshim/libwasmshim/shim/internal/memfile"
	"github.com/libwasmshim/libwasmshim/shim/internal/stage"
	"github.com/libwasmshim/libwasmshim/shim/internal/status"
)

// ErrUnsupported says that the engine leaves it at the originals.
var ErrUnsupported = errors.New("the engine compiles nothing ahead of this")

// ErrKilled says that somebody has killed the compiler: it says nothing about the
// guest.
var ErrKilled = errors.New("the compiler was killed")

// Job is what is to be compiled.
type Job struct {
	// ID names the compiler's cgroup; see Name.
	ID string
	// Dir is an existing directory of the container's own.
	Dir string
	// Exe is the sealed binary.
	Exe    *os.File
	Layers []Layer
	// Kind, Options and LogLevel are what the engine sees; see stage.Context.
	Kind     uint32
	Options  []string
	LogLevel string
	Limits   Limits
	Log      *log.Entry
}

// Layer is a layer of the guest's code.
type Layer struct {
	MediaType, Digest string
	File              *os.File // open for reading alone
}

// Limits bound what a compiler takes.
type Limits struct {
	Time   time.Duration // wall clock
	Memory int64         // bytes, artifacts included
}

// DefaultLimits are what a compiler may take if nobody says it.
var DefaultLimits = Limits{Time: time.Minute, Memory: 2 << 30}

const (
	maxProcesses = 128
	nobody       = 65534
)

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
	said, err := status.New(job.Log)
	if err != nil {
		return nil, err
	}
	c, err := start(job, artifacts, said)
	if err != nil {
		said.Close()
		return nil, fmt.Errorf("start the compiler: %w", err)
	}
	go said.Follow()
	exit, late, oom, err := await(ctx, c, job.Limits)
	said.Drain()
	if err := errors.Join(err, removeRoot(job.Dir)); err != nil {
		return nil, err
	}
	switch {
	case late:
		return nil, fmt.Errorf("the compiler took longer than %s", job.Limits.Time)
	case oom:
		return nil, fmt.Errorf("the compiler took more than %d MiB of memory", job.Limits.Memory>>20)
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case exit == stage.ExitUnsupported:
		return nil, ErrUnsupported
	case said.Cause != "":
		return nil, errors.New(said.Cause)
	case exit == 128+int(syscall.SIGKILL):
		return nil, ErrKilled
	case exit > 128:
		return nil, fmt.Errorf("the compiler was ended by signal %d (%s)", exit-128, syscall.Signal(exit-128))
	case exit != 0:
		return nil, fmt.Errorf("the compiler exited with %d", exit)
	}
	return seal(artifacts)
}

// Name is the ID for the compiler of a container.
func Name(namespace, id string) string { return namespace + "-" + id }

// Cleanup removes what a process that was killed while it ran Run has left of a
// compiler. It may be called at any time after that process's end.
func Cleanup(id, dir string) error {
	if _, err := os.Stat(workDir(dir)); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	err := container.Cleanup(containerID, stateDir(dir), newSpec(id, dir, DefaultLimits), false)
	return errors.Join(err, removeRoot(dir))
}

func start(job Job, artifacts []*os.File, said *status.Status) (_ *container.Container, retErr error) {
	defer said.HandedOver()
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
	spec := newSpec(job.ID, job.Dir, job.Limits)
	c, err := container.Create(container.Config{
		ID: containerID, Root: stateDir(job.Dir), Bundle: job.Dir, Spec: spec, NoNewKeyring: true,
	}, container.Process{
		Args: []string{stage.Exe, "compiler"}, Env: []string{stage.CompilerEnv}, Spec: spec.Process,
		ExtraFiles: append([]*os.File{job.Exe, f, said.Peer}, files...),
	})
	if err != nil {
		return nil, err
	}
	if err := c.Start(); err != nil {
		_, _, _, werr := await(context.Background(), c, Limits{})
		return nil, errors.Join(err, werr)
	}
	return c, nil
}

// await waits for the end and removes the container. late says that its time
// was up, oom that its memory was.
func await(ctx context.Context, c *container.Container, limits Limits) (exit int, late, oom bool, err error) {
	within, cancel := context.WithTimeout(ctx, limits.Time)
	defer cancel()
	e, err := c.Wait(within)
	if err != nil {
		late = ctx.Err() == nil
		if err := c.Signal(syscall.SIGKILL, true); err != nil && !errdefs.IsNotFound(err) {
			return 0, late, false, fmt.Errorf("kill the compiler: %w", err)
		}
		if e, err = c.Wait(context.Background()); err != nil {
			return 0, late, false, err
		}
	}
	oom = !late && c.OutOfMemory()
	return e.Status, late, oom, c.Delete()
}

// containerID is libcontainer's name for a compiler; its state is in a
// directory of its own.
const containerID = "compiler"

func workDir(dir string) string  { return filepath.Join(dir, "compiler") }
func rootDir(dir string) string  { return filepath.Join(workDir(dir), "root") }
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

// cgroupPath is where a compiler's cgroup is. There may be several containerds,
// each with a container of one name.
func cgroupPath(id, dir string) string {
	return fmt.Sprintf("/libwasmshim-compiler-%s-%08x", id, crc32.ChecksumIEEE([]byte(dir)))
}

func newSpec(id, dir string, limits Limits) *specs.Spec {
	seconds := uint64(limits.Time/time.Second+1) * maxThreads
	pids := int64(maxProcesses)
	noSwap := limits.Memory
	return &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: rootDir(dir), Readonly: true},
		Process: &specs.Process{
			User: specs.User{UID: nobody, GID: nobody}, Cwd: "/", NoNewPrivileges: true,
			Capabilities: &specs.LinuxCapabilities{},
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
			CgroupsPath: cgroupPath(id, dir),
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.MountNamespace},
				{Type: specs.PIDNamespace},
				{Type: specs.NetworkNamespace},
				{Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace},
			},
			Resources: &specs.LinuxResources{
				Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}},
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
