// SPDX-License-Identifier: Apache-2.0

// Package options reads what an operator has set for a runtime: the options
// in containerd's configuration, and the annotations that they allow.
package options

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// AnnotationPrefix is what an engine option's key has before it in an
// annotation of a container or pod.
const AnnotationPrefix = "engine.libwasmshim.io/"

// Options is how a runtime's containers are to be run.
type Options struct {
	SystemdCgroup bool
	NoPivotRoot   bool
	NoNewKeyring  bool
	Root          string // where runc finds the containers of each namespace; empty leaves their state in their bundles
	ShimCgroup    string // where the daemon belongs; empty leaves it where it is
	IoUID, IoGID  uint32 // owner of the container's streams

	// CompileTimeout is how long a compilation may take; 0 is that nothing is
	// compiled ahead, nil that nobody said it. CompileMemory is how many bytes it
	// may take; 0 is that nobody said it.
	CompileTimeout *time.Duration
	CompileMemory  int64
	// Compilers is how many compilers may run at once on this node; 0 is that
	// nobody said it. CompileCgroup is the cgroup that they are in, an absolute
	// path or the name of a systemd slice; empty is that nobody said it.
	Compilers     int
	CompileCgroup string

	// Daemon is one of Daemons; empty is the first. DaemonPods is how many pods, and
	// containers without one, a daemon of the node serves; 0 is that nobody said it.
	Daemon     string
	DaemonPods int

	LogLevel  string // one of LogLevels; empty means the default
	GuestProc string // one of GuestProcs; empty means the first

	// AllowAnnotations are the keys of engine options that annotations may set.
	AllowAnnotations []string
	// Engine are the values of engine options by key, in the form that the
	// option's type says.
	Engine map[string]string
}

// LogLevels are the accepted log levels.
var LogLevels = []string{"error", "warn", "info", "debug", "trace"}

// GuestProcs are the accepted ways in which a guest sees /proc.
var GuestProcs = []string{"auto", "hidden", "readonly", "full"}

// Daemons are the accepted ways in which containers share daemons: a daemon for each pod,
// or one for many of them.
var Daemons = []string{"pod", NodeDaemon}

// NodeDaemon is a daemon that serves many pods.
const NodeDaemon = "node"

// Parse reads the runtime options that containerd hands to a shim: runc's own,
// or the generic ones, which hold TOML or the path of a file with TOML. engine
// lists the options that the engine has declared; binary is the name of this
// shim's file. What would change how a container runs and is not supported is
// refused, never ignored. Errors carry errdefs codes.
func Parse(a *anypb.Any, engine []Declaration, binary string) (Options, error) {
	if a == nil || a.TypeUrl == "" {
		return Options{}, nil
	}
	var (
		runc    options.Options
		generic runtimeoptions.Options
	)
	switch {
	case a.MessageIs(&runc):
		if err := proto.Unmarshal(a.Value, &runc); err != nil {
			return Options{}, invalid("parse runtime options of type %s: %v", a.TypeUrl, err)
		}
		return fromRunc(&runc, binary)
	case a.MessageIs(&generic):
		if err := proto.Unmarshal(a.Value, &generic); err != nil {
			return Options{}, invalid("parse runtime options of type %s: %v", a.TypeUrl, err)
		}
		return fromGeneric(&generic, engine, binary)
	case len(a.Value) == 0:
		return Options{}, nil
	}
	return Options{}, fmt.Errorf("runtime options of type %s are not supported; accepted: %s, %s: %w", a.TypeUrl,
		generic.ProtoReflect().Descriptor().FullName(), runc.ProtoReflect().Descriptor().FullName(), errdefs.ErrInvalidArgument)
}

// Are says whether a message holds runtime options that Parse reads.
func Are(a *anypb.Any) bool {
	return a.MessageIs(&options.Options{}) || a.MessageIs(&runtimeoptions.Options{})
}

