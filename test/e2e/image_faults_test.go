// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/libwasmshim/libwasmshim/test/harness"
)

var slow = body("[engine]\ncompile = 'slow'")

func TestImageBadInput(t *testing.T) {
	tt := newImageTest(t)
	refused := func(image client.Image, is func(error) bool, text string) {
		t.Helper()
		_, err := tt.Daemon.Create(tt.Ctx, harness.Config{Runtime: tt.shim, Image: image})
		require.ErrorContains(t, err, text)
		require.True(t, is(err), "%v", err)
	}
	t.Run("damaged layer", func(t *testing.T) {
		module := fresh(t)
		image := tt.LayerImage(module)
		file := tt.blob(digest.FromBytes(module))
		require.NoError(t, os.Chmod(file, 0o644))
		damaged := append([]byte{}, module...)
		damaged[len(damaged)-1]++
		require.NoError(t, os.WriteFile(file, damaged, 0o644))
		refused(image, errdefs.IsDataLoss, fmt.Sprintf("layer %s is damaged in containerd's content store, its bytes are %s; remove the image and pull it again", digest.FromBytes(module), digest.FromBytes(damaged)))
		require.NoError(t, os.Truncate(file, 10))
		refused(image, errdefs.IsDataLoss, fmt.Sprintf("layer %s has 10 bytes in containerd's content store, its manifest says %d", digest.FromBytes(module), len(module)))
		require.Zero(t, tt.compilations(module))
		require.NoError(t, os.WriteFile(file, module, 0o644))
		require.Equal(t, layerLine(module, "compiled"), tt.out(harness.Config{Image: image}))
		// It is noticed later, too.
		require.NoError(t, os.WriteFile(file, damaged, 0o644))
		refused(image, errdefs.IsDataLoss, "is damaged in containerd's content store")
	})
	t.Run("missing layer", func(t *testing.T) {
		module := fresh(t)
		image := tt.LayerImage(module)
		require.NoError(t, os.Remove(tt.blob(digest.FromBytes(module))))
		refused(image, errdefs.IsNotFound, fmt.Sprintf("blob %s is not in containerd's content store", digest.FromBytes(module)))
	})
	t.Run("removed image", func(t *testing.T) {
		image := tt.LayerImage(fresh(t))
		container, err := tt.NewContainer(tt.Ctx, harness.Config{Runtime: tt.shim, Image: image})
		require.NoError(t, err)
		defer func() { require.NoError(t, container.Delete(tt.Ctx, client.WithSnapshotCleanup)) }()
		tt.removeImage(image)
		_, err = container.NewTask(tt.Ctx, nullIO)
		require.ErrorContains(t, err, "ask containerd for image "+image.Name())
		require.True(t, errdefs.IsNotFound(err), "%v", err)
	})
	t.Run("empty", func(t *testing.T) {
		refused(tt.LayerImage(nil), errdefs.IsInvalidArgument, fmt.Sprintf("layer %s of type application/wasm is empty", digest.FromBytes(nil)))
		refused(tt.FileImage(nil), errdefs.IsInvalidArgument, `entrypoint "/app.wasm": "/app.wasm" is empty`)
	})
	t.Run("no WebAssembly", func(t *testing.T) {
		refused(tt.LayerImage([]byte("some text")), errdefs.IsInvalidArgument, "the image's code is not WebAssembly; cachier runs only: WebAssembly module, WebAssembly component")
		refused(tt.LayerImage(guest(t, "hello.wat")), errdefs.IsInvalidArgument, "the image's code is a WebAssembly text; cachier runs only")
	})
	t.Run("too many layers", func(t *testing.T) {
		var blobs []harness.Blob
		for range 257 {
			blobs = append(blobs, harness.Blob{MediaType: harness.WasmLayer, Data: guest(t, "hello.wasm")})
		}
		refused(tt.wasm(harness.Wasm("/app.wasm", blobs...)), errdefs.IsInvalidArgument, "has more than 256 layers")
		want := strings.Repeat(layerLine(blobs[0].Data, "compiled"), 256)
		require.Equal(t, want, tt.out(harness.Config{Image: tt.wasm(harness.Wasm("/app.wasm", blobs[:256]...))}))
	})
}

