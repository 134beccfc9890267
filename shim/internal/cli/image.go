// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"

	"github.com/urfave/cli/v2"
)

// image is the group of commands for wasm images.
func (p Program) image() *cli.Command {
	return &cli.Command{
		Name:        "image",
		Usage:       "make and look at wasm images",
		UsageText:   "image COMMAND [OPTIONS]",
		Subcommands: []*cli.Command{p.imageBuild(), p.imageInspect(), p.imageConvert()},
		Action: func(c *cli.Context) error {
			name := c.Args().First()
			if name == "" {
				return cli.ShowSubcommandHelp(c)
			}
			text := fmt.Sprintf("unknown command %q.", "image "+name)
			if s := cli.SuggestCommand(c.Command.Subcommands, name); s != "" {
				text += " " + s
			}
			return &usageError{text + " See image --help."}
		},
	}
}
