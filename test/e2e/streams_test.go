// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/moby/spdystream"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// criTest is a pod on a containerd whose CRI plugin has streams over ttrpc.
type criTest struct {
	*testing.T
	*harness.CRI
	ctx   context.Context
	image string
	pod   *cri.PodSandboxConfig
	id    string // of the pod
}

func newCRITest(t *testing.T) *criTest {
	t.Helper()
	tt := harness.New(t, smoke.Ours) // looks for what is left
	c, err := harness.StartCRI(tt.Ctx, harness.Containerd24, smoke.Ours)
	require.NoError(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("containerd's log:\n%s", c.LogTail(60))
		}
		require.NoError(t, c.Stop())
	})
	r := &criTest{T: t, CRI: c, ctx: tt.Ctx}
	image := smoke.Image(&harness.T{T: t, Daemon: c.Inside(), Ctx: c.Inside().In(tt.Ctx)})
	r.image = image.Name()
	r.pod = c.Pod(harness.FreshID("pod"))
	pod, err := c.RunPodSandbox(r.ctx, &cri.RunPodSandboxRequest{Config: r.pod, RuntimeHandler: "streams"})
	require.NoError(t, err)
	r.id = pod.PodSandboxId
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		_, err := c.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: r.id})
		require.NoError(t, err)
	})
	return r
}

// run starts a container.
func (r *criTest) run(change func(*cri.ContainerConfig), args ...string) string {
	r.Helper()
	name := harness.FreshID("c")
	config := &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: name}, Image: &cri.ImageSpec{Image: r.image}, Command: args, LogPath: name + ".log",
	}
	if change != nil {
		change(config)
	}
	created, err := r.CreateContainer(r.ctx, &cri.CreateContainerRequest{PodSandboxId: r.id, Config: config, SandboxConfig: r.pod})
	require.NoError(r, err)
	_, err = r.StartContainer(r.ctx, &cri.StartContainerRequest{ContainerId: created.ContainerId})
	require.NoError(r, err)
	return created.ContainerId
}

// log waits for the end of a container and returns what CRI has logged of its stdout.
func (r *criTest) log(id string) string {
	r.Helper()
	var status *cri.ContainerStatus
	require.Eventually(r, func() bool {
		resp, err := r.ContainerStatus(r.ctx, &cri.ContainerStatusRequest{ContainerId: id})
		status = resp.GetStatus()
		return err == nil && status.State == cri.ContainerState_CONTAINER_EXITED
	}, 60*time.Second, 5*time.Millisecond)
	require.Zero(r, status.ExitCode)
	text, err := os.ReadFile(status.LogPath)
	require.NoError(r, err)
	var all strings.Builder
	for line := range strings.Lines(string(text)) {
		_, rest, _ := strings.Cut(line, " ") // time, stream, full or partial, text
		stream, rest, _ := strings.Cut(rest, " ")
		tag, rest, _ := strings.Cut(rest, " ")
		if tag == "P" {
			rest = strings.TrimSuffix(rest, "\n")
		}
		if stream == "stdout" {
			all.WriteString(rest)
		}
	}
	return all.String()
}

// session is an exec or an attach, as kubectl has it: over SPDY.
type session struct {
	stdin, stdout *spdystream.Stream
}

func (r *criTest) dial(address string, more ...string) *session {
	r.Helper()
	u, err := url.Parse(address)
	require.NoError(r, err)
	conn, err := net.Dial("tcp", u.Host)
	require.NoError(r, err)
	r.Cleanup(func() { conn.Close() })
	request, err := http.NewRequestWithContext(r.ctx, http.MethodPost, address, nil)
	require.NoError(r, err)
	request.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"SPDY/3.1"}, "X-Stream-Protocol-Version": {"v4.channel.k8s.io"}}
	require.NoError(r, request.Write(conn))
	response, err := http.ReadResponse(bufio.NewReader(conn), request)
	require.NoError(r, err)
	require.Equal(r, http.StatusSwitchingProtocols, response.StatusCode)
	spdy, err := spdystream.NewConnection(conn, false)
	require.NoError(r, err)
	go spdy.Serve(spdystream.NoOpStreamHandler)
	open := func(kind string) *spdystream.Stream {
		stream, err := spdy.CreateStream(http.Header{"Streamtype": {kind}}, nil, false)
		require.NoError(r, err)
		require.NoError(r, stream.Wait())
		return stream
	}
	status := open("error") // read, or the connection stands still
	require.NoError(r, status.Close())
	go func() { _, _ = io.Copy(io.Discard, status) }()
	for _, kind := range more {
		open(kind)
	}
	return &session{stdin: open("stdin"), stdout: open("stdout")}
}

