// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/errdefs/pkg/errgrpc"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// logLines are the lines about a container in the log to which containerd
// copies its shims'.
func logLines(t *harness.T, id string) []string {
	var lines []string
	for line := range strings.Lines(t.LogTail(2000)) {
		if strings.Contains(line, " instance="+id+" ") || strings.HasSuffix(line, " instance="+id+"\n") {
			lines = append(lines, strings.TrimSuffix(line, "\n"))
		}
	}
	return lines
}

// One line says why a container failed, in containerd's format, with the
// container and its pod in it.
func TestTrust5FailureInOneLine(t *testing.T) {
	for _, test := range []struct {
		args []string
		line string // a regular expression
	}{
		{[]string{"/trap.wasm"}, `level=warning msg="guest failed: wasm trap: wasm .unreachable. instruction executed.*" .*stage=trap status=134$`},
		{[]string{"/component-trap.wasm"}, `level=warning msg="guest failed: wasm trap: wasm .unreachable. instruction executed.*" .*stage=trap status=134$`},
		{[]string{"/garbage.wasm"}, `level=warning msg="guest failed: cannot compile /garbage.wasm: .*" .*stage=compile status=126$`},
		{[]string{"/hello.wasm#nope"}, `level=warning msg="guest failed: /hello.wasm has no export \\"nope\\"; .*" .*stage=load status=126$`},
	} {
		t.Run(test.args[0], func(t *testing.T) {
			tt := harness.New(t, smoke.Ours)
			image := badImage(tt)
			id := harness.FreshID("pod")
			sandbox := tt.Run(harness.Config{ID: id, Pod: id, Image: image, Args: []string{"/native", "sleep"}})
			c := tt.Run(harness.Config{Pod: id, Image: image, Args: test.args})
			_, err := tt.Finish(c)
			require.NoError(t, err)
			// What became of compiling ahead is another line.
			lines := slices.DeleteFunc(logLines(tt, c.ID()), func(line string) bool {
				return strings.Contains(line, " took=") || strings.Contains(line, "without an artifact")
			})
			require.Len(t, lines, 1)
			require.Regexp(t, `^time="[-0-9]+T[0-9:.]+Z" `+test.line, lines[0])
			require.Contains(t, lines[0], " pod="+id+" ")
			require.Contains(t, lines[0], " namespace="+tt.Namespace+" ")
			require.Contains(t, lines[0], " runtime="+smoke.Ours+" ")
			require.NoError(t, tt.Remove(tt.Ctx, sandbox))
		})
	}
	t.Run("create", func(t *testing.T) {
		tt := harness.New(t, smoke.Ours)
		id := harness.FreshID("c")
		requireRefused(tt, harness.Config{ID: id, Image: smoke.Image(tt), Args: []string{"/nope.wasm"}}, codes.NotFound, "/nope.wasm does not exist")
		require.Len(t, logLines(tt, id), 1)
		require.Regexp(t, `level=error msg="create container" error="entrypoint ./nope.wasm.: /nope.wasm does not exist in the container: not found" instance=`+id, strings.ReplaceAll(logLines(tt, id)[0], `\"`, "."))
	})
	t.Run("nothing to say of success", func(t *testing.T) {
		tt := harness.New(t, smoke.Ours)
		for _, args := range [][]string{{"/hello.wasm"}, {"/exit.wasm"}, {"/component-hello.wasm"}, {"/bin/true"}} {
			tt.Once(harness.Config{Image: smoke.Image(tt), Args: args}) // compiles
			c := tt.Run(harness.Config{Image: smoke.Image(tt), Args: args})
			_, err := tt.Finish(c)
			require.NoError(t, err)
			require.Empty(t, logLines(tt, c.ID()))
		}
	})
}