func fromRunc(r *options.Options, binary string) (Options, error) {
	if err := checkBinaryName(r.BinaryName, binary); err != nil {
		return Options{}, err
	}
	// containerd itself sets TaskApiAddress and TaskApiVersion, where a sandbox's
	// controller names this daemon's address: there the request has come already.
	for _, o := range []struct {
		name string
		set  bool
	}{
		{"CriuImagePath", r.CriuImagePath != ""},
		{"CriuWorkPath", r.CriuWorkPath != ""},
	} {
		if o.set {
			return Options{}, refused(o.name)
		}
	}
	if err := checkRoot(r.Root); err != nil {
		return Options{}, fmt.Errorf("runtime option Root: %w", err)
	}
	return Options{
		SystemdCgroup: r.SystemdCgroup, NoPivotRoot: r.NoPivotRoot, NoNewKeyring: r.NoNewKeyring,
		Root: r.Root, ShimCgroup: r.ShimCgroup, IoUID: r.IoUid, IoGID: r.IoGid,
	}, nil
}

// whyRefused says of those of runc's options that have no meaning here why.
var whyRefused = map[string]string{
	"CriuPath":       "checkpoints are not supported",
	"CriuImagePath":  "checkpoints are not supported",
	"CriuWorkPath":   "checkpoints are not supported",
	"TaskApiAddress": "containers are served by the daemon that start makes",
	"TaskApiVersion": "containers are served by the daemon that start makes",
}

func refused(name string) error {
	return fmt.Errorf("runtime option %s is not supported: %s; remove it from the runtime's options: %w", name, whyRefused[name], errdefs.ErrInvalidArgument)
}

func checkRoot(dir string) error {
	if dir != "" && !filepath.IsAbs(dir) {
		return invalid("found %q, accepted: an absolute path", dir)
	}
	return nil
}

// checkBinaryName takes no other program than this shim: k3s and others that write
// containerd's configuration set BinaryName to a shim's own path.
func checkBinaryName(name, binary string) error {
	if name == "" || isSelf(name, binary) {
		return nil
	}
	return fmt.Errorf("runtime option BinaryName is not supported: found %q, accepted: this shim's own file, %s: it runs containers itself, without another program; remove the option: %w",
		name, binary, errdefs.ErrInvalidArgument)
}

// isSelf says whether a path or the name of a file in PATH is this shim's. After
// an upgrade, and where the daemon runs from a sealed copy, only the name says it.
func isSelf(name, binary string) bool {
	if !filepath.IsAbs(name) && strings.Contains(name, "/") {
		return false // relative to nothing that an operator can know
	}
	if filepath.Base(name) == binary {
		return true
	}
	found, err := exec.LookPath(name)
	if err != nil {
		return false
	}
	theirs, err := os.Stat(found)
	if err != nil {
		return false
	}
	own, err := os.Stat("/proc/self/exe")
	return err == nil && os.SameFile(theirs, own)
}

// ForContainer returns the engine options of one container: the runtime's, and
// over them those that the container's annotations set. An annotation that the
// operator does not allow is an error: to run a guest without the limit that
// somebody believes to have set would be worse.
func (o Options) ForContainer(annotations map[string]string, engine []Declaration) (map[string]string, error) {
	values := maps.Clone(o.Engine)
	for _, name := range slices.Sorted(maps.Keys(annotations)) {
		key, ok := strings.CutPrefix(name, AnnotationPrefix)
		if !ok {
			continue
		}
		if !slices.Contains(o.AllowAnnotations, key) {
			allowed := "none"
			if len(o.AllowAnnotations) > 0 {
				allowed = strings.Join(o.AllowAnnotations, ", ")
			}
			return nil, fmt.Errorf("annotation %s is not allowed here; the runtime's option allow_annotations allows: %s: %w", name, allowed, errdefs.ErrPermissionDenied)
		}
		value, err := Value(key, annotations[name], engine)
		if err != nil {
			return nil, fmt.Errorf("annotation %s: %w", name, err)
		}
		if values == nil {
			values = map[string]string{}
		}
		values[key] = value
	}
	return values, nil
}

// Systemd says whether systemd's cgroup driver is to be used: by option, or
// because the path has that driver's form, slice:prefix:name.
func (o Options) Systemd(spec *specs.Spec) bool {
	return o.SystemdCgroup || SystemdPath(spec)
}

// SystemdPath says whether a spec's cgroup path has the form of systemd's
// cgroup driver.
func SystemdPath(spec *specs.Spec) bool {
	if spec == nil || spec.Linux == nil {
		return false
	}
	p := spec.Linux.CgroupsPath
	return !strings.HasPrefix(p, "/") && strings.Count(p, ":") == 2
}

func invalid(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errdefs.ErrInvalidArgument)...)
}