// exchange gives a session its input, and with end the end of it, and returns all that
// the session answers.
func (r *criTest) exchange(s *session, input []byte, end bool) []byte {
	r.Helper()
	go func() {
		_, _ = s.stdin.Write(input)
		if end {
			_ = s.stdin.Close()
		}
	}()
	output, err := io.ReadAll(s.stdout)
	require.NoError(r, err)
	return output
}

// requireSame compares long texts, of which it shows where they begin to differ.
func requireSame(t *testing.T, want, got string) {
	t.Helper()
	at := 0
	for at < len(want) && at < len(got) && want[at] == got[at] {
		at++
	}
	show := func(s string) string { return s[min(at, len(s)):min(at+40, len(s))] }
	require.True(t, want == got, "%d bytes of %d; from byte %d on found %q, wanted %q", len(got), len(want), at, show(got), show(want))
}

func sequence(to int) string {
	var b strings.Builder
	for i := range to {
		fmt.Fprintln(&b, i+1)
	}
	return b.String()
}

// The CRI plugin's own client of streams over ttrpc gets and gives everything.
func TestStreamsCRI(t *testing.T) {
	r := newCRITest(t)
	interactive := func(c *cri.ContainerConfig) { c.Stdin, c.StdinOnce = true, true }

	// Logs are complete: of 10 MB, and of a guest that ends at once.
	requireSame(t, sequence(1_500_000), r.log(r.run(nil, "/bin/sh", "-c", "seq 1 1500000")))
	for range 20 {
		require.Equal(t, "hello\n", r.log(r.run(nil, "/hello.wasm")))
	}

	// What is attached is the input, from its beginning to its end.
	input := []byte(sequence(100_000))
	cats := map[string][]byte{"/bin/cat": input, "/cat.wasm": append(bytes.Clone(input), "end\n"...)}
	for cat, want := range cats {
		id := r.run(interactive, cat)
		attach, err := r.Attach(r.ctx, &cri.AttachRequest{ContainerId: id, Stdin: true, Stdout: true})
		require.NoError(t, err)
		output := r.exchange(r.dial(attach.Url), input, true)
		requireSame(t, string(want), string(output))
		requireSame(t, string(want), r.log(id))
	}

	// Exec, without input and with.
	id := r.run(nil, "/sleep.wasm")
	sync, err := r.ExecSync(r.ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"/bin/sh", "-c", "seq 1 100000; echo no >&2; exit 3"}, Timeout: 20})
	require.NoError(t, err)
	require.EqualValues(t, 3, sync.ExitCode)
	require.Equal(t, "no\n", string(sync.Stderr))
	requireSame(t, sequence(100_000), string(sync.Stdout))
	for cat, want := range cats {
		exec, err := r.Exec(r.ctx, &cri.ExecRequest{ContainerId: id, Cmd: []string{cat}, Stdin: true, Stdout: true})
		require.NoError(t, err)
		requireSame(t, string(want), string(r.exchange(r.dial(exec.Url), input, true)))
	}
	// A program that wants no more of its input does not keep the session.
	exec, err := r.Exec(r.ctx, &cri.ExecRequest{ContainerId: id, Cmd: []string{"/bin/sh", "-c", "read a; echo $a"}, Stdin: true, Stdout: true})
	require.NoError(t, err)
	require.Equal(t, "1\n", string(r.exchange(r.dial(exec.Url), input, false)))
}

// With a terminal there is one stream for all output, and no end of the input.
func TestStreamsCRITerminal(t *testing.T) {
	r := newCRITest(t)
	id := r.run(nil, "/sleep.wasm")
	exec, err := r.Exec(r.ctx, &cri.ExecRequest{ContainerId: id, Cmd: []string{"/bin/sh", "-c", "read a; echo got $a"}, Stdin: true, Stdout: true, Tty: true})
	require.NoError(t, err)
	require.Equal(t, "this\r\ngot this\r\n", string(r.exchange(r.dial(exec.Url, "resize"), []byte("this\n"), false)))
}

