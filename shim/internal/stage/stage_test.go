// SPDX-License-Identifier: Apache-2.0

package stage

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func sample() *Context {
	return &Context{
		ID: "c1", Pod: "p1", Namespace: "k8s.io", ExecID: "e1", Args: []string{"/app.wasm", "", "two words", "\xff\xfe"},
		Env: []string{"A=1", "EMPTY=", "NL=a\nb"}, Path: "/app.wasm", Func: "run", Name: "app", Cwd: "/srv",
		Options: []string{"fuel=10"}, LogLevel: "debug", Kind: 2, Memory: 1 << 40, CPU: 1500,
		Preopens: []Preopen{{Host: "/", Guest: "/"}, {Host: "/data", Guest: ""}},
		Hidden:   []string{"/proc", "/x/proc"}, MustHide: true,
		Layers:  []Layer{{MediaType: "application/wasm", Digest: "sha256:0a", FD: 6, Artifact: 7}, {FD: 8}},
		Rlimits: []Rlimit{{Resource: 9, Soft: 1 << 30, Hard: 1<<64 - 1}, {Resource: 2}},
	}
}

func TestRoundTrip(t *testing.T) {
	for _, c := range []*Context{
		{}, sample(), {NoPreopens: true}, {MustHide: true, NoPreopens: true}, {Path: "/a", Layers: []Layer{{Digest: "sha256:0a", Artifact: 6}}},
	} {
		b, err := c.Encode()
		require.NoError(t, err)
		got, err := Decode(b)
		require.NoError(t, err)
		require.Equal(t, c, got)
	}
}

// The decoder that matters is the one in C.
func TestDecodedByC(t *testing.T) {
	program := filepath.Join(t.TempDir(), "stage")
	const c = "../../../cabi/"
	out, err := exec.Command("gcc", "-std=gnu11", "-I", c+"../include", "-o", program, c+"stage.c", c+"testdata/stage.c").CombinedOutput()
	require.NoError(t, err, "%s", out)
	b, err := sample().Encode()
	require.NoError(t, err)
	cmd := exec.Command(program, "print")
	cmd.Stdin = bytes.NewReader(b)
	out, err = cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, "id=c1\npod=p1\nns=k8s.io\nexec=e1\narg=/app.wasm\narg=\narg=two words\narg=\xff\xfe\n"+
		"env=A=1\nenv=EMPTY=\nenv=NL=a\nb\npath=/app.wasm\nfunc=run\nname=app\ncwd=/srv\noption=fuel=10\nlevel=debug\n"+
		"kind=2\nmemory=1099511627776\ncpu=1500\npreopen=/:/\npreopen=/data:\nhidden=/proc\nhidden=/x/proc\nflags=1\n"+
		"layer=6,7,application/wasm,sha256:0a\nlayer=8,0,,\nrlimit=9,1073741824,18446744073709551615\nrlimit=2,0,0\n", string(out))
}

func TestEncodeRefusesNUL(t *testing.T) {
	_, err := (&Context{Args: []string{"a\x00b"}}).Encode()
	require.EqualError(t, err, `a NUL byte in argument "a\x00b"`)
	_, err = (&Context{Preopens: []Preopen{{Host: "/", Guest: "a\x00"}}}).Encode()
	require.ErrorContains(t, err, "preopened directory")
}

// Only the only layer can be the file at the entrypoint.
func TestEncodeRefusesFileAmongLayers(t *testing.T) {
	for _, c := range []*Context{{Layers: []Layer{{}}}, {Path: "/a", Layers: []Layer{{}, {FD: 6}}}} {
		_, err := c.Encode()
		require.ErrorIs(t, err, errMalformed)
	}
}

func TestDecodeRefusesEveryTruncation(t *testing.T) {
	b, err := sample().Encode()
	require.NoError(t, err)
	for n := range b {
		_, err := Decode(b[:n])
		require.ErrorIs(t, err, errMalformed, "cut at %d", n)
	}
}

func TestFileIsSealed(t *testing.T) {
	f, err := sample().File()
	require.NoError(t, err)
	defer f.Close()
	_, err = f.WriteAt([]byte("x"), 0)
	require.Error(t, err)
	require.Error(t, f.Truncate(0))
	b, err := io.ReadAll(io.NewSectionReader(f, 0, maxSize))
	require.NoError(t, err)
	_, err = Decode(b)
	require.NoError(t, err)
}

