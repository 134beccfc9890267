// SPDX-License-Identifier: Apache-2.0

// Package cli is what a person sees who runs the shim binary by hand.
package cli

import (
	"fmt"
	"io"
	"runtime/debug"

	"github.com/urfave/cli/v2"
)

// Program says what binary this is.
type Program struct {
	Engine         string
	EngineVersion  string
	EngineRevision string
}

// Run runs a command line and returns the exit code.
func Run(p Program, args []string, out, errOut io.Writer) int {
	name := "containerd-shim-" + p.Engine + "-v1"
	app := &cli.App{
		Name:      name,
		Usage:     fmt.Sprintf("run WebAssembly containers on %s, started by containerd", p.Engine),
		UsageText: name + " --help | --version",
		Description: fmt.Sprintf(`containerd starts this program; there is no need to run it by hand.
Put it in a directory of containerd's PATH, for example /usr/local/bin, and use
the runtime by its name:

   ctr run --rm --runtime io.containerd.%s.v1 IMAGE ID

A container whose entrypoint is a WebAssembly module, component or text file
runs on the engine; any other runs natively, as with runc.`, p.Engine),
		Version:              p.version(),
		HideHelpCommand:      true,
		EnableBashCompletion: true,
		Suggest:              true,
		Writer:               out,
		ErrWriter:            errOut,
		ExitErrHandler:       func(*cli.Context, error) {}, // Run reports, once
		OnUsageError: func(_ *cli.Context, err error, _ bool) error {
			return err
		},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return fmt.Errorf("unknown command %q", c.Args().First())
			}
			return cli.ShowAppHelp(c)
		},
	}
	if err := app.Run(args); err != nil {
		_, _ = fmt.Fprintf(errOut, "%s: %v; see %s --help\n", name, err, name)
		return 1
	}
	return 0
}

func (p Program) version() string {
	v, rev := "(devel)", "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		if info.Main.Version != "" {
			v = info.Main.Version
		}
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				rev = s.Value
			}
		}
	}
	engine := p.Engine + " " + p.EngineVersion
	if p.EngineRevision != "" {
		engine += " (" + p.EngineRevision + ")"
	}
	return fmt.Sprintf("%s, revision %s, engine %s", v, rev, engine)
}
