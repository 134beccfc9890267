// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/pkg/progress"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/libwasmshim/libwasmshim/shim/internal/compiler"
	"github.com/libwasmshim/libwasmshim/shim/internal/container"
	"github.com/libwasmshim/libwasmshim/shim/internal/entrypoint"
	"github.com/libwasmshim/libwasmshim/shim/internal/image"
	"github.com/libwasmshim/libwasmshim/shim/internal/options"
)

const (
	defaultSnapshotter = "overlayfs"

	// defaultPath is where containerd's clients have a container look for its
	// entrypoint if the image does not say it.
	defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// precompile compiles images before any container needs it.
func (p Program) precompile() *cli.Command {
	return &cli.Command{
		Name:  "precompile",
		Usage: "compile images in containerd ahead, so that the first start is as quick as any other",
		UsageText: `precompile [OPTIONS] IMAGE...

precompile docker.io/library/hello:latest
precompile -n k8s.io --compile-timeout 10m registry.example.com/app:1.0`,
		Description: `Done is what the first start of a container would do: the layers of WebAssembly
that an image has, or else the file that is its entrypoint, are compiled in a
process without rights, and containerd keeps the result as long as the image. A
pod that starts meanwhile waits for it. What is there already is left as it is;
what has failed is tried again.

The result depends on the engine's options: give the same as containerd's
configuration has for this runtime. It needs root, and for a file, an image that
is unpacked.`,
		Flags: containerdFlags(
			&cli.StringSliceFlag{Name: "option", Aliases: []string{"o"}, Usage: "an engine option, `KEY=VALUE`, see config; repeatable"},
			&cli.DurationFlag{Name: "compile-timeout", Value: compiler.DefaultLimits.Time, Usage: "how long compiling may take"},
			&cli.StringFlag{Name: "compile-memory", Value: "2GiB", Usage: "how much memory compiling may take"},
			&cli.StringFlag{Name: "snapshotter", EnvVars: []string{"CONTAINERD_SNAPSHOTTER"}, Value: defaultSnapshotter, Usage: "the `NAME` of the snapshotter in which the image is unpacked"},
			&cli.StringFlag{Name: "log-level", Value: "error", Usage: "how much is logged: " + strings.Join(options.LogLevels, ", ")},
			&cli.BoolFlag{Name: "json", Usage: "print one JSON object a line, for each image"},
		),
		Action: func(c *cli.Context) error {
			if !c.Args().Present() {
				return &usageError{"precompile needs the IMAGE; see precompile --help"}
			}
			for _, arg := range c.Args().Slice() {
				if strings.HasPrefix(arg, "-") {
					return &usageError{fmt.Sprintf("precompile: found the image %q; options come before the images", arg)}
				}
			}
			values, err := p.engineOptions(c.StringSlice("option"))
			if err != nil {
				return err
			}
			limits, err := compileLimits(c)
			if err != nil {
				return err
			}
			level, err := logLevel(c)
			if err != nil {
				return err
			}
			if os.Geteuid() != 0 {
				return errors.New("precompile: only root can make the compiler's process, which has no rights, and look into images")
			}
			key, err := p.Engine.Key(options.KeyList(values, p.Options))
			if err != nil {
				return err
			}
			return withContainerd(c, func(ctx context.Context, s *session) (retErr error) {
				dir, remove, err := s.workDir()
				if err != nil {
					return err
				}
				defer func() { retErr = errors.Join(retErr, remove()) }()
				exe, err := container.SealedSelf(dir)
				if err != nil {
					return err
				}
				defer exe.Close()
				w := &precompiler{
					session: s, snapshotter: cmp.Or(c.String("snapshotter"), defaultSnapshotter), status: newStatusLine(c.App.ErrWriter),
					job: image.Job{
						Address: s.address, Namespace: s.namespace, Engine: p.Engine, Key: key, Options: options.List(values), LogLevel: level,
						Limits: limits, ID: precompileID(os.Getpid()), Dir: dir, Retry: true, Exe: exe,
					},
				}
				if w.job.Log, err = newLogger(w.status, level); err != nil {
					return err
				}
				return w.all(ctx, c)
			})
		},
	}
}

// engineOptions are the values of options in the form that the engine gets.
func (p Program) engineOptions(texts []string) (map[string]string, error) {
	values := map[string]string{}
	for _, o := range texts {
		key, value, ok := strings.Cut(o, "=")
		if !ok {
			return nil, &usageError{fmt.Sprintf("--option: found %q, accepted: KEY=VALUE", o)}
		}
		value, err := options.Value(key, value, p.Options)
		if err != nil {
			return nil, fmt.Errorf("--option: %w", err)
		}
		values[key] = value
	}
	return values, nil
}

// precompileID names this process's compilers and directory.
func precompileID(pid int) string { return fmt.Sprint("precompile-", pid) }

// workDir makes a directory for the compiler and for mounts, which is removed only
// if it is empty, and clears away what killed processes have left.
func (s *session) workDir() (dir string, remove func() error, _ error) {
	base := image.Dir(s.address, s.namespace)
	left, err := filepath.Glob(filepath.Join(base, "precompile-*"))
	if err != nil {
		return "", nil, err
	}
	for _, dir := range left {
		id := filepath.Base(dir)
		pid, err := strconv.Atoi(strings.TrimPrefix(id, "precompile-"))
		if err != nil || !errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
			continue
		}
		_ = os.Remove(filepath.Join(dir, "rootfs"))
		if err := errors.Join(compiler.Cleanup(compiler.Name(s.namespace, id), dir), os.Remove(dir)); err != nil {
			return "", nil, fmt.Errorf("clear away what process %d has left: %w", pid, err)
		}
	}
	dir = filepath.Join(base, precompileID(os.Getpid()))
	return dir, func() error { return os.Remove(dir) }, os.MkdirAll(dir, 0o700)
}