// inC is the decoder in C, for many inputs.
type inC struct {
	in  io.WriteCloser
	out io.Reader
}

func startC(tb testing.TB) *inC {
	program := filepath.Join(tb.TempDir(), "stage")
	const c = "../../../cabi/"
	out, err := exec.Command("gcc", "-std=gnu11", "-O1", "-I", c+"../include", "-o", program, c+"stage.c", c+"testdata/stage.c").CombinedOutput()
	require.NoError(tb, err, "%s", out)
	cmd := exec.Command(program, "serve")
	d := &inC{}
	d.in, err = cmd.StdinPipe()
	require.NoError(tb, err)
	d.out, err = cmd.StdoutPipe()
	require.NoError(tb, err)
	require.NoError(tb, cmd.Start())
	tb.Cleanup(func() {
		d.in.Close()
		require.NoError(tb, cmd.Wait())
	})
	return d
}

func (d *inC) decode(tb testing.TB, b []byte) string {
	_, err := d.in.Write(append(binary.LittleEndian.AppendUint32(nil, uint32(len(b))), b...))
	require.NoError(tb, err)
	var n [4]byte
	_, err = io.ReadFull(d.out, n[:])
	require.NoError(tb, err, "the decoder in C is gone")
	text := make([]byte, binary.LittleEndian.Uint32(n[:]))
	_, err = io.ReadFull(d.out, text)
	require.NoError(tb, err)
	return string(text)
}

// dump prints a context as cabi/testdata/stage.c does.
func (c *Context) dump() string {
	var b strings.Builder
	list := func(name string, values ...string) {
		for _, v := range values {
			fmt.Fprintf(&b, "%s=%s\n", name, v)
		}
	}
	list("id", c.ID)
	list("pod", c.Pod)
	list("ns", c.Namespace)
	list("exec", c.ExecID)
	list("arg", c.Args...)
	list("env", c.Env...)
	list("path", c.Path)
	list("func", c.Func)
	list("name", c.Name)
	list("cwd", c.Cwd)
	list("option", c.Options...)
	list("level", c.LogLevel)
	fmt.Fprintf(&b, "kind=%d\nmemory=%d\ncpu=%d\n", c.Kind, c.Memory, c.CPU)
	for _, p := range c.Preopens {
		list("preopen", p.Host+":"+p.Guest)
	}
	list("hidden", c.Hidden...)
	if c.MustHide || c.NoPreopens {
		set := 0
		if c.MustHide {
			set |= flagMustHide
		}
		if c.NoPreopens {
			set |= flagNoPreopens
		}
		list("flags", strconv.Itoa(set))
	}
	for _, l := range c.Layers {
		fmt.Fprintf(&b, "layer=%d,%d,%s,%s\n", l.FD, l.Artifact, l.MediaType, l.Digest)
	}
	for _, l := range c.Rlimits {
		fmt.Fprintf(&b, "rlimit=%d,%d,%d\n", l.Resource, l.Soft, l.Hard)
	}
	return b.String()
}

// Whatever one decoder makes of an input, so does the other; and what they
// accept comes out again.
func FuzzDecode(f *testing.F) {
	b, err := sample().Encode()
	require.NoError(f, err)
	f.Add(b)
	corpus, err := filepath.Glob("../../../cabi/testdata/corpus/*")
	require.NoError(f, err)
	require.NotEmpty(f, corpus)
	for _, file := range corpus {
		b, err := os.ReadFile(file)
		require.NoError(f, err)
		f.Add(b)
	}
	c := startC(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<20 {
			return // more than the program in C has room for
		}
		got, err := Decode(b)
		text := c.decode(t, b)
		if err != nil {
			require.True(t, strings.HasPrefix(text, "error: "), "Go says %v, C says %q", err, text)
			return
		}
		require.Equal(t, got.dump(), text)
		again, err := got.Encode()
		require.NoError(t, err)
		d, err := Decode(again)
		require.NoError(t, err)
		require.Equal(t, got, d)
	})
}
