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
	"strings"
	"time"

	"github.com/containerd/containerd/v2/pkg/progress"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/libwasmshim/libwasmshim/shim/internal/compiler"
	"github.com/libwasmshim/libwasmshim/shim/internal/container"
	"github.com/libwasmshim/libwasmshim/shim/internal/containerd"
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
precompile -n k8s.io --compile-timeout 10m registry.example.com/app:1.0
precompile --root /host -n k8s.io registry.example.com/app:1.0`,
		Description: `Done is what the first start of a container would do: the layers of WebAssembly
that an image has, or else the file that is its entrypoint, are compiled in a
process without rights, and containerd keeps the result as long as the image. A
pod that starts meanwhile waits for it. What is there already is left as it is;
what has failed is tried again.

The result depends on the engine's options: give the same as containerd's
configuration has for this runtime. It needs root, and for a file, an image that
is unpacked. With --root the program that is installed there does it, because what is
compiled belongs to one program: deploy/precompile.yaml.`,
		Flags: containerdFlags(
			&cli.StringSliceFlag{Name: "option", Aliases: []string{"o"}, Usage: "an engine option, `KEY=VALUE`, see config; repeatable"},
			&cli.DurationFlag{Name: "compile-timeout", Value: compiler.DefaultLimits.Time, Usage: "how long compiling may take, on a processor; time in which others have it does not count"},
			&cli.StringFlag{Name: "compile-memory", Value: "2GiB", Usage: "how much memory compiling may take"},
			&cli.StringFlag{Name: "snapshotter", EnvVars: []string{"CONTAINERD_SNAPSHOTTER"}, Value: defaultSnapshotter, Usage: "the `NAME` of the snapshotter in which the image is unpacked"},
			&cli.StringFlag{Name: "log-level", Value: "error", Usage: "how much is logged: " + strings.Join(options.LogLevels, ", ")},
			&cli.BoolFlag{Name: "json", Usage: "print one JSON object a line, for each image"},
			&cli.StringFlag{Name: "root", Value: "/", Usage: "where the host's root directory is, a `PATH`; for a container with the host's process ids"},
			&cli.StringFlag{Name: "dir", Value: "/usr/local/bin", Usage: "with --root, the `DIRECTORY` on the host where the program is"},
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
			if filepath.Clean(c.String("root")) != "/" {
				return p.precompileThere(c)
			}
			values, err := p.engineOptions(c.StringSlice("option"))
			if err != nil {
				return err
			}
			limits, err := limitsOfFlags(c)
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
				image.Sweep(s.Address, s.Namespace)
				dir, remove, err := image.WorkDir(s.Address, s.Namespace)
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
					session: s, snapshotter: cmp.Or(c.String("snapshotter"), defaultSnapshotter), status: newStatusLine(c.App.ErrWriter), dir: dir,
					work: image.Work{
						Address: s.Address, Namespace: s.Namespace, Engine: p.Engine, Key: key, Options: options.CompilerList(values, p.Options), LogLevel: level,
						Limits: limits, Retry: true, Exe: exe,
					},
				}
				if w.work.Log, err = newLogger(w.status, level); err != nil {
					return err
				}
				return w.all(ctx, c)
			})
		},
	}
}

// precompileThere has the program that is installed on a host do it, in the place of this
// process.
func (p Program) precompileThere(c *cli.Context) error {
	root, program := c.String("root"), filepath.Join(c.String("dir"), p.name())
	for _, path := range []string{root, program} {
		if !filepath.IsAbs(path) {
			return &usageError{fmt.Sprintf("precompile: found %q, accepted: an absolute path", path)}
		}
	}
	if err := unix.Chroot(root); err != nil {
		return fmt.Errorf("use %s as the root directory: %w", root, err)
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	images := len(os.Args) - c.NArg()
	args := slices.Concat(os.Args[:images], []string{"--root=/"}, os.Args[images:])
	return fmt.Errorf("run the host's %s: %w", program, unix.Exec(program, args, os.Environ()))
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
	dir         string     // an existing directory, for views
	work        image.Work // what all have in common
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

// one compiles what containers of an image can run: of an index, that may be
// several entries.
func (w *precompiler) one(ctx context.Context, name string) (o outcome, _ error) {
	o = outcome{Image: name}
	i, err := w.image(ctx, name)
	if err != nil {
		return o, err
	}
	o.Image = i.Name
	if !w.work.Engine.Compiles {
		return o.nothing(w.work.Engine.Name + " does not compile ahead"), nil
	}
	entries, err := w.Entries(ctx, i, w.work.Engine.Types())
	if err == nil {
		entries, err = containerd.Runnable(i.Name, entries)
	}
	if err != nil {
		return o, err
	}
	compiled := false
	progress := func(what string, size int64) {
		compiled = compiled || what == "compile"
		w.status.set(i.Name, what, size)
	}
	begun := time.Now()
	for _, e := range entries {
		result, why, err := w.entry(ctx, i, e, progress)
		if err != nil {
			return o, err
		}
		if why != "" {
			o = o.nothing(why)
		}
		n, size, err := result.Artifacts()
		if err != nil {
			return o, err
		}
		o.Artifacts += n
		o.Size += size
	}
	o.Seconds = time.Since(begun).Seconds()
	switch {
	case o.Artifacts == 0 && o.Why == "":
		return o.nothing(w.work.Engine.Name + " leaves this code as it is"), nil
	case o.Artifacts == 0:
	case compiled:
		o.Outcome, o.Why = outcomeCompiled, ""
	default:
		o.Outcome, o.Why = outcomePresent, ""
	}
	return o, nil
}

// entry compiles one entry of an image: the file that its entrypoint names, or its
// layers. why says that there is nothing to compile.
func (w *precompiler) entry(ctx context.Context, i containerd.Image, e containerd.Entry, progress func(string, int64)) (_ image.Result, why string, retErr error) {
	work := w.work
	work.Image, work.Progress = i.Name, progress
	if e.Chain != "" {
		file, err := w.file(ctx, e)
		defer func() { retErr = errors.Join(retErr, file.close()) }()
		switch {
		case (errdefs.IsNotFound(err) || errdefs.IsInvalidArgument(err)) && len(e.Layers) > 0:
			// As at a container's start.
		case err != nil:
			return image.Result{}, "", err
		case file.Kind == entrypoint.Native:
			return image.Result{}, fmt.Sprintf("the entrypoint %s is a native program", plain(file.Path)), nil
		case file.Kind == entrypoint.Other:
			return image.Result{}, fmt.Sprintf("only %s knows what %s is", work.Engine.Name, plain(file.Path)), nil
		default:
			result, err := w.PrecompileFile(ctx, &work, i, file.File, file.Kind)
			return result, "", err
		}
	}
	if len(e.Layers) == 0 {
		return image.Result{}, "", fmt.Errorf("image %s has neither a root file system nor layers that %s takes: %s", plain(i.Name), work.Engine.Name, strings.Join(work.Engine.Types(), ", "))
	}
	result, err := w.PrecompileLayers(ctx, &work, e)
	return result, "", err
}

func (o outcome) nothing(why string) outcome {
	o.Outcome, o.Why = outcomeNothing, why
	return o
}

// imageEntry is the entrypoint of an image, in a view of its root file system.
type imageEntry struct {
	entrypoint.Entry
	view *containerd.View
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

// file finds what an entry's containers start, if they are not told otherwise. The
// caller closes it, with an error also.
func (w *precompiler) file(ctx context.Context, e containerd.Entry) (*imageEntry, error) {
	args := append(slices.Clone(e.Entrypoint), e.Cmd...)
	if len(args) == 0 {
		return nil, errors.New("the image does not say what its containers run, it has neither entrypoint nor arguments")
	}
	spec := &specs.Spec{Process: &specs.Process{
		Args: args, Env: e.Env, Cwd: cmp.Or(e.WorkingDir, "/"),
		// Whether the container's user may read the file is found out when one starts.
		Capabilities: &specs.LinuxCapabilities{Permitted: []string{"CAP_DAC_OVERRIDE"}},
	}}
	if !slices.ContainsFunc(spec.Process.Env, func(kv string) bool { return strings.HasPrefix(kv, "PATH=") }) {
		spec.Process.Env = append(slices.Clone(spec.Process.Env), defaultPath)
	}
	view, err := w.View(ctx, w.snapshotter, e.Chain, viewTime+w.work.Limits.Clock(), w.dir)
	if errdefs.IsNotFound(err) {
		return nil, fmt.Errorf("the image is not unpacked in snapshotter %s: pull it again, or have ctr images mount unpack it; another snapshotter is chosen with --snapshotter", w.snapshotter)
	}
	if err != nil {
		return nil, err
	}
	f := &imageEntry{view: view}
	f.Entry, err = entrypoint.Resolve(spec, "", view.Path(), w.work.Engine.Name, w.work.Engine.Kinds)
	return f, err
}

// viewTime is how long containerd keeps a view whose process was killed, beside
// the time that compiling may take.
const viewTime = 10 * time.Minute
