// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/pkg/progress"
	"github.com/urfave/cli/v2"

	"github.com/libwasmshim/libwasmshim/shim/internal/containerd"
	"github.com/libwasmshim/libwasmshim/shim/internal/imagefile"
)

// imageBuild packs a module, as it is, into an image.
func (p Program) imageBuild() *cli.Command {
	return &cli.Command{
		Name:  "build",
		Usage: "make an image of a module or component, in a tar file",
		UsageText: `image build --tag NAME[:TAG] --module FILE [OPTIONS] -o FILE.tar

image build --tag hello --module hello.wasm -o hello.tar
image build --tag app:1.0 --module app.wasm --arg --verbose --env LEVEL=info -o app.tar
image build --tag app:1.0 --module app.wasm --flavour artifact -o app.tar
image build --tag hello --module hello.wasm -o - | ctr images import -`,
		Description: `The module becomes a layer of the image as it is: there is no root file system
around it, and nothing is compiled. The platform of the image is wasi/wasm.

The tar file is an OCI layout, which "ctr images import FILE.tar" takes.

The flavour "artifact" is for registries and other tools: containerd imports it
as well, but ctr starts no containers of it.

The same files and options give the same bytes. Times in the tar file are 1970,
or what SOURCE_DATE_EPOCH says in seconds.`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "tag", Usage: "the image's `NAME[:TAG]`; a name without host is completed: app is docker.io/library/app:latest"},
			&cli.StringFlag{Name: "module", Usage: "the WebAssembly module or component, a `FILE`"},
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "the tar `FILE` to write, or to replace; - is standard output"},
			&cli.StringFlag{Name: "flavour", Value: string(imagefile.FlavourImage), Usage: "the `KIND` of image: image, or artifact, the CNCF's Wasm artifact, which has the module and nothing else"},
			&cli.StringFlag{Name: "module-type", Value: imagefile.ModuleType, Usage: "the media `TYPE` of the module's layer"},
			&cli.StringSliceFlag{Name: "layer", Usage: "one more layer, a media type and a file, `TYPE=FILE`; repeatable"},
			&cli.StringFlag{Name: "entrypoint", Usage: "the `NAME` that the guest is started by", DefaultText: "/ and the module's file name"},
			&cli.StringSliceFlag{Name: "arg", Usage: "an `ARGUMENT` of the guest's; repeatable"},
			&cli.StringSliceFlag{Name: "env", Aliases: []string{"e"}, Usage: "a variable of the guest's, `NAME=VALUE`; repeatable"},
			&cli.StringSliceFlag{Name: "label", Usage: "a label in the image's configuration, `KEY=VALUE`; repeatable"},
			&cli.StringSliceFlag{Name: "annotation", Usage: "an annotation of the image's manifest, `KEY=VALUE`; repeatable"},
			&cli.BoolFlag{Name: "json", Usage: "say what was written as JSON"},
		},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return &usageError{fmt.Sprintf("image build takes no arguments, found %q; see image build --help", c.Args().First())}
			}
			image, err := toBuild(c)
			if err != nil {
				return err
			}
			ctx, stop := interruptible()
			defer stop()
			name := c.String("output")
			var written imagefile.Written
			if name == "-" {
				if isTerminal(c.App.Writer) {
					return &usageError{"--output: standard output is a terminal, accepted: a FILE, or - with standard output going elsewhere"}
				}
				written, err = write(ctx, c, image, c.App.Writer)
			} else {
				err = replaceFile(name, image, func(w io.Writer) (err error) {
					written, err = write(ctx, c, image, w)
					return err
				})
			}
			if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
				return errors.New("interrupted, no image was made")
			}
			if err != nil {
				return err
			}
			return report(c, image, written)
		},
	}
}

