// SPDX-License-Identifier: Apache-2.0

package stage

import (
	"bytes"
	"io"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func sample() *Context {
	return &Context{
		ID: "c1", Pod: "p1", Namespace: "k8s.io", Args: []string{"/app.wasm", "", "two words", "\xff\xfe"},
		Env: []string{"A=1", "EMPTY=", "NL=a\nb"}, Path: "/app.wasm", Func: "run", Name: "app", Cwd: "/srv",
		Options: []string{"fuel=10"}, LogLevel: "debug", Kind: 2, Memory: 1 << 40, CPU: 1500,
		Preopens: []Preopen{{Host: "/", Guest: "/"}, {Host: "/data", Guest: ""}},
		Hidden:   []string{"/proc", "/x/proc"}, MustHide: true,
		Layers: []Layer{{MediaType: "application/wasm", Digest: "sha256:0a", FD: 6, Artifact: 7}, {FD: 8}},
	}
}

func TestRoundTrip(t *testing.T) {
	for _, c := range []*Context{{}, sample()} {
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
	require.Equal(t, "id=c1\npod=p1\nns=k8s.io\narg=/app.wasm\narg=\narg=two words\narg=\xff\xfe\n"+
		"env=A=1\nenv=EMPTY=\nenv=NL=a\nb\npath=/app.wasm\nfunc=run\nname=app\ncwd=/srv\noption=fuel=10\nlevel=debug\n"+
		"kind=2\nmemory=1099511627776\ncpu=1500\npreopen=/:/\npreopen=/data:\nhidden=/proc\nhidden=/x/proc\nflags=1\n"+
		"layer=6,7,application/wasm,sha256:0a\nlayer=8,0,,\n", string(out))
}

func TestEncodeRefusesNUL(t *testing.T) {
	_, err := (&Context{Args: []string{"a\x00b"}}).Encode()
	require.EqualError(t, err, `a NUL byte in argument "a\x00b"`)
	_, err = (&Context{Preopens: []Preopen{{Host: "/", Guest: "a\x00"}}}).Encode()
	require.ErrorContains(t, err, "preopened directory")
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

func FuzzDecode(f *testing.F) {
	b, err := sample().Encode()
	require.NoError(f, err)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Decode(b)
		if err != nil {
			return
		}
		again, err := c.Encode()
		require.NoError(t, err)
		d, err := Decode(again)
		require.NoError(t, err)
		require.Equal(t, c, d)
	})
}
