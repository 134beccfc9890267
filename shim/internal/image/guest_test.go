// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/shim/internal/containerd"
	"github.com/libwasmshim/libwasmshim/shim/internal/entrypoint"
	"github.com/libwasmshim/libwasmshim/shim/internal/stage"
)

const (
	module    = "\x00asm\x01\x00\x00\x00"
	component = "\x00asm\x0d\x00\x01\x00"
	wat       = ";; text\n(module)"
	native    = "\x7fELF\x02\x01\x01"
	compiled  = "\x7fELF\x02\x01\x01\xc8" // by wasmtime
	own       = "application/vnd.engine"
)

// layer is a layer of some text.
func layer(t *testing.T, mediaType, text string) Layer {
	path := filepath.Join(t.TempDir(), "layer")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	f, err := os.Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return Layer{MediaType: mediaType, Digest: digest.FromString(text), File: f}
}

func TestTypes(t *testing.T) {
	e := Engine{LayerTypes: []string{own}}
	require.Equal(t, []string{"application/wasm", "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm", "application/vnd.wasm.content.layer.v1+wasm", own}, e.Types())
	require.Equal(t, containerd.LayerTypes, Engine{}.Types())
	require.Len(t, containerd.LayerTypes, 3, "they are nobody's to change")
}

func TestClassify(t *testing.T) {
	core, core2 := containerd.LayerTypes[0], containerd.LayerTypes[1]
	const all = entrypoint.Module | entrypoint.Component | entrypoint.Text
	for name, test := range map[string]struct {
		kinds  entrypoint.Kind
		layers []string // of type and text
		want   entrypoint.Kind
		err    string
	}{
		"module":                  {all, []string{core, module}, entrypoint.Module, ""},
		"component":               {all, []string{core, component}, entrypoint.Component, ""},
		"text":                    {all, []string{core, wat}, entrypoint.Text, ""},
		"component, other type":   {all, []string{core2, component}, entrypoint.Component, ""},
		"module of type of both":  {all, []string{core2, module}, entrypoint.Module, ""},
		"large":                   {all, []string{core, module + strings.Repeat("\x00", 10000)}, entrypoint.Module, ""},
		"text far down":           {all, []string{core, strings.Repeat(";; x\n", 800) + "(module)"}, entrypoint.Text, ""},
		"first of two":            {all, []string{core, component, core, module}, entrypoint.Component, ""},
		"first that is":           {all, []string{core, "data", core, module}, entrypoint.Module, ""},
		"own type, module":        {all, []string{own, module}, entrypoint.Module, ""},
		"own type before":         {all, []string{own, component, core, module}, entrypoint.Component, ""},
		"own type, native":        {all, []string{own, native, core, module}, entrypoint.Module, ""},
		"own type, script":        {all, []string{own, "#!/bin/sh", core, module}, entrypoint.Module, ""},
		"own type, empty":         {all, []string{own, "", core, module}, entrypoint.Module, ""},
		"own type, text":          {all, []string{core, module, own, "data"}, entrypoint.Module, ""},
		"other is run":            {entrypoint.Other, []string{own, "data"}, entrypoint.Other, ""},
		"native in it is run":     {entrypoint.Other, []string{own, native}, entrypoint.Other, ""},
		"no module":               {entrypoint.Component, []string{core, module}, 0, "the image's code is a WebAssembly module; engine runs only: WebAssembly component"},
		"no component":            {entrypoint.Module, []string{core, component}, 0, "the image's code is a WebAssembly component; engine runs only: WebAssembly module"},
		"no text":                 {entrypoint.Module | entrypoint.Component, []string{core, wat}, 0, "the image's code is a WebAssembly text; engine runs only: WebAssembly module, WebAssembly component"},
		"the first is not run":    {entrypoint.Module, []string{core, component, core, module}, 0, "is a WebAssembly component; engine runs only"},
		"nothing":                 {all, []string{core, "data", own, "more"}, 0, "the image's code is not WebAssembly; engine runs only: WebAssembly module, WebAssembly component, WebAssembly text"},
		"no layers":               {all, nil, 0, "the image's code is not WebAssembly"},
		"native":                  {all, []string{core, native}, 0, "of type " + core + " is not WebAssembly but a native program, or code that was compiled elsewhere, which is not run; make the image of the original .wasm"},
		"compiled elsewhere":      {all, []string{core2, compiled}, 0, "of type " + core2 + " is not WebAssembly but a native program, or code that was compiled elsewhere"},
		"script":                  {all, []string{core, "#!/bin/sh"}, 0, "is not WebAssembly but a native program"},
		"native after":            {all, []string{core, module, core, native}, 0, "is not WebAssembly but a native program"},
		"native, any kind is run": {all | entrypoint.Other | entrypoint.Native, []string{core, native}, 0, "is not WebAssembly but a native program"},
		"empty":                   {all, []string{core, ""}, 0, "layer " + string(digest.FromString("")) + " of type " + core + " is empty"},
		"empty after":             {all, []string{core, module, core2, ""}, 0, "of type " + core2 + " is empty"},
		"half a magic":            {all, []string{core, module[:3]}, 0, "the image's code is not WebAssembly"},
	} {
		t.Run(name, func(t *testing.T) {
			var g Guest
			for i := 0; i < len(test.layers); i += 2 {
				g.Layers = append(g.Layers, layer(t, test.layers[i], test.layers[i+1]))
			}
			err := g.classify(Engine{Name: "engine", Kinds: test.kinds, LayerTypes: []string{own}})
			if test.err == "" {
				require.NoError(t, err)
				require.Equal(t, test.want, g.Kind)
				return
			}
			require.ErrorContains(t, err, test.err)
			require.True(t, errdefs.IsInvalidArgument(err), "%v", err)
		})
	}
	t.Run("not readable", func(t *testing.T) {
		l := layer(t, core, module)
		l.File.Close()
		err := (&Guest{Layers: []Layer{l}}).classify(Engine{Kinds: all})
		require.ErrorIs(t, err, os.ErrClosed)
		require.ErrorContains(t, err, "read layer "+string(l.Digest))
	})
}

