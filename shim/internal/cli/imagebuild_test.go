// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/shim/internal/imagefile"
)

// modules writes files for image build and returns their directory.
func modules(t *testing.T) string {
	dir := t.TempDir()
	for name, text := range map[string]string{"m.wasm": "\x00asm\x01\x00\x00\x00", "empty.wasm": "", "lib,1": "lib"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	return dir
}

// printable is a tar file's text, for messages.
func printable(tar []byte) string { return string(bytes.ReplaceAll(tar, []byte{0}, nil)) }

func terminal(t *testing.T) *os.File {
	f, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip("no terminals here:", err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestImageHelp(t *testing.T) {
	for _, args := range [][]string{{"image"}, {"image", "--help"}} {
		code, out, errOut := call(args...)
		require.Zero(t, code)
		require.Empty(t, errOut)
		require.Contains(t, out, "containerd-shim-probe-v1 image - make and look at wasm images")
		require.Contains(t, out, "\n   build ")
		require.NotContains(t, out, "\n   help")
	}
	code, out, _ := call("image", "build", "--help")
	require.Zero(t, code)
	require.Contains(t, out, "containerd-shim-probe-v1 image build - ")
	require.Contains(t, out, "ctr images import")
}

func TestImageCompletion(t *testing.T) {
	args := os.Args
	defer func() { os.Args = args }()
	for _, tc := range []struct{ words, want []string }{
		{[]string{}, []string{"image"}},
		{[]string{"image"}, []string{"build"}},
		{[]string{"image", "build", "--mod"}, []string{"--module", "--module-type"}},
	} {
		words := append(slices.Clone(tc.words), "--generate-bash-completion")
		os.Args = append([]string{"containerd-shim-probe-v1"}, words...) // the library looks there
		code, out, _ := call(words...)
		require.Zero(t, code)
		require.Subset(t, strings.Split(out, "\n"), tc.want)
	}
}

func TestImageBuildBadCommandLines(t *testing.T) {
	dir := modules(t)
	m, tar := dir+"/m.wasm", dir+"/m.tar"
	build := func(args ...string) []string {
		return append([]string{"image", "build", "--tag", "x", "--module", m, "-o", tar}, args...)
	}
	for _, tc := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"image", "biuld"}, 2, `unknown command "image biuld". Did you mean "build"? See image --help.`},
		{[]string{"image", "--nope"}, 2, `unknown flag --nope.`},
		{[]string{"image", "build", "--modle", m}, 2, `unknown flag --modle. Did you mean "--module"? See --help.`},
		{[]string{"image", "build"}, 2, "image build needs --tag, --module, --output; see image build --help"},
		{[]string{"image", "build", "--tag", "x", "-o", tar}, 2, "image build needs --module; see image build --help"},
		{build(m), 2, fmt.Sprintf("image build takes no arguments, found %q", m)},
		{build("--tag", "UPPER"), 2, `--tag: found "UPPER", accepted: [HOST[:PORT]/]NAME[:TAG] with NAME in lower case`},
		{build("--flavour", "ociartifact"), 2, `--flavour: found "ociartifact", accepted: image, artifact`},
		{build("--flavour", "artifact", "--layer", "a/b="+m), 2, "--layer: an artifact has the module and nothing else, accepted: --flavour image"},
		{build("--flavour", "artifact", "--arg", "x"), 2, "--arg: an artifact has"},
		{build("--flavour", "artifact", "--env", "x=y"), 2, "--env: an artifact has"},
		{build("--flavour", "artifact", "--entrypoint", "x"), 2, "--entrypoint: an artifact has"},
		{build("--flavour", "artifact", "--label", "x=y"), 2, "--label: an artifact has"},
		{build("--flavour", "artifact", "--module-type", "x/y"), 2, "--module-type: an artifact has"},
		{build("--layer", m), 2, fmt.Sprintf("--layer: found %q, accepted: TYPE=FILE, like application/wasm=lib.wasm", m)},
		{build("--layer", "wasm="+m), 2, `--layer: found the media type "wasm", accepted: one with a /, like application/wasm`},
		{build("--layer", "application/vnd.oci.image.layer.v1.tar+gzip="+m), 2, `accepted: any that is not for a root file system, like application/wasm`},
		{build("--module-type", "wasm"), 2, `--module-type: found the media type "wasm", accepted: one with a /`},
		{build("--env", "A"), 2, `--env: found "A", accepted: NAME=VALUE`},
		{build("--label", "=A"), 2, `--label: found "=A", accepted: KEY=VALUE`},
		{build("--annotation", "A"), 2, `--annotation: found "A", accepted: KEY=VALUE`},
		{build("--layer", "a/b="+dir+"/nope"), 1, "open " + dir + "/nope: no such file or directory"},
		{build("--module", dir), 1, dir + " is not a regular file"},
		{build("--module", dir+"/empty.wasm"), 1, dir + "/empty.wasm is empty, accepted: a WebAssembly module or component"},
		{build("-o", m), 2, "--output: " + m + " is a file of the image, accepted: another one"},
		{build("-o", "/dev/null"), 1, "/dev/null is not a regular file: it is not replaced; -o - writes to standard output"},
		{build("-o", dir+"/no/m.tar"), 1, "open " + dir + "/no/m.tar."},
	} {
		code, out, errOut := call(tc.args...)
		require.Equal(t, tc.code, code, tc.args)
		require.Contains(t, errOut, "containerd-shim-probe-v1: ")
		require.Contains(t, errOut, tc.want)
		require.Empty(t, out, tc.args)
	}
	t.Setenv("SOURCE_DATE_EPOCH", "-1")
	code, _, errOut := call(build()...)
	require.Equal(t, 2, code)
	require.Contains(t, errOut, `SOURCE_DATE_EPOCH: found "-1", accepted: seconds since 1970, a whole number below 2^33`)

	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 3, "nothing is left of what failed")
}