// A restarted containerd opens the streams that it had by their ids. Meanwhile nothing
// that a container writes is lost.
func TestStreamsCRIRestart(t *testing.T) {
	r := newCRITest(t)
	id := r.run(nil, "/bin/sh", "-c", "i=0; while [ $i -lt 600 ]; do i=$((i+1)); echo $i; sleep 0.002; done")
	ended := r.run(nil, "/bin/sh", "-c", "sleep 0.3; seq 1 2000")
	time.Sleep(200 * time.Millisecond)
	require.NoError(t, r.Kill())
	time.Sleep(300 * time.Millisecond)
	require.NoError(t, r.Restart(r.ctx))
	require.Equal(t, sequence(2000), inOrder(r.log(ended)))
	require.Equal(t, sequence(600), inOrder(r.log(id)))
}

// inOrder are the lines of a sequence without those that came once more: what a client
// was sent last, before it was killed, its successor gets as well.
func inOrder(log string) string {
	var b strings.Builder
	next := 1
	for line := range strings.Lines(log) {
		if line == fmt.Sprintln(next) {
			b.WriteString(line)
			next++
		}
	}
	return b.String()
}

// pattern is input whose every piece differs from the next.
type pattern struct{ at, size int }

func (p *pattern) Read(b []byte) (int, error) {
	n := min(len(b), p.size-p.at)
	if n == 0 {
		return 0, io.EOF
	}
	for i := range b[:n] {
		b[i] = byte((p.at + i) >> 3 * 7)
	}
	p.at += n
	return n, nil
}

// 100 MB go through stdin and stdout, and are the same at the other end.
func TestStreamsMuch(t *testing.T) {
	const size = 100 << 20
	tt := harness.New(t, smoke.Ours)
	fifos := fifosOf(t)
	sum := sha256.New()
	_, _ = io.Copy(sum, &pattern{size: size})
	task, exit := startOn(tt, []string{"/bin/cat"}, fifos)
	go func() {
		f, err := os.OpenFile(fifos.Stdin, os.O_WRONLY, 0)
		if err == nil {
			_, _ = io.Copy(f, &pattern{size: size})
			f.Close()
		}
		_ = task.CloseIO(tt.Ctx, client.WithStdinCloser)
	}()
	f, err := os.Open(fifos.Stdout)
	require.NoError(t, err)
	defer f.Close()
	got := sha256.New()
	n, err := io.Copy(got, f)
	require.NoError(t, err)
	require.EqualValues(t, size, n)
	require.Equal(t, sum.Sum(nil), got.Sum(nil))
	require.Zero(t, (<-exit).ExitCode())
}

func fifosOf(t *testing.T) cio.Config {
	t.Helper()
	dir := t.TempDir()
	c := cio.Config{Stdin: dir + "/in", Stdout: dir + "/out", Stderr: dir + "/err"}
	for _, name := range []string{c.Stdin, c.Stdout, c.Stderr} {
		require.NoError(t, unix.Mkfifo(name, 0o600))
	}
	return c
}

// startOn starts a container on streams that the test itself reads and writes.
func startOn(t *harness.T, args []string, streams cio.Config) (client.Task, <-chan client.ExitStatus) {
	t.Helper()
	container, err := t.NewContainer(t.Ctx, harness.Config{Runtime: t.Runtime, Image: smoke.Image(t), Args: args})
	require.NoError(t, err)
	t.Cleanup(func() { _ = t.Remove(context.Background(), &harness.Container{Container: container}) })
	task, err := container.NewTask(t.Ctx, func(string) (cio.IO, error) { return &namedIO{streams}, nil })
	require.NoError(t, err)
	t.Cleanup(func() { _ = t.Remove(context.Background(), &harness.Container{Container: container, Task: task}) })
	exit, err := task.Wait(t.Ctx)
	require.NoError(t, err)
	require.NoError(t, task.Start(t.Ctx))
	return task, exit
}