// A large module passes through a daemon without a trace in its memory.
func TestImageLarge(t *testing.T) {
	tt := newImageTest(t)
	peak := func(image client.Image, option string) int {
		c := tt.Run(harness.Config{Runtime: tt.shim, Image: image, Args: []string{"/app.wasm", "sleep"}, RuntimeOptions: body("[engine]\ncompile = '" + option + "'")})
		require.NoError(t, c.Stdout.WaitFor("compiled", time.Minute))
		shims := tt.Shims()
		require.Len(t, shims, 1)
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", shims[0].Pid))
		require.NoError(t, err)
		_, line, _ := strings.Cut(string(status), "VmHWM:")
		var kB int
		_, err = fmt.Sscan(line, &kB)
		require.NoError(t, err)
		require.NoError(t, tt.Remove(tt.Ctx, c))
		tt.RequireNothingLeft()
		return kB
	}
	// A custom section of 200 MB: its id, its size, an empty name, nothing.
	const size = 200 << 20
	large := append(fresh(t), 0, 0x80|size&0x7f, 0x80|(size>>7)&0x7f, 0x80|(size>>14)&0x7f, size>>21&0x7f)
	large = append(large, make([]byte, size)...)
	for kind, image := range tt.bothKinds() {
		t.Run(kind, func(t *testing.T) {
			small, big := image(fresh(t)), image(large)
			least := peak(small, "")
			require.Less(t, peak(big, kind), least+8<<10, "cold")
			require.Less(t, peak(big, kind), least+8<<10, "warm")
		})
	}
}

