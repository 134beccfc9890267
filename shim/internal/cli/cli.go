// SPDX-License-Identifier: Apache-2.0

// Package cli is what a person sees who runs the shim binary by hand.
package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/libwasmshim/libwasmshim/shim/internal/image"
	"github.com/libwasmshim/libwasmshim/shim/internal/options"
)

// Program says what binary this is.
type Program struct {
	Engine         image.Engine
	ShimName       string // as in the runtime's and the binary's name
	EngineVersion  string
	EngineRevision string
	ABI            string // version of the C interface; empty for an engine in Go
	Options        []options.Declaration
}

// Exit codes.
const (
	exitFailure = 1
	exitUsage   = 2
)

func (p Program) name() string    { return "containerd-shim-" + p.ShimName + "-v1" }
func (p Program) runtime() string { return "io.containerd." + p.ShimName + ".v1" }

// Run runs a command line and returns the exit code.
func Run(p Program, args []string, out, errOut io.Writer) int {
	cli.VersionPrinter = func(c *cli.Context) { _, _ = io.WriteString(c.App.Writer, p.version()) }
	app := p.app(out, errOut)
	err := app.Run(args)
	if err == nil {
		return 0
	}
	var usage *usageError
	code := exitFailure
	if errors.As(err, &usage) {
		code = exitUsage
	}
	_, _ = fmt.Fprintf(errOut, "%s: %v\n", p.name(), err)
	return code
}

// usageError is what was wrong with a command line.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

func (p Program) app(out, errOut io.Writer) *cli.App {
	app := &cli.App{
		Name:      p.name(),
		Usage:     fmt.Sprintf("run WebAssembly containers on %s, started by containerd", p.Engine.Name),
		UsageText: p.name() + " [--help | --version] [COMMAND]",
		Description: fmt.Sprintf(`containerd starts this program; there is no need to run it by hand.
Put it in a directory of containerd's PATH, for example /usr/local/bin, and use
the runtime by its name:

   ctr run --rm --runtime %s IMAGE ID

A container whose entrypoint is a WebAssembly module, component or text file
runs on the engine; any other runs natively, as with runc.

For Kubernetes, containerd's configuration needs the runtime, and the cluster a
RuntimeClass; the first line does that by itself, also what is said above:

   %[2]s install
   %[2]s config --runtime-class | kubectl apply -f -

To try a module on the engine, without containerd and without a container:

   %[2]s run hello.wasm

Where containers do not run, this says why and what to do:

   %[2]s doctor`, p.runtime(), p.name()),
		Version:              ReadBuild().Version,
		HideHelpCommand:      true,
		EnableBashCompletion: true,
		// A value may have commas in it.
		DisableSliceFlagSeparator: true,
		Writer:                    out,
		ErrWriter:                 errOut,
		ExitErrHandler:            func(*cli.Context, error) {}, // Run reports, once
		OnUsageError:              badFlag,
		Commands:                  []*cli.Command{p.config(), p.run(), p.image(), p.precompile(), p.cache(), p.doctor(), p.install(), p.uninstall(), p.completion()},
		Action: func(c *cli.Context) error {
			if name := c.Args().First(); name != "" {
				return unknownCommand(c, name)
			}
			return cli.ShowAppHelp(c)
		},
	}
	setUp(app.Commands)
	return app
}

// setUp gives all commands what they have in common.
func setUp(commands []*cli.Command) {
	for _, c := range commands {
		c.OnUsageError = badFlag
		c.HideHelpCommand = true
		setUp(c.Subcommands)
	}
}

func unknownCommand(c *cli.Context, name string) error {
	text := fmt.Sprintf("unknown command %q.", name)
	if s := cli.SuggestCommand(c.App.Commands, name); s != "" {
		text += " " + s
	}
	return &usageError{text + " See --help."}
}

// badFlag turns what the flag parser says into something that helps.
func badFlag(c *cli.Context, err error, _ bool) error {
	name, unknown := strings.CutPrefix(err.Error(), "flag provided but not defined: -")
	if !unknown {
		return &usageError{err.Error() + "; see --help"}
	}
	name = strings.TrimLeft(name, "-")
	flags := c.App.Flags
	if c.Command != nil && len(c.Command.Flags) > 0 {
		flags = c.Command.Flags
	}
	text := fmt.Sprintf("unknown flag --%s.", name)
	if s := cli.SuggestFlag(flags, name, false); s != "" {
		text += fmt.Sprintf(" Did you mean %q?", s)
	}
	return &usageError{text + " See --help."}
}