// What became of an image.
const (
	outcomeCompiled = "compiled"
	outcomePresent  = "present" // it was compiled before
	outcomeNothing  = "nothing" // there is nothing to compile
	outcomeFailed   = "failed"
)

type outcome struct {
	Image     string  `json:"image"`
	Outcome   string  `json:"outcome"`
	Why       string  `json:"why,omitempty"` // nothing was compiled
	Seconds   float64 `json:"seconds"`
	Artifacts int     `json:"artifacts"`
	Size      int64   `json:"size"` // of the artifacts, in bytes
}

func (o outcome) String() string {
	made := fmt.Sprintf("%s, %s", count(o.Artifacts, "artifact"), progress.Bytes(o.Size))
	switch o.Outcome {
	case outcomeCompiled:
		took := time.Duration(o.Seconds * float64(time.Second)).Round(time.Millisecond)
		return fmt.Sprintf("%s: compiled in %s: %s", plain(o.Image), took, made)
	case outcomePresent:
		return fmt.Sprintf("%s: already there: %s", plain(o.Image), made)
	case outcomeNothing:
		return fmt.Sprintf("%s: nothing to compile: %s", plain(o.Image), o.Why)
	}
	return fmt.Sprintf("%s: not compiled: %s", plain(o.Image), o.Why)
}

// precompiler compiles one image after the other.
type precompiler struct {
	*session
	snapshotter string
	job         image.Job // what all have in common
	status      *statusLine
}

// all compiles the images that a command line names, and says of each what became
// of it. One that fails does not keep the others from being compiled.
func (w *precompiler) all(ctx context.Context, c *cli.Context) error {
	failed := 0
	for _, name := range c.Args().Slice() {
		o, err := w.one(ctx, name)
		w.status.clear()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			o.Outcome, o.Why = outcomeFailed, err.Error()
			failed++
		}
		out := c.App.Writer
		if c.Bool("json") {
			err = printJSON(out, o)
		} else {
			if o.Outcome == outcomeFailed {
				out = c.App.ErrWriter
			}
			_, err = fmt.Fprintln(out, o)
		}
		if err != nil {
			return err
		}
	}
	if failed > 0 {
		return fmt.Errorf("not compiled: %d of %s", failed, count(c.NArg(), "image"))
	}
	return nil
}