// What containerd cannot store runs all the same.
func TestImageStoreFails(t *testing.T) {
	tt := newImageTest(t)
	ingest := filepath.Join(tt.Dir, "root/io.containerd.content.v1.content/ingest")
	for name, mount := range map[string]func() error{
		"read-only": func() error {
			if err := unix.Mount(ingest, ingest, "", unix.MS_BIND, ""); err != nil {
				return err
			}
			return unix.Mount("", ingest, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
		},
		"full": func() error { return unix.Mount("tmpfs", ingest, "tmpfs", 0, "nr_blocks=1,nr_inodes=64") },
	} {
		for kind, imageOf := range tt.bothKinds() {
			t.Run(name+"/"+kind, func(t *testing.T) {
				module := fresh(t)
				image := imageOf(module)
				require.NoError(t, mount())
				defer func() { _ = unix.Unmount(ingest, unix.MNT_DETACH) }()
				require.Contains(t, tt.out(harness.Config{Image: image}), "original")
				require.Contains(t, tt.LogTail(20), "is not kept")
				require.Contains(t, tt.out(harness.Config{Image: image}), "original", "nobody waits for what will fail")
				require.Empty(t, tt.artifacts(module))
				require.Equal(t, 1, tt.compilations(module))
				require.NoError(t, unix.Unmount(ingest, 0))
				require.NoError(t, tt.Forget()) // or a minute later
				require.Contains(t, tt.out(harness.Config{Image: image}), "compiled")
				require.Len(t, tt.artifacts(module), 1)
			})
		}
	}
}

// A file that changes while it is compiled runs as it was when it was read, and
// the next container runs what it is then.
func TestImageFileSwapped(t *testing.T) {
	tt := newImageTest(t)
	module, other := fresh(t), append(fresh(t), 0, 2, 1, 'x') // with an empty custom section, and so of another size
	image := tt.FileImage(module)
	container, err := tt.NewContainer(tt.Ctx, harness.Config{Runtime: tt.shim, Image: image})
	require.NoError(t, err)
	mounts, err := tt.Client.SnapshotService(harness.Snapshotter).Mounts(tt.Ctx, container.ID())
	require.NoError(t, err)
	require.NoError(t, container.Delete(tt.Ctx, client.WithSnapshotCleanup))
	var lower string
	for _, o := range mounts[0].Options {
		if dir, ok := strings.CutPrefix(o, "lowerdir="); ok {
			lower = dir
		}
	}
	file := filepath.Join(lower, "app.wasm")
	require.FileExists(t, file)

	result := make(chan string)
	go func() {
		result <- atOnce(tt, 1, func(int) harness.Config { return harness.Config{Image: image, RuntimeOptions: slow} })[0]
	}()
	require.Eventually(t, func() bool { return len(tt.Compilers()) > 0 }, 10*time.Second, time.Millisecond)
	require.NoError(t, os.WriteFile(file, other, 0o644))
	require.Equal(t, fileLine(module, "compiled"), <-result)
	require.Equal(t, fileLine(other, "compiled"), tt.out(harness.Config{Image: image, RuntimeOptions: slow}))
	require.Equal(t, 1, tt.compilations(other))
}

// kill kills the first of some processes, once there is one.
func (t *imageTest) kill(what func() []harness.Process) {
	require.Eventually(t, func() bool { return len(what()) > 0 }, 10*time.Second, time.Millisecond)
	if all := what(); len(all) > 0 {
		_ = unix.Kill(all[0].Pid, unix.SIGKILL)
	}
}

// Whoever is killed while a layer is compiled, somebody else takes over.
func TestImageTakeOver(t *testing.T) {
	tt := newImageTest(t)
	for name, test := range map[string]struct {
		victim                     func() []harness.Process
		compiled, original, failed int // of four containers
		lines                      int // in the log that say that it was compiled: a killed daemon's log is gone
	}{
		"compiler": {tt.Compilers, 3, 1, 0, 1},
		"worker":   {tt.Workers, 4, 0, 0, 1},
		"daemon":   {tt.compilersDaemon, 3, 0, 1, 0},
	} {
		for kind, imageOf := range tt.bothKinds() {
			t.Run(name+"/"+kind, func(t *testing.T) {
				module := fresh(t)
				image := imageOf(module)
				result := make(chan []string)
				go func() {
					result <- atOnce(tt, 4, func(int) harness.Config { return harness.Config{Image: image, RuntimeOptions: slow} })
				}()
				require.Eventually(t, func() bool { return len(tt.Compilers()) > 0 }, 10*time.Second, time.Millisecond)
				time.Sleep(300 * time.Millisecond) // all are there
				tt.kill(test.victim)
				var compiled, original, failed int
				outputs := <-result
				for _, out := range outputs {
					switch {
					case strings.HasSuffix(out, " compiled\n"):
						compiled++
					case strings.HasSuffix(out, " original\n"):
						original++
					default:
						failed++
					}
				}
				require.Equal(t, []int{test.compiled, test.original, test.failed}, []int{compiled, original, failed}, "%q", outputs)
				require.Equal(t, test.lines, tt.compilations(module))
				require.Len(t, tt.artifacts(module), 1)
				tt.RequireNothingLeft()
			})
		}
	}
}

// Who starts containers may have less patience than a compiler takes time: what was
// begun goes on, and a later try has it.
func TestImageImpatience(t *testing.T) {
	tt := newImageTest(t)
	for kind, imageOf := range tt.bothKinds() {
		t.Run(kind, func(t *testing.T) {
			module := fresh(t)
			image := imageOf(module)
			impatient := func() error {
				container, err := tt.NewContainer(tt.Ctx, harness.Config{Runtime: tt.shim, Image: image, RuntimeOptions: slow})
				require.NoError(t, err)
				defer func() { require.NoError(t, container.Delete(tt.Ctx, client.WithSnapshotCleanup)) }()
				ctx, cancel := context.WithTimeout(tt.Ctx, 600*time.Millisecond)
				defer cancel()
				task, err := container.NewTask(ctx, nullIO)
				if err == nil {
					_, err = task.Delete(tt.Ctx, client.WithProcessKill)
					require.NoError(t, err)
				}
				return err
			}
			require.Error(t, impatient(), "compiling takes a second and a half")
			require.Eventually(t, func() bool { return impatient() == nil }, 20*time.Second, time.Millisecond, "no single try waits for it")
			require.Contains(t, tt.out(harness.Config{Image: image, RuntimeOptions: slow}), "compiled")
			require.Len(t, tt.artifacts(module), 1)
		})
	}
}

// A create that is given up while it waits for a compiler leaves nothing.
func TestImageGivenUp(t *testing.T) {
	tt := newImageTest(t)
	for kind, imageOf := range tt.bothKinds() {
		for how, giveUp := range map[string]func(context.Context) (context.Context, context.CancelFunc){
			"deadline": func(ctx context.Context) (context.Context, context.CancelFunc) {
				return context.WithTimeout(ctx, time.Second)
			},
			"cancel": func(ctx context.Context) (context.Context, context.CancelFunc) {
				ctx, cancel := context.WithCancel(ctx)
				time.AfterFunc(time.Second, cancel)
				return ctx, cancel
			},
		} {
			t.Run(how+"/"+kind, func(t *testing.T) {
				module := fresh(t)
				image := imageOf(module)
				container, err := tt.NewContainer(tt.Ctx, harness.Config{Runtime: tt.shim, Image: image, RuntimeOptions: body("compile_timeout = '3s'\n[engine]\ncompile = 'hang'")})
				require.NoError(t, err)
				ctx, cancel := giveUp(tt.Ctx)
				defer cancel()
				_, err = container.NewTask(ctx, nullIO)
				// containerd's clock may be the first to say so.
				require.True(t, errdefs.IsDeadlineExceeded(err) || errdefs.IsCanceled(err), "%v", err)
				require.NoError(t, container.Delete(tt.Ctx, client.WithSnapshotCleanup))
				tt.RequireNothingLeft()
				require.Contains(t, tt.out(harness.Config{Image: image}), "compiled")
			})
		}
	}
}

// compilersDaemon is the shim whose worker compiles.
func (t *imageTest) compilersDaemon() []harness.Process {
	workers := t.Workers()
	var found []harness.Process
	for _, p := range t.Shims() {
		for _, w := range workers {
			if w.Parent == p.Pid {
				found = append(found, p)
			}
		}
	}
	return found
}

// containerd may go away at any moment; what it does not know any more is
// cleaned up, and the next start works.
func TestImageContainerdKilled(t *testing.T) {
	tt := newImageTest(t)
	for name, test := range map[string]struct {
		options any
		until   func() bool
	}{
		"while it compiles": {slow, func() bool { return len(tt.Compilers()) > 0 }},
		"while it asks":     {nil, func() bool { return len(tt.Workers()) > 0 }},
		"somewhere":         {nil, func() bool { return len(tt.Workers()) > 0 }},
	} {
		for kind, imageOf := range tt.bothKinds() {
			t.Run(name+"/"+kind, func(t *testing.T) {
				module := fresh(t)
				image := imageOf(module)
				id := harness.FreshID("c")
				result := make(chan error)
				go func() {
					c, err := tt.NewContainer(tt.Ctx, harness.Config{ID: id, Runtime: tt.shim, Image: image, RuntimeOptions: test.options})
					if err == nil {
						_, err = c.NewTask(tt.Ctx, nullIO)
					}
					result <- err
				}()
				require.Eventually(t, test.until, 10*time.Second, 200*time.Microsecond)
				if name == "somewhere" {
					time.Sleep(time.Duration(rand.IntN(60)) * time.Millisecond)
				}
				require.NoError(t, tt.Kill())
				<-result // an error, or not quite
				require.NoError(t, tt.Restart(tt.Ctx))
				require.Contains(t, tt.out(harness.Config{Image: tt.reopen(image), RuntimeOptions: test.options}), " compiled\n")
				container, err := tt.Client.LoadContainer(tt.Ctx, id)
				require.NoError(t, err)
				task, err := container.Task(tt.Ctx, nil)
				t.Log(id, err)
				if err == nil { // where the create came to its end
					_, err = task.Delete(tt.Ctx, client.WithProcessKill)
					require.NoError(t, err)
				}
				require.NoError(t, container.Delete(tt.Ctx, client.WithSnapshotCleanup))
				tt.RequireNothingLeft()
			})
		}
	}
}

// Killed at any moment, nobody leaves anything behind but a lease that ends by
// itself, and the next start works.
func TestImageKilledAtAnyMoment(t *testing.T) {
	tt := newImageTest(t)
	victims := map[string]func() []harness.Process{"compiler": tt.Compilers, "worker": tt.Workers, "daemon": tt.compilersDaemon}
	for kind, imageOf := range tt.bothKinds() {
		for victim, find := range victims {
			t.Run(victim+"/"+kind, func(t *testing.T) {
				for range 8 {
					module := fresh(t)
					image := imageOf(module)
					done := make(chan []string)
					go func() { done <- atOnce(tt, 2, func(int) harness.Config { return harness.Config{Image: image} }) }()
					require.Eventually(t, func() bool { return len(find()) > 0 || len(tt.artifacts(module)) > 0 }, 10*time.Second, 500*time.Microsecond)
					time.Sleep(time.Duration(rand.IntN(30)) * time.Millisecond)
					for _, p := range find() {
						_ = unix.Kill(p.Pid, unix.SIGKILL)
					}
					outputs := <-done
					require.Contains(t, tt.out(harness.Config{Image: image}), "compiled", "%q", outputs)
				}
				tt.RequireNothingLeft()
			})
		}
	}
}
