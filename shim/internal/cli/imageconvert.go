// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/urfave/cli/v2"

	"github.com/libwasmshim/libwasmshim/shim/internal/containerd"
	"github.com/libwasmshim/libwasmshim/shim/internal/imagefile"
)

// imageConvert makes an ordinary wasm image of an artifact.
func (p Program) imageConvert() *cli.Command {
	return &cli.Command{
		Name:  "convert",
		Usage: "make a wasm image, in containerd, of a Wasm artifact that is there",
		UsageText: fmt.Sprintf(`image convert [OPTIONS] SOURCE NAME[:TAG]

ctr content fetch registry.example.com/app:1.0
image convert registry.example.com/app:1.0 app:1.0
ctr run --rm --platform wasi/wasm --runtime %s docker.io/library/app:1.0 ID

image convert -n k8s.io --arg --verbose --env LEVEL=info registry.example.com/app:1.0 app:1.0`, p.runtime()),
		Description: `SOURCE is an image in containerd, with layers of WebAssembly: mostly a Wasm
artifact, the CNCF's or what oras and wasm-to-oci push, which clients of
containerd refuse to run. The new image, for the platform wasi/wasm, has the same
layers, which are not copied, and what is compiled of them stays theirs.

The same SOURCE and options make the same image. A name without host is
completed: app is docker.io/library/app:latest.`,
		Flags: containerdFlags(
			&cli.StringFlag{Name: "entrypoint", Usage: "the `NAME` that the guest is started by", DefaultText: "the source's, or / and the module's title"},
			&cli.StringSliceFlag{Name: "arg", Usage: "an `ARGUMENT` of the guest's; repeatable"},
			&cli.StringSliceFlag{Name: "env", Aliases: []string{"e"}, Usage: "a variable of the guest's, `NAME=VALUE`; repeatable"},
			&cli.BoolFlag{Name: "force", Usage: "replace another image of that name"},
			&cli.BoolFlag{Name: "json", Usage: "say what was made as JSON"},
		),
		Action: func(c *cli.Context) error {
			if c.NArg() < 2 {
				return &usageError{"image convert needs the SOURCE and the NAME of the new image; see image convert --help"}
			}
			if c.NArg() > 2 {
				return tooMany(c, 2)
			}
			name, err := imagefile.ParseTag(c.Args().Get(1))
			if err != nil {
				return &usageError{"image convert: the new image's name: " + err.Error()}
			}
			if _, err := keyValues("env", "NAME=VALUE", c.StringSlice("env")); err != nil {
				return err
			}
			return withContainerd(c, func(ctx context.Context, s *session) error {
				source, err := s.image(ctx, c.Args().First())
				if err != nil {
					return err
				}
				made, isNew, err := s.Convert(ctx, source, containerd.Conversion{
					Name: name, Types: p.Engine.Types(), Entrypoint: c.String("entrypoint"), Cmd: c.StringSlice("arg"), Env: c.StringSlice("env"), Replace: c.Bool("force"),
				})
				if errdefs.IsAlreadyExists(err) {
					return fmt.Errorf("%w; --force replaces it", err)
				}
				if err != nil {
					return err
				}
				return p.reportConversion(c, made, isNew)
			})
		},
	}
}

func (p Program) reportConversion(c *cli.Context, made containerd.Image, isNew bool) error {
	if c.Bool("json") {
		return printJSON(c.App.Writer, struct {
			Name     string        `json:"name"`
			Manifest digest.Digest `json:"manifest"`
			Made     bool          `json:"made"` // false if it was there
		}{made.Name, made.Target.Digest, isNew})
	}
	how := "made"
	if !isNew {
		how = "there already:"
	}
	_, err := fmt.Fprintf(c.App.Writer, "%s %s, manifest %s\nto run: ctr run --rm --platform wasi/wasm --runtime %s %[2]s ID\n",
		how, made.Name, made.Target.Digest, p.runtime())
	return err
}