// toBuild is the image that a command line describes.
func toBuild(c *cli.Context) (image imagefile.Image, err error) {
	var missing []string
	for _, name := range []string{"tag", "module", "output"} {
		if c.String(name) == "" {
			missing = append(missing, "--"+name)
		}
	}
	if missing != nil {
		return image, &usageError{fmt.Sprintf("image build needs %s; see image build --help", strings.Join(missing, ", "))}
	}
	image = imagefile.Image{
		Flavour: imagefile.Flavour(c.String("flavour")), Layers: []imagefile.Layer{{MediaType: c.String("module-type"), Path: c.String("module")}},
		Cmd: c.StringSlice("arg"), Env: c.StringSlice("env"),
	}
	if image.Tag, err = imagefile.ParseTag(c.String("tag")); err != nil {
		return image, &usageError{"--tag: " + err.Error()}
	}
	switch image.Flavour {
	case imagefile.FlavourImage:
	case imagefile.FlavourArtifact:
		for _, name := range []string{"module-type", "layer", "entrypoint", "arg", "env", "label"} {
			if c.IsSet(name) {
				return image, &usageError{fmt.Sprintf("--%s: an artifact has the module and nothing else, accepted: --flavour image", name)}
			}
		}
	default:
		return image, &usageError{fmt.Sprintf("--flavour: found %q, accepted: image, artifact", image.Flavour)}
	}
	if err := checkLayerType("module-type", image.Layers[0].MediaType); err != nil {
		return image, err
	}
	for _, l := range c.StringSlice("layer") {
		mediaType, path, ok := strings.Cut(l, "=")
		if !ok || path == "" {
			return image, &usageError{fmt.Sprintf("--layer: found %q, accepted: TYPE=FILE, like application/wasm=lib.wasm", l)}
		}
		if err := checkLayerType("layer", mediaType); err != nil {
			return image, err
		}
		image.Layers = append(image.Layers, imagefile.Layer{MediaType: mediaType, Path: path})
	}
	if name := c.String("entrypoint"); name != "" {
		image.Entrypoint = []string{name}
	}
	if _, err := keyValues("env", "NAME=VALUE", c.StringSlice("env")); err != nil {
		return image, err
	}
	if image.Labels, err = keyValues("label", "KEY=VALUE", c.StringSlice("label")); err != nil {
		return image, err
	}
	if image.Annotations, err = keyValues("annotation", "KEY=VALUE", c.StringSlice("annotation")); err != nil {
		return image, err
	}
	if epoch := os.Getenv("SOURCE_DATE_EPOCH"); epoch != "" {
		seconds, err := strconv.ParseUint(epoch, 10, 33) // what a tar file's header holds
		if err != nil {
			return image, &usageError{fmt.Sprintf("SOURCE_DATE_EPOCH: found %q, accepted: seconds since 1970, a whole number below 2^33", epoch)}
		}
		image.Created = time.Unix(int64(seconds), 0)
	}
	return image, nil
}

// checkLayerType refuses the media types that containerd would unpack: their
// layers need a root file system, which this image has not.
func checkLayerType(flag, mediaType string) error {
	text := fmt.Sprintf("--%s: found the media type %q, accepted: ", flag, mediaType)
	if before, after, _ := strings.Cut(mediaType, "/"); before == "" || after == "" {
		return &usageError{text + "one with a /, like " + imagefile.ModuleType}
	}
	if containerd.IsRootFS(mediaType) {
		return &usageError{text + "any that is not for a root file system, like " + imagefile.ModuleType}
	}
	return nil
}

func keyValues(flag, form string, texts []string) (map[string]string, error) {
	values := map[string]string{}
	for _, text := range texts {
		key, value, ok := strings.Cut(text, "=")
		if !ok || key == "" {
			return nil, &usageError{fmt.Sprintf("--%s: found %q, accepted: %s", flag, text, form)}
		}
		values[key] = value
	}
	return values, nil
}

func write(ctx context.Context, c *cli.Context, image imagefile.Image, w io.Writer) (imagefile.Written, error) {
	bar := newProgressBar(c.App.ErrWriter)
	defer bar.clear()
	return image.Write(ctx, w, bar.set)
}

// replaceFile has a file written beside name, and put in its place when it is
// complete.
func replaceFile(name string, image imagefile.Image, write func(io.Writer) error) error {
	info, err := os.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is not a regular file: it is not replaced; -o - writes to standard output", name)
	case slices.ContainsFunc(image.Layers, func(l imagefile.Layer) bool {
		layer, err := os.Stat(l.Path)
		return err == nil && os.SameFile(layer, info)
	}):
		return &usageError{fmt.Sprintf("--output: %s is a file of the image, accepted: another one", name)}
	}
	f, err := os.OpenFile(fmt.Sprintf("%s.%d.tmp", name, os.Getpid()), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // which is gone once it has its name
	if err := errors.Join(write(f), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

// report says what was written: on standard output, if the image is not there.
func report(c *cli.Context, image imagefile.Image, w imagefile.Written) error {
	out, name := c.App.Writer, c.String("output")
	if name == "-" {
		out, name = c.App.ErrWriter, "standard output"
	}
	if !c.Bool("json") {
		_, err := fmt.Fprintf(out, "wrote %s: %s %s, manifest %s, %s, %s\n", name, image.Flavour, image.Tag, w.Manifest.Digest, count(len(w.Layers), "layer"), progress.Bytes(w.Size))
		if err == nil && c.String("output") != "-" {
			_, err = fmt.Fprintf(out, "to import: ctr images import %s\n", name)
		}
		return err
	}
	object := struct {
		Tag      string    `json:"tag"`
		Manifest string    `json:"manifest"` // digest
		Size     int64     `json:"size"`     // bytes of the tar file
		Flavour  string    `json:"flavour"`
		Layers   []blobRef `json:"layers"`
	}{Tag: image.Tag, Manifest: w.Manifest.Digest.String(), Size: w.Size, Flavour: string(image.Flavour)}
	for _, l := range w.Layers {
		object.Layers = append(object.Layers, ref(l))
	}
	return printJSON(out, object)
}