// The process that inherits the files finds each under its number.
func TestGuestStage(t *testing.T) {
	for name, artifacts := range map[string][]bool{
		"none": nil, "one": {false}, "one with": {true}, "all": {true, true, true}, "mixed": {false, true, false, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			var g Guest
			for i, has := range artifacts {
				l := layer(t, own, strconv.Itoa(i))
				if has {
					l.Artifact = layer(t, "", "compiled "+strconv.Itoa(i)).File
				}
				g.Layers = append(g.Layers, l)
			}
			staged, files := g.Stage()
			require.Len(t, staged, len(artifacts))
			seen := map[uint32]bool{}
			at := func(fd uint32) *os.File {
				require.False(t, seen[fd], "%d twice", fd)
				seen[fd] = true
				return files[fd-stage.FDLayers]
			}
			for i, l := range g.Layers {
				require.Equal(t, own, staged[i].MediaType)
				require.Equal(t, string(l.Digest), staged[i].Digest)
				require.Same(t, l.File, at(staged[i].FD))
				if l.Artifact == nil {
					require.Zero(t, staged[i].Artifact)
				} else {
					require.Same(t, l.Artifact, at(staged[i].Artifact))
				}
			}
			require.Len(t, seen, len(files))
		})
	}
	t.Run("most", func(t *testing.T) {
		var g Guest
		for range stage.MaxLayers {
			g.Layers = append(g.Layers, Layer{MediaType: own, Digest: "d", File: os.Stdin, Artifact: os.Stdin})
		}
		layers, _ := g.Stage()
		text, err := (&stage.Context{Kind: 1, Layers: layers}).Encode()
		require.NoError(t, err)
		c, err := stage.Decode(text)
		require.NoError(t, err, "the other end takes the numbers")
		require.Equal(t, layers, c.Layers)
	})
}

func TestGuestClose(t *testing.T) {
	(*Guest)(nil).Close()
	(&Guest{}).Close()
	a, b := layer(t, own, "a"), layer(t, own, "b")
	a.Artifact = layer(t, "", "c").File
	(&Guest{Layers: []Layer{a, {}, b}}).Close()
	for _, f := range []*os.File{a.File, a.Artifact, b.File} {
		_, err := f.Stat()
		require.True(t, errors.Is(err, os.ErrClosed))
	}
}
