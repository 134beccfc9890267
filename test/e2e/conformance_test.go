// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/oci"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// conformance are guests that say on standard error in what the engine is not as the
// specification has it: testdata/p1.rs, testdata/p2/src/bin/wasi2.rs, testdata/p3/src/wasi3.rs.
func conformance(t *harness.T) map[string][]byte {
	t.Helper()
	needsFull(t, "is as its makers have it")
	canBuild(t, "wasm32-wasip1")
	p1, err := rustcGuest("p1.rs", "wasm32-wasip1")
	require.NoError(t, err)
	return map[string][]byte{"p1": p1, "p2": rustGuest(t, "p2", "wasi2"), "p3": rustGuest(t, "p3", "p3")}
}

func conformanceImage(t *harness.T, guests map[string][]byte) client.Image {
	files := smoke.Files(t)
	for name, guest := range guests {
		files[name+".wasm"] = harness.File{Data: guest}
	}
	files["work/d/"] = harness.File{Mode: 0o755}
	files["work/out"] = harness.File{Data: []byte("outside")}
	return t.Image("conformance", files, ocispec.ImageConfig{Env: []string{
		"EMPTY=", "EQUALS=a=b", fmt.Sprintf("NOW=%d", time.Now().UnixNano()),
	}})
}

var allCases = regexp.MustCompile(`(?m)^\d+ cases, 0 of them failed\s*$`)

func requireAll(t testing.TB, stderr string, code uint32, log string) {
	t.Helper()
	require.True(t, code == 0 && allCases.MatchString(stderr), "status %d: %s", code, log)
}

// Calls, of each version what it has, on files, clocks and sockets.
func TestConformance(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	image := conformanceImage(tt, conformance(tt))
	n := newNetwork(tt)
	for name, args := range map[string][]string{
		"p1":         {"/p1.wasm", "files", "/d", "", "a b"},
		"p2 clocks":  {"/p2.wasm", "clocks"},
		"p2 files":   {"/p2.wasm", "files"},
		"p2 sockets": {"/p2.wasm", "sockets"},
		"p3 clocks":  {"/p3.wasm", "cases", "clocks"},
		"p3 files":   {"/p3.wasm", "cases", "files"},
		"p3 sockets": {"/p3.wasm", "cases", "sockets"},
	} {
		t.Run(name, func(t *testing.T) {
			result := tt.Once(harness.Config{
				Image: image, Args: args, Opts: []oci.SpecOpts{n.opts()}, RuntimeOptions: body("[engine]\npreopens = ['/:/', '/work/d:/d']\nnetwork = 'all'"),
			})
			requireAll(t, result.Stderr, result.Code, fmt.Sprintf("%+v", result))
		})
	}
	t.Run("p2 polls for nothing", func(t *testing.T) {
		result := tt.Once(harness.Config{Image: image, Args: []string{"/p2.wasm", "no pollable"}})
		require.EqualValues(t, 134, result.Code, "%+v", result)
	})
	t.Run("p1 sockets", func(t *testing.T) {
		c := tt.Run(harness.Config{
			Image: image, Args: []string{"/p1.wasm", "sockets"}, Opts: []oci.SpecOpts{n.opts()},
			RuntimeOptions: body("[engine]\nnetwork = 'all'\ntcplisten = '127.0.0.1:8080'"),
		})
		require.NoError(t, c.Stdout.WaitFor("listening", 10*time.Second), "%s", c.Stderr)
		conn, err := n.dial(tt.Ctx, "tcp", "127.0.0.1:8080")
		require.NoError(t, err)
		defer conn.Close()
		// In pieces: the guest waits for all of them.
		for _, text := range []string{"hel", "lo\n"} {
			_, err = io.WriteString(conn, text)
			require.NoError(t, err)
		}
		asked := make([]byte, 5)
		_, err = io.ReadFull(conn, asked)
		require.NoError(t, err, "%s", c.Stderr)
		require.Equal(t, "more\n", string(asked))
		_, err = io.WriteString(conn, "hello\n")
		require.NoError(t, err)
		said, err := io.ReadAll(conn)
		require.NoError(t, err)
		require.Equal(t, "bye\n", string(said), "%s", c.Stderr)
		require.NoError(t, conn.Close())
		result, err := tt.Finish(c)
		require.NoError(t, err)
		requireAll(t, result.Stderr, result.Code, fmt.Sprintf("%+v", result))
	})
}

