// SPDX-License-Identifier: Apache-2.0

package cli

import "github.com/urfave/cli/v2"

// image is the group of commands for wasm images.
func (p Program) image() *cli.Command {
	return group("image", "make and look at wasm images", p.imageBuild(), p.imageInspect(), p.imageConvert())
}