// The engine's lines are in the log, at the level that the runtime's options
// set, and not among the container's output.
func TestTrust5EngineMessages(t *testing.T) {
	for level, there := range map[string]bool{"debug": true, "trace": true, "info": false, "error": false} {
		for _, guest := range []string{"/hello.wasm", "/component-hello.wasm"} {
			t.Run(level+guest, func(t *testing.T) {
				tt := harness.New(t, smoke.Ours)
				c := tt.Run(harness.Config{Image: smoke.Image(tt), Args: []string{guest}, RuntimeOptions: body("log_level = '" + level + "'")})
				result, err := tt.Finish(c)
				require.NoError(t, err)
				require.Empty(t, result.Stderr)
				found := strings.Join(logLines(tt, c.ID()), "\n")
				compiled := regexp.MustCompile(`level=debug msg="(compiled|mapped the artifact of) ` + guest + `: \d+ bytes in \d+\.\d+ ms" instance=` + c.ID() + ` namespace=`)
				require.Equal(t, there, compiled.MatchString(found), found)
				require.Equal(t, there, strings.Contains(found, "create took"), found)
			})
		}
	}
}

// containerd's own level reaches the shim.
func TestTrust5DebugFlag(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	binary, err := tt.ShimBinary(smoke.Ours)
	require.NoError(t, err)
	require.NotEmpty(t, binary)
	d, err := harness.StartLogging(tt.Ctx, harness.Containerd24, "debug")
	require.NoError(t, err)
	defer func() { require.NoError(t, d.Stop()) }()
	image, err := d.Image(d.In(tt.Ctx), "guests", smoke.Files(t), ocispec.ImageConfig{})
	require.NoError(t, err)
	_, err = d.Once(tt.Ctx, harness.Config{ID: "loud", Runtime: smoke.Ours, Image: image, Args: []string{"/hello.wasm"}})
	require.NoError(t, err)
	require.Regexp(t, `level=debug msg="mapped the artifact of /hello.wasm: .*instance=loud`, d.LogTail(200))
}

// outputs are containers that say hello on stdout.
var outputs = map[string]string{"/hello.wasm": "hello\n", "/component-hello.wasm": "hello from a component\n", "/native": "hello"}

// runWith runs a container whose streams are named by creator.
func runWith(t *harness.T, id, program string, creator cio.Creator) error {
	container, err := t.NewContainer(t.Ctx, harness.Config{ID: id, Runtime: t.Runtime, Image: smoke.Image(t), Args: []string{program}})
	require.NoError(t, err)
	defer func() { require.NoError(t, container.Delete(t.Ctx, client.WithSnapshotCleanup)) }()
	task, err := container.NewTask(t.Ctx, creator)
	if err != nil {
		return err
	}
	exited, err := task.Wait(t.Ctx)
	require.NoError(t, err)
	require.NoError(t, task.Start(t.Ctx))
	exit := <-exited
	require.Zero(t, exit.ExitCode())
	_, err = task.Delete(t.Ctx)
	return err
}

func TestTrust5File(t *testing.T) {
	for _, runtime := range []string{smoke.Ours, smoke.Runc} {
		for program, want := range outputs {
			if runtime == smoke.Runc && program != "/native" {
				continue
			}
			t.Run(runtime+program, func(t *testing.T) {
				tt := harness.New(t, runtime)
				file := filepath.Join(t.TempDir(), "made", "for it", "log")
				require.NoError(t, runWith(tt, harness.FreshID("c"), program, cio.LogFile(file)))
				require.NoError(t, runWith(tt, harness.FreshID("c"), program, cio.LogFile(file)), "appends")
				text, err := os.ReadFile(file)
				require.NoError(t, err)
				require.Equal(t, 2, strings.Count(string(text), strings.TrimSpace(want)), "%s", text)
				info, err := os.Stat(file)
				require.NoError(t, err)
				require.Equal(t, os.FileMode(0o644), info.Mode())
			})
		}
	}
	t.Run("ctr", func(t *testing.T) {
		tt := harness.New(t, smoke.Ours)
		file := filepath.Join(t.TempDir(), "log")
		_, err := tt.Ctr(tt.Ctx, "run", "--rm", "--runtime", smoke.Ours,
			"--snapshotter", harness.Snapshotter, "--log-uri", "file://"+file, smoke.Image(tt).Name(), harness.FreshID("c"), "/hello.wasm")
		require.NoError(t, err)
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Equal(t, "hello\n", string(text))
	})
}