func (w *precompiler) one(ctx context.Context, name string) (o outcome, retErr error) {
	o = outcome{Image: name}
	i, err := w.image(ctx, name)
	if err != nil {
		return o, err
	}
	o.Image = i.Name
	if !w.job.Engine.Compiles {
		return o.nothing(w.job.Engine.Name + " does not compile ahead"), nil
	}
	manifest, config, err := w.Choose(ctx, &i, w.job.Engine.Types())
	if err != nil {
		return o, err
	}
	job := w.job
	job.Image = &i
	compiled := false
	job.Progress = func(what string, size int64) {
		compiled = compiled || what == "compile"
		w.status.set(i.Name, what, size)
	}
	layered := len(manifest.LayersOf(w.job.Engine.Types())) > 0
	if len(config.RootFS.DiffIDs) > 0 {
		entry, err := w.entry(ctx, &job, config)
		defer func() { retErr = errors.Join(retErr, entry.close()) }()
		switch {
		case (errdefs.IsNotFound(err) || errdefs.IsInvalidArgument(err)) && layered:
			// As at a container's start.
		case err != nil:
			return o, err
		case entry.Kind == entrypoint.Native:
			return o.nothing(fmt.Sprintf("the entrypoint %s is a native program", plain(entry.Path))), nil
		case entry.Kind == entrypoint.Other:
			return o.nothing(fmt.Sprintf("only %s knows what %s is", w.job.Engine.Name, plain(entry.Path))), nil
		}
	} else if !layered {
		return o, fmt.Errorf("image %s has neither a root file system nor layers that %s takes: %s", plain(i.Name), w.job.Engine.Name, strings.Join(w.job.Engine.Types(), ", "))
	}
	begun := time.Now()
	g, err := image.Precompile(ctx, &job)
	if err != nil {
		return o, err
	}
	defer g.Close()
	o.Seconds = time.Since(begun).Seconds()
	if g.NotCompiled != nil {
		return o, g.NotCompiled
	}
	for _, l := range g.Layers {
		if l.Artifact == nil {
			continue
		}
		info, err := l.Artifact.Stat()
		if err != nil {
			return o, err
		}
		o.Artifacts++
		o.Size += info.Size()
	}
	switch {
	case o.Artifacts == 0:
		return o.nothing(w.job.Engine.Name + " leaves this code as it is"), nil
	case compiled:
		o.Outcome = outcomeCompiled
	default:
		o.Outcome = outcomePresent
	}
	return o, nil
}

func (o outcome) nothing(why string) outcome {
	o.Outcome, o.Why = outcomeNothing, why
	return o
}

// imageEntry is the entrypoint of an image, in a view of its root file system.
type imageEntry struct {
	entrypoint.Entry
	view *image.View
}

func (e *imageEntry) close() error {
	if e == nil {
		return nil
	}
	if e.File != nil {
		e.File.Close()
	}
	return e.view.Close()
}

// entry finds what the image's containers start, if they are not told otherwise,
// and makes it the job's. The caller closes it, with an error also.
func (w *precompiler) entry(ctx context.Context, job *image.Job, config ocispec.Image) (*imageEntry, error) {
	args := append(slices.Clone(config.Config.Entrypoint), config.Config.Cmd...)
	if len(args) == 0 {
		return nil, errors.New("the image does not say what its containers run, it has neither entrypoint nor arguments")
	}
	spec := &specs.Spec{Process: &specs.Process{
		Args: args, Env: config.Config.Env, Cwd: cmp.Or(config.Config.WorkingDir, "/"),
		// Whether the container's user may read the file is found out when one starts.
		Capabilities: &specs.LinuxCapabilities{Permitted: []string{"CAP_DAC_OVERRIDE"}},
	}}
	if !slices.ContainsFunc(spec.Process.Env, func(kv string) bool { return strings.HasPrefix(kv, "PATH=") }) {
		spec.Process.Env = append(slices.Clone(spec.Process.Env), defaultPath)
	}
	view, err := w.View(ctx, w.snapshotter, config.RootFS.DiffIDs, viewTime+job.Limits.Time, job.Dir)
	if errdefs.IsNotFound(err) {
		return nil, fmt.Errorf("the image is not unpacked in snapshotter %s: pull it again, or have ctr images mount unpack it; another snapshotter is chosen with --snapshotter", w.snapshotter)
	}
	if err != nil {
		return nil, err
	}
	e := &imageEntry{view: view}
	e.Entry, err = entrypoint.Resolve(spec, "", view.Path(), w.job.Engine.Name, w.job.Engine.Kinds)
	if err != nil || e.File == nil {
		return e, err
	}
	return e, job.SetFile(e.File, e.InRoot, e.Kind, view.Mounts)
}

// viewTime is how long containerd keeps a view whose process was killed, beside
// the time that compiling may take.
const viewTime = 10 * time.Minute