func TestImageBuild(t *testing.T) {
	dir := modules(t)
	out := dir + "/m.tar"
	require.NoError(t, os.WriteFile(out, []byte("of before"), 0o644))
	args := []string{
		"image", "build", "--tag", "x", "--module", dir + "/m.wasm", "--layer", "text/plain=" + dir + "/lib,1",
		"--arg", "a,b", "--arg", "-c", "--env", "A=1,2", "--label", "l=1", "--annotation", "n=2",
	}
	code, said, errOut := call(append(args, "-o", out)...)
	require.Zero(t, code, errOut)
	require.Empty(t, errOut)
	require.Regexp(t, `^wrote `+out+`: image docker.io/library/x:latest, manifest sha256:[0-9a-f]{64}, 2 layers, 8.0 KiB
to import: ctr images import `+out+`
$`, said)
	data, err := os.ReadFile(out)
	require.NoError(t, err)
	require.Contains(t, printable(data), `"config":{"Env":["A=1,2"],"Entrypoint":["/m.wasm"],"Cmd":["a,b","-c"],"Labels":{"l":"1",`)
	require.Contains(t, printable(data), `"annotations":{"n":"2"}`)
	info, err := os.Stat(out)
	require.NoError(t, err)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 4)

	// The same, to standard output, and what was written as JSON.
	code, tar, said := call(append(args, "-o", "-", "--json")...)
	require.Zero(t, code)
	require.True(t, string(data) == tar)
	var object struct {
		Tag, Manifest, Flavour string
		Size                   int64
		Layers                 []struct {
			MediaType, Digest string
			Size              int64
		}
	}
	require.NoError(t, json.Unmarshal([]byte(said), &object))
	require.Equal(t, "docker.io/library/x:latest", object.Tag)
	require.Equal(t, "image", object.Flavour)
	require.Equal(t, info.Size(), object.Size)
	require.Contains(t, printable([]byte(tar)), "blobs/sha256/"+strings.TrimPrefix(object.Manifest, "sha256:"))
	require.Len(t, object.Layers, 2)
	require.Equal(t, imagefile.ModuleType, object.Layers[0].MediaType)
	require.EqualValues(t, 8, object.Layers[0].Size)
	require.Equal(t, "text/plain", object.Layers[1].MediaType)

	t.Setenv("SOURCE_DATE_EPOCH", "1000000000")
	code, tar, said = call("image", "build", "--tag", "x", "--module", dir+"/m.wasm", "--flavour", "artifact", "-o", "-")
	require.Zero(t, code)
	require.Contains(t, printable([]byte(tar)), `"created":"2001-09-09T01:46:40Z"`)
	require.Regexp(t, `^wrote standard output: artifact docker.io/library/x:latest, manifest sha256:[0-9a-f]{64}, 1 layer, \d.\d KiB\n$`, said)
}

func TestImageBuildNotToTerminal(t *testing.T) {
	var errOut bytes.Buffer
	args := []string{"containerd-shim-probe-v1", "image", "build", "--tag", "x", "--module", modules(t) + "/m.wasm", "-o", "-"}
	require.Equal(t, 2, Run(program, args, terminal(t), &errOut))
	require.Contains(t, errOut.String(), "--output: standard output is a terminal, accepted: a FILE, or - with standard output going elsewhere")
}

func TestProgressBar(t *testing.T) {
	require.True(t, newProgressBar(terminal(t)).line.terminal)
	var out bytes.Buffer
	none := newProgressBar(&out)
	none.set(1, 1<<30)
	none.clear()
	require.Empty(t, out.String(), "not a terminal")

	bar := progressBar{line: &statusLine{terminal: true, out: &out}}
	bar.set(1, progressFrom)
	bar.clear()
	require.Empty(t, out.String(), "not worth a bar")
	for range 1000 {
		bar.set(progressFrom, 2*progressFrom)
	}
	require.Less(t, strings.Count(out.String(), "\r"), 20)
	require.Contains(t, out.String(), "4.0 MiB of 8.0 MiB\x1b[K")
	bar.clear()
	require.True(t, strings.HasSuffix(out.String(), "\r\x1b[K"))
}
