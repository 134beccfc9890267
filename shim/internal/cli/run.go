// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/libwasmshim/libwasmshim/shim/internal/compiler"
	"github.com/libwasmshim/libwasmshim/shim/internal/entrypoint"
	"github.com/libwasmshim/libwasmshim/shim/internal/options"
	"github.com/libwasmshim/libwasmshim/shim/internal/stage"
)

// run runs a guest in the place of this process.
func (p Program) run() *cli.Command {
	return &cli.Command{
		Name:      "run",
		Usage:     "run a module, component or text file on the engine, without a container",
		UsageText: "run [OPTIONS] FILE[#FUNCTION] [ARGUMENTS]",
		Description: `The guest runs as the user who calls, on this terminal, and may use the whole
file system, if not told otherwise. The engine's log goes to standard error.`,
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "env", Aliases: []string{"e"}, Usage: "a variable of the guest's, `NAME=VALUE`; NAME alone takes it from this environment"},
			&cli.StringSliceFlag{Name: "option", Aliases: []string{"o"}, Usage: "an engine option, `KEY=VALUE`; see config"},
			&cli.BoolFlag{Name: "compile", Usage: "compile first, in a process without rights, and run what was made"},
			&cli.DurationFlag{Name: "compile-timeout", Value: compiler.DefaultLimits.Time, Usage: "how long compiling may take, on a processor; time in which others have it does not count"},
			&cli.StringFlag{Name: "compile-memory", Value: "2GiB", Usage: "how much memory compiling may take"},
			&cli.StringFlag{Name: "cwd", Usage: "the guest's working `DIRECTORY`", DefaultText: "this one"},
			&cli.StringFlag{Name: "log-level", Value: "warn", Usage: "how much the engine logs: " + strings.Join(options.LogLevels, ", ")},
		},
		Action: func(c *cli.Context) error {
			if !c.Args().Present() {
				return &usageError{"run needs the FILE to run; see run --help"}
			}
			values, err := p.engineOptions(c.StringSlice("option"))
			if err != nil {
				return err
			}
			ctx, err := p.context(c, values)
			if err != nil {
				return err
			}
			if !c.Bool("compile") {
				return execute(ctx, nil)
			}
			limits, err := limitsOfFlags(c)
			if err != nil {
				return err
			}
			files, err := p.compile(ctx, options.CompilerList(values, p.Options), limits)
			if err != nil {
				return err
			}
			return execute(ctx, files)
		},
	}
}

func (p Program) context(c *cli.Context, values map[string]string) (*stage.Context, error) {
	level, err := logLevel(c)
	if err != nil {
		return nil, err
	}
	path, fn, kind, err := p.find(c.Args().First())
	if err != nil {
		return nil, err
	}
	cwd, err := filepath.Abs(c.String("cwd"))
	if err != nil {
		return nil, fmt.Errorf("working directory: %w", err)
	}
	ctx := &stage.Context{
		ID: "run", Args: c.Args().Slice(), Cwd: cwd, Path: path, Func: fn, Name: entrypoint.Stem(path), Kind: uint32(kind),
		Options: options.List(values), LogLevel: level,
	}
	if value, ok := values[options.Preopens.Key]; ok {
		if ctx.Preopens, err = options.ParsePreopens(value); err != nil {
			return nil, err
		}
		ctx.NoPreopens = len(ctx.Preopens) == 0
	}
	for _, kv := range c.StringSlice("env") {
		if !strings.Contains(kv, "=") {
			value, ok := os.LookupEnv(kv)
			if !ok {
				continue
			}
			kv += "=" + value
		}
		if strings.HasPrefix(kv, "=") {
			return nil, &usageError{fmt.Sprintf("--env: found %q, accepted: NAME=VALUE or NAME", kv)}
		}
		ctx.Env = append(ctx.Env, kv)
	}
	return ctx, nil
}

func logLevel(c *cli.Context) (string, error) {
	level := c.String("log-level")
	if !slices.Contains(options.LogLevels, level) {
		return "", &usageError{fmt.Sprintf("--log-level: found %q, accepted: %s", level, strings.Join(options.LogLevels, ", "))}
	}
	return level, nil
}

// find says what is to be run: "path#func", where a file whose name has a '#'
// comes first, as in a container.
func (p Program) find(arg string) (path, fn string, kind entrypoint.Kind, err error) {
	name := arg
	if _, err := os.Stat(name); err != nil {
		if at := strings.LastIndexByte(arg, '#'); at > 0 {
			name, fn = arg[:at], arg[at+1:]
		}
	}
	if path, err = filepath.Abs(name); err != nil {
		return "", "", 0, err
	}
	if kind, err = entrypoint.ClassifyFile(path); err != nil {
		return "", "", 0, err
	}
	switch {
	case kind == entrypoint.Native:
		return "", "", 0, fmt.Errorf("%s is a native program: run it directly", name)
	case kind&p.Engine.Kinds == 0 && kind == entrypoint.Other:
		return "", "", 0, fmt.Errorf("%s is nothing that %s runs (%s)", name, p.Engine.Name, p.Engine.Kinds)
	case kind&p.Engine.Kinds == 0:
		return "", "", 0, fmt.Errorf("%s is a %s; %s runs only: %s", name, kind, p.Engine.Name, p.Engine.Kinds)
	}
	return path, fn, kind, nil
}

// execute becomes the runner: signals, terminal and exit code are then the
// guest's own. layers are the files of ctx.Layers.
func execute(ctx *stage.Context, layers []*os.File) error {
	f, err := ctx.File()
	if err != nil {
		return err
	}
	exe, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	// The numbers may be in use, by the Go runtime's poller for one: this thread
	// gets a table of descriptors of its own, which the exec keeps.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_FILES); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	// Out of the way first: one may have a number that another is to get.
	var fds []int
	for _, f := range append([]*os.File{exe, f, null}, layers...) {
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD, 64)
		if err != nil {
			return os.NewSyscallError("dup", err)
		}
		fds = append(fds, fd)
	}
	for i, fd := range fds {
		if err := unix.Dup3(fd, stage.FDExe+i, 0); err != nil {
			return os.NewSyscallError("dup", err)
		}
	}
	args := append([]string{"/proc/self/exe"}, ctx.Args...)
	return fmt.Errorf("start the runner: %w", unix.Exec("/proc/self/exe", args, []string{stage.RoleEnv}))
}