// A logger that keeps containerd's contract gets all output, ends with the
// container, and knows whose output it is.
func TestTrust5Logger(t *testing.T) {
	logger := buildLogger(t)
	for _, runtime := range []string{smoke.Ours, smoke.Runc} {
		for program, want := range outputs {
			if runtime == smoke.Runc && program != "/native" {
				continue
			}
			t.Run(runtime+program, func(t *testing.T) {
				tt := harness.New(t, runtime)
				file := filepath.Join(t.TempDir(), "log")
				id := harness.FreshID("c")
				require.NoError(t, runWith(tt, id, program, cio.BinaryIO(logger, map[string]string{"-to": file})))
				text, err := os.ReadFile(file)
				require.NoError(t, err)
				require.Contains(t, string(text), fmt.Sprintf("%s %s began\n", tt.Namespace, id))
				require.Contains(t, string(text), "stdout: "+strings.TrimSpace(want))
				require.Contains(t, string(text), "ended\n")
			})
		}
	}
	for name, test := range map[string]struct {
		uri     string
		code    codes.Code
		message string
	}{
		"missing":       {"binary:///no/such/logger", codes.NotFound, `stdout "binary:///no/such/logger": start logger: fork/exec /no/such/logger: no such file or directory`},
		"never ready":   {"binary-v2:///bin/true", codes.Unavailable, "closed descriptor 5 without writing to it"},
		"not a program": {"binary:///etc/passwd", codes.Unknown, "start logger: fork/exec /etc/passwd: permission denied"},
	} {
		t.Run(name, func(t *testing.T) {
			tt := harness.New(t, smoke.Ours)
			u, err := url.Parse(test.uri)
			require.NoError(t, err)
			err = runWith(tt, harness.FreshID("c"), "/hello.wasm", cio.LogURI(u))
			st := status.Convert(errgrpc.ToGRPC(err))
			require.Equal(t, test.code.String(), st.Code().String(), st.Message())
			require.Contains(t, st.Message(), test.message)
			tt.RequireNothingLeft()
		})
	}
	// The container goes on without its logger, and meets what a closed pipe is.
	t.Run("killed", func(t *testing.T) {
		tt := harness.New(t, smoke.Ours)
		file := filepath.Join(t.TempDir(), "log")
		container, err := tt.NewContainer(tt.Ctx, harness.Config{Runtime: tt.Runtime, Image: smoke.Image(tt), Args: []string{"/sleep.wasm"}})
		require.NoError(t, err)
		task, err := container.NewTask(tt.Ctx, cio.BinaryIO(logger, map[string]string{"-to": file, "-die": "true"}))
		require.NoError(t, err)
		require.NoError(t, task.Start(tt.Ctx))
		require.Eventually(t, func() bool {
			text, _ := os.ReadFile(file)
			return strings.Contains(string(text), "dies\n")
		}, 10*time.Second, time.Millisecond)
		s, err := task.Status(tt.Ctx)
		require.NoError(t, err)
		require.Equal(t, client.Running, s.Status)
		_, err = task.Delete(tt.Ctx, client.WithProcessKill)
		require.NoError(t, err)
		require.NoError(t, container.Delete(tt.Ctx, client.WithSnapshotCleanup))
	})
}

// buildLogger builds testdata/logger.
func buildLogger(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "logger")
	out, err := exec.Command("go", "build", "-o", path, "./testdata/logger").CombinedOutput()
	require.NoError(t, err, "%s", out)
	return path
}

// An engine's descriptor says how much is logged where nobody else says it, and
// whether at all.
func TestTrust5DescriptorsLogger(t *testing.T) {
	for _, test := range []struct {
		engine  string // in testdata
		options any
		levels  []string
	}{
		{"loud", nil, []string{"error", "warning", "info", "debug"}},
		{"loud", body("log_level = 'warn'"), []string{"error", "warning"}},
		{"silent", nil, nil},
	} {
		t.Run(fmt.Sprintf("%s, %d levels", test.engine, len(test.levels)), func(t *testing.T) {
			tt := harness.New(t, smoke.Ours)
			c := tt.Run(harness.Config{Runtime: buildShim(t, test.engine), Image: smoke.Image(tt), Args: []string{"/hello.wasm"}, RuntimeOptions: test.options})
			_, err := tt.Finish(c)
			require.NoError(t, err)
			var levels []string
			for _, line := range logLines(tt, c.ID()) {
				if strings.Contains(line, `msg="a line of the engine's"`) {
					levels = append(levels, regexp.MustCompile(`level=(\w+)`).FindStringSubmatch(line)[1])
				}
			}
			require.Equal(t, test.levels, levels)
		})
	}
}