// A reader may come late, read slowly, go, and come back: the container waits, and
// nothing is lost. Nor does it matter when the FIFOs lose their names.
func TestStreamsReaders(t *testing.T) {
	for name, args := range map[string][]string{"native": {"/bin/sh", "-c", "seq 1 60000"}, "guest": {"/cat.wasm"}} {
		t.Run(name, func(t *testing.T) {
			tt := harness.New(t, smoke.Ours)
			fifos := fifosOf(t)
			want := sequence(60_000)
			if name == "guest" {
				fifos.Stderr = ""
				want += "end\n"
			}
			task, exit := startOn(tt, args, fifos)
			if name == "guest" {
				go func() {
					if f, err := os.OpenFile(fifos.Stdin, os.O_WRONLY, 0); err == nil {
						_, _ = io.WriteString(f, sequence(60_000))
						f.Close()
					}
					_ = task.CloseIO(tt.Ctx, client.WithStdinCloser)
				}()
			}
			var got bytes.Buffer
			for i := range 4 {
				time.Sleep(20 * time.Millisecond)
				status, err := task.Status(tt.Ctx)
				require.NoError(t, err)
				require.Equal(t, client.Running, status.Status, "it waits")
				f, err := os.Open(fifos.Stdout)
				require.NoError(t, err)
				if i < 3 {
					_, err = io.CopyN(&got, f, 50_000)
				} else {
					require.NoError(t, os.RemoveAll(filepath.Dir(fifos.Stdout)))
					_, err = io.Copy(&got, f)
				}
				require.NoError(t, err)
				require.NoError(t, f.Close())
			}
			requireSame(t, want, got.String())
			require.Zero(t, (<-exit).ExitCode())
		})
	}
}

// The last that is written before the end is not lost, however busy the machine is:
// not of a container, and not of an exec.
func TestStreamsLastLines(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	image := smoke.Image(tt)
	for range runtime.NumCPU() {
		tt.Run(harness.Config{Image: image, Args: []string{"/spin.wasm"}})
	}
	c := sleeping(tt, []string{"/sleep.wasm"})
	lastLines := func(rounds int, run func(args []string) harness.Result) {
		for i := range rounds {
			args := [][]string{{"/native"}, {"/hello.wasm"}}[i%2]
			result := run(args)
			require.Equal(t, "hello\n", result.Stdout, "round %d: %s: %+v", i, args, result)
		}
	}
	lastLines(170, func(args []string) harness.Result { return tt.ExecOnce(c, harness.ExecConfig{Args: args}) })
	lastLines(30, func(args []string) harness.Result { return tt.Once(harness.Config{Image: image, Args: args}) })
}

// Nor is it where the client is late to read it: containerd's closes its ends before it
// deletes, whatever there is still to read. (With runc's shim it is lost.)
func TestStreamsLateReader(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	image := smoke.Image(tt)
	sleeper := sleeping(tt, []string{"/sleep.wasm"})
	text := sequence(8_000)
	for _, tc := range []struct {
		name     string
		args     []string
		stdin    string
		terminal bool
		want     string
	}{
		{"native", []string{"/bin/sh", "-c", "seq 1 8000"}, "", false, text},
		{"guest", []string{"/cat.wasm"}, text, false, text + "end\n"},
		{"terminal", []string{"/bin/sh", "-c", "seq 1 8000"}, "", true, strings.ReplaceAll(text, "\n", "\r\n")},
	} {
		stdin := func() io.Reader { return nil }
		if tc.stdin != "" {
			stdin = func() io.Reader { return strings.NewReader(tc.stdin) }
		}
		t.Run(tc.name, func(t *testing.T) {
			out := &lateWriter{}
			tt := *tt
			tt.T = t
			result := tt.Once(harness.Config{Image: image, Args: tc.args, Stdin: stdin(), Stdout: out, Terminal: tc.terminal})
			require.Zero(t, result.Code)
			requireSame(t, tc.want, out.got.String())
		})
		t.Run(tc.name+", exec", func(t *testing.T) {
			out := &lateWriter{}
			tt := *tt
			tt.T = t
			result := tt.ExecOnce(sleeper, harness.ExecConfig{Args: tc.args, Stdin: stdin(), Stdout: out, Terminal: tc.terminal})
			require.Zero(t, result.Code)
			requireSame(t, tc.want, out.got.String())
		})
	}
}

// lateWriter takes its time for the first that it is given.
type lateWriter struct{ got bytes.Buffer }