// The standard streams: FIFOs and terminals of a container, what else they may be by hand.
func TestConformanceOfStreams(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	guests := conformance(tt)
	image := conformanceImage(tt, guests)
	zeros := "\x00\x00\x00" + strings.Repeat(".", 4096) + "\n"
	// How each is called, and what it writes behind "go".
	call := map[string][]string{"p1": {"streams"}, "p2": {"streams"}, "p3": {"cases", "streams"}}
	more := map[string]string{"p1": "", "p2": zeros, "p3": strings.Repeat(".", 100_000) + "\n"}
	for guest, more := range more {
		for _, kind := range []string{"fifo", "terminal"} {
			t.Run(guest+" "+kind, func(t *testing.T) {
				in, types := io.Pipe()
				c := tt.Run(harness.Config{
					Image: image, Args: slices.Concat([]string{"/" + guest + ".wasm"}, call[guest], []string{kind}), Stdin: in, Terminal: kind == "terminal", RuntimeOptions: body("[engine]\npreopens = ['/:/', '/work/d:/d']"),
				})
				require.NoError(t, c.Stdout.WaitFor("go", 10*time.Second), "%s%s", c.Stdout, c.Stderr)
				_, err := io.WriteString(types, "input\n")
				require.NoError(t, err)
				if kind == "fifo" {
					require.NoError(t, types.Close())
					require.NoError(t, c.Task.CloseIO(tt.Ctx, client.WithStdinCloser))
				} else {
					defer types.Close()
				}
				result, err := tt.Finish(c)
				require.NoError(t, err)
				log := fmt.Sprintf("%+v", result)
				if kind == "terminal" {
					requireAll(t, strings.ReplaceAll(result.Stdout, "\r", ""), result.Code, log)
					return
				}
				requireAll(t, result.Stderr, result.Code, log)
				want := "go\n" + more
				if guest == "p2" {
					want += "spliced\n"
				}
				require.Equal(t, want, result.Stdout)
			})
		}
	}
	t.Run("full", func(t *testing.T) {
		in, types := io.Pipe()
		reader := &lateReader{begin: make(chan struct{})}
		begin := sync.OnceFunc(func() { close(reader.begin) })
		t.Cleanup(begin)
		c := tt.Run(harness.Config{Image: image, Args: []string{"/p2.wasm", "full"}, Stdin: in, Stdout: reader})
		require.NoError(t, c.Stderr.WaitFor("full\n", 10*time.Second), "%s", c.Stderr)
		begin()
		_, err := io.WriteString(types, "r")
		require.NoError(t, err)
		result, err := tt.Finish(c)
		require.NoError(t, err)
		require.NoError(t, types.Close())
		requireAll(t, result.Stderr, result.Code, result.Stderr)
		require.Contains(t, result.Stderr, fmt.Sprintf("written %d\n", reader.size))
	})

	for name, test := range map[string]struct{ guest, args, in, out string }{
		"p1 file":       {"p1", "streams file", "input", "output"},
		"p1 null":       {"p1", "streams null", "/dev/null", "/dev/null"},
		"p2 file":       {"p2", "streams file", "input", "output"},
		"p2 null":       {"p2", "streams null", "/dev/null", "/dev/null"},
		"p3 file":       {"p3", "cases streams file", "input", "output"},
		"p3 null":       {"p3", "cases streams null", "/dev/null", "/dev/null"},
		"p3 broken":     {"p3", "cases streams broken", ".", "|"},
		"p2 broken":     {"p2", "broken closed", ".", "|"},
		"p2 has failed": {"p2", "broken insufficient-space", ".", "/dev/full"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			require.NoError(t, os.WriteFile(dir+"/input", []byte("input\n"), 0o600))
			require.NoError(t, os.WriteFile(dir+"/guest.wasm", guests[test.guest], 0o600))
			open := func(name string, flags int) *os.File {
				if !filepath.IsAbs(name) {
					name = filepath.Join(dir, name)
				}
				f, err := os.OpenFile(name, flags, 0o600)
				require.NoError(t, err)
				t.Cleanup(func() { f.Close() })
				return f
			}
			cmd := exec.Command(shimPath(), append([]string{"run", dir + "/guest.wasm"}, strings.Fields(test.args)...)...)
			cmd.Stdin = open(test.in, os.O_RDONLY)
			if test.out == "|" {
				reader, writer, err := os.Pipe()
				require.NoError(t, err)
				require.NoError(t, reader.Close())
				defer writer.Close()
				cmd.Stdout = writer
			} else {
				cmd.Stdout = open(test.out, os.O_WRONLY|os.O_CREATE)
			}
			cmd.Stderr = open("errors", os.O_WRONLY|os.O_CREATE)
			err := cmd.Run()
			stderr, readErr := os.ReadFile(dir + "/errors")
			require.NoError(t, readErr)
			require.NoError(t, err, "%s", stderr)
			require.Regexp(t, allCases, string(stderr))
			if test.out == "output" {
				said, err := os.ReadFile(dir + "/output")
				require.NoError(t, err)
				require.Equal(t, "go\n"+more[test.guest], string(said))
			}
		})
	}
}

// lateReader takes what is written only once it may begin.
type lateReader struct {
	begin chan struct{}
	size  int
}

func (r *lateReader) Write(p []byte) (int, error) {
	<-r.begin
	r.size += len(p)
	return len(p), nil
}