func (w *lateWriter) Write(b []byte) (int, error) {
	if w.got.Len() == 0 {
		time.Sleep(300 * time.Millisecond)
	}
	return w.got.Write(b)
}

// In a user namespace the streams can be opened again by their names in /dev, where the
// options IoUid and IoGid say whose they are.
func TestStreamsUserNamespace(t *testing.T) {
	tt := harness.New(t, smoke.Ours)
	const first = 100_000
	root := harness.WithSpec(func(s *oci.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		ids := []specs.LinuxIDMapping{{HostID: first, Size: 65536}}
		s.Linux.UIDMappings, s.Linux.GIDMappings = ids, ids
	})
	// Its root may make no directories in an image that is not its own.
	files := maps.Clone(smoke.Files(t))
	for _, dir := range []string{"proc", "dev", "sys", "run"} {
		files[dir+"/keep"] = harness.File{Mode: 0o644}
	}
	image := tt.Image("userns", files, ocispec.ImageConfig{Env: []string{"PATH=/bin"}})
	for uid, want := range map[uint32]string{first: "again\n", 0: ""} {
		result := tt.Once(harness.Config{
			Image: image, Args: []string{"/bin/sh", "-c", "echo again >/proc/self/fd/1"}, Opts: []oci.SpecOpts{root},
			RuntimeOptions: &options.Options{IoUid: uid, IoGid: uid},
		})
		require.Equal(t, want, result.Stdout, "%+v", result)
		result = tt.Once(harness.Config{Image: image, Args: []string{"/hello.wasm"}, Opts: []oci.SpecOpts{root}, RuntimeOptions: &options.Options{IoUid: uid, IoGid: uid}})
		require.Equal(t, "hello\n", result.Stdout, "%+v", result)
	}
}

// A client whose input is short has written all of it before its create is answered. It
// looks for the task then, to close the input, and does so once: nerdctl run -i. (With
// runc's shim it waits for ever now and then.)
func TestStreamsShortInput(t *testing.T) {
	for name, config := range map[string]func(*imageTest) harness.Config{
		"guest":  func(*imageTest) harness.Config { return harness.Config{Args: []string{"/cat.wasm"}} },
		"native": func(*imageTest) harness.Config { return harness.Config{Args: []string{"/bin/cat"}} },
		"compiled for long": func(tt *imageTest) harness.Config {
			slow := body("[engine]\ncompile = 'slow'")
			return harness.Config{Runtime: tt.shim, Image: tt.FileImage(fresh(t)), Args: []string{"/app.wasm", "cat"}, RuntimeOptions: slow}
		},
	} {
		t.Run(name, func(t *testing.T) {
			tt := newImageTest(t)
			c := config(tt)
			if c.Image == nil {
				c.Runtime, c.Image = smoke.Ours, smoke.Image(tt.T)
			}
			container, err := tt.NewContainer(tt.Ctx, c)
			require.NoError(t, err)
			var stdout bytes.Buffer
			stdin := &endingReader{Reader: strings.NewReader("abc\n"), end: func() {
				if task, err := container.Task(tt.Ctx, nil); err == nil {
					_ = task.CloseIO(tt.Ctx, client.WithStdinCloser)
				}
			}}
			task, err := container.NewTask(tt.Ctx, cio.NewCreator(cio.WithStreams(stdin, &stdout, io.Discard), cio.WithFIFODir(t.TempDir())))
			require.NoError(t, err)
			exit, err := task.Wait(tt.Ctx)
			require.NoError(t, err)
			require.NoError(t, task.Start(tt.Ctx))
			select {
			case <-exit:
			case <-time.After(harness.Slow(10 * time.Second)):
				t.Error("it waits for more input")
				require.NoError(t, task.Kill(tt.Ctx, unix.SIGKILL))
				<-exit
			}
			_, err = task.Delete(tt.Ctx)
			require.NoError(t, err)
			require.NoError(t, container.Delete(tt.Ctx))
			require.Regexp(t, `(^|\n)abc\n(end\n)?$`, stdout.String()) // and what the guest says besides
		})
	}
}

// endingReader tells of its end.
type endingReader struct {
	io.Reader
	end func()
}

func (r *endingReader) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	if err != nil {
		r.end()
	}
	return n, err
}
