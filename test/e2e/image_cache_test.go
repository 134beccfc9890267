// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/libwasmshim/libwasmshim/test/harness"
	"github.com/libwasmshim/libwasmshim/test/smoke"
)

// What one of the test engine's containers prints of its module.
func layerLine(module []byte, what string) string {
	return fmt.Sprintf("%s %d %s\n", harness.WasmLayer, len(module), what)
}

func fileLine(module []byte, what string) string {
	return fmt.Sprintf("file %d %s\n", len(module), what)
}

// Whatever becomes of the compiler, the container runs, if from the original.
// The cause is in the log, and the next start does not try again.
func TestImage2Misbehaving(t *testing.T) {
	tt := newImageTest(t)
	for verb, cause := range map[string]string{
		"fail":   "compiling failed: it does not please me",
		"crash":  "compiling failed: the compiler was ended by signal 11 (segmentation fault)",
		"hang":   "compiling failed: the compiler has done nothing for 700ms",
		"loop":   "compiling failed: the compiler took longer than 700ms: compile_timeout is too short for this code",
		"memory": "compiling failed: the compiler took more than 64 MiB of memory: compile_memory is too small for this code",
	} {
		for kind, imageOf := range tt.bothKinds() {
			t.Run(verb+"/"+kind, func(t *testing.T) {
				module := fresh(t)
				id := harness.FreshID("c")
				timeout := "30s"
				if verb == "hang" || verb == "loop" {
					timeout = "700ms"
				}
				c := harness.Config{ID: id, Image: imageOf(module), RuntimeOptions: body("compile_timeout = '" + timeout + "'\ncompile_memory = '64MiB'\nlog_level = 'debug'\n[engine]\ncompile = '" + verb + "'")}
				require.Contains(t, tt.out(c), fmt.Sprintf(" %d original\n", len(module)))
				require.Contains(t, strings.Join(logLines(tt.T, id), "\n"), `msg="the guest's original is run, without an artifact" error="`+cause+`"`)
				c.ID = harness.FreshID("c")
				require.Contains(t, tt.out(c), "original")
				lines := strings.Join(logLines(tt.T, c.ID), "\n")
				require.NotContains(t, lines, "without an artifact")
				require.Contains(t, lines, "the guest's original is run, as before: "+cause)
				require.Empty(t, tt.artifacts(module))
			})
		}
	}
	t.Run("none", func(t *testing.T) {
		module := fresh(t)
		c := harness.Config{Image: tt.LayerImage(module), RuntimeOptions: body("[engine]\ncompile = 'none'")}
		require.Equal(t, layerLine(module, "original"), tt.out(c))
		require.Equal(t, layerLine(module, "original"), tt.out(c))
		require.Equal(t, 1, tt.compilations(module), "it was asked once")
	})
	t.Run("switched off", func(t *testing.T) {
		module := fresh(t)
		c := harness.Config{Image: tt.LayerImage(module), RuntimeOptions: body("compile_timeout = '0s'")}
		require.Equal(t, layerLine(module, "original"), tt.out(c))
		require.Zero(t, tt.compilations(module))
		c.RuntimeOptions = nil
		require.Equal(t, layerLine(module, "compiled"), tt.out(c), "and on again")
	})
	t.Run("other limits", func(t *testing.T) {
		module := fresh(t)
		c := harness.Config{Image: tt.LayerImage(module), RuntimeOptions: body("compile_timeout = '700ms'\n[engine]\ncompile = 'slow'")}
		require.Equal(t, layerLine(module, "original"), tt.out(c))
		c.RuntimeOptions = slow
		require.Equal(t, layerLine(module, "compiled"), tt.out(c), "what failed is tried again")
	})
}

// Artifacts of a binary that nobody can tell from another one are not kept.
func TestImage2NoBuildID(t *testing.T) {
	tt := newImageTest(t)
	shim, err := buildEngine("cachier", t.TempDir(), "LDFLAGS=-Wl,--build-id=none")
	require.NoError(t, err)
	module := fresh(t)
	require.Equal(t, layerLine(module, "original"), tt.out(harness.Config{Runtime: shim, Image: tt.LayerImage(module)}))
	require.Contains(t, tt.LogTail(10), `msg="nothing is compiled ahead" error="this binary has no build id, so that nobody could tell its artifacts from another one's: link it with -Wl,--build-id"`)
	require.Equal(t, fileLine(module, "original"), tt.out(harness.Config{Runtime: shim, Image: tt.FileImage(module)}))
	require.Zero(t, tt.compilations(module))
}

// One layer in several images, and in several daemons, is compiled once; also
// after a restart of containerd, and of the machine.
func TestImage3Once(t *testing.T) {
	tt := newImageTest(t)
	module := fresh(t)
	one, two := tt.LayerImage(module), tt.LayerImage(module)
	for range 2 {
		require.Equal(t, layerLine(module, "compiled"), tt.out(harness.Config{Image: one}))
		require.Equal(t, layerLine(module, "compiled"), tt.out(harness.Config{Image: two}))
	}
	require.Equal(t, 1, tt.compilations(module))
	require.NoError(t, tt.Kill())
	require.NoError(t, tt.Restart(tt.Ctx))
	require.Equal(t, layerLine(module, "compiled"), tt.out(harness.Config{Image: tt.reopen(one)}))
	require.NoError(t, tt.Forget())
	require.Equal(t, layerLine(module, "compiled"), tt.out(harness.Config{Image: tt.reopen(two)}))
	require.Equal(t, 1, tt.compilations(module))
}

// reopen is an image on the client that a restart has made.
func (t *imageTest) reopen(image client.Image) client.Image {
	return client.NewImageWithPlatform(t.Client, image.Metadata(), image.Platform())
}

// A file of an ordinary image is compiled once, whoever runs it from where.
func TestImage3File(t *testing.T) {
	tt := newImageTest(t)
	module := fresh(t)
	one, two := tt.FileImage(module), tt.FileImage(module)
	for range 2 {
		require.Equal(t, fileLine(module, "compiled"), tt.out(harness.Config{Image: one}))
		require.Equal(t, fileLine(module, "compiled"), tt.out(harness.Config{Image: two}))
	}
	require.NoError(t, tt.Forget())
	require.Equal(t, fileLine(module, "compiled"), tt.out(harness.Config{Image: one}))
	require.Equal(t, 1, tt.compilations(module))
	require.Len(t, tt.artifacts(module), 1)

	// A file from elsewhere belongs to no image.
	host := filepath.Join(t.TempDir(), "host.wasm")
	other := fresh(t)
	require.NoError(t, os.WriteFile(host, other, 0o644))
	bind := oci.WithMounts([]specs.Mount{{Type: "bind", Source: host, Destination: "/mnt/host.wasm", Options: []string{"rbind", "ro"}}})
	require.Equal(t, fileLine(other, "original"), tt.out(harness.Config{Image: one, Args: []string{"/mnt/host.wasm"}, Opts: []oci.SpecOpts{bind}}))
	require.Zero(t, tt.compilations(other))
}

// Engines, and option sets, keep their artifacts of one layer side by side;
// options that make no difference to the compiler make none here.
func TestImage3SideBySide(t *testing.T) {
	tt := newImageTest(t)
	module := fresh(t)
	image := tt.LayerImage(module)
	options := func(text string) harness.Config {
		return harness.Config{Image: image, RuntimeOptions: body("[engine]\n" + text)}
	}
	for range 2 {
		for _, text := range []string{"", "other = 'x'", "other = 'y'", "compile = 'a'", "compile = 'b'", "compile = 'b'\nother = 'z'"} {
			require.Equal(t, layerLine(module, "compiled"), tt.out(options(text)), text)
		}
		for _, text := range []string{"", "max-memory = '1MiB'", "fuel = 1000000", "fuel = 2000000"} {
			c := options(text)
			c.Runtime = smoke.Ours
			require.Equal(t, "hello\n", tt.out(c))
		}
	}
	require.Equal(t, 3+2, tt.compilations(module))
	labels := tt.info(digest.FromBytes(module)).Labels
	count := func(prefix string) (n int) {
		for key, value := range labels {
			if strings.HasPrefix(key, prefix) {
				n++
				require.NoError(t, digest.Digest(value).Validate())
			}
		}
		return n
	}
	require.Equal(t, 3, count("containerd.io/gc.ref.content.libwasmshim-cachier-"))
	require.Equal(t, 2, count("containerd.io/gc.ref.content.libwasmshim-wasmtime-"))
}

// Artifacts go with their image, and not before.
func TestImage3Garbage(t *testing.T) {
	tt := newImageTest(t)
	for kind, imageOf := range tt.bothKinds() {
		t.Run(kind, func(t *testing.T) {
			module := fresh(t)
			image := imageOf(module)
			tt.out(harness.Config{Image: image})
			artifacts := tt.artifacts(module)
			require.Len(t, artifacts, 1)
			file := tt.blob(artifacts[0].Digest)
			tt.collect()
			require.FileExists(t, file)
			tt.removeImage(image)
			tt.collect()
			require.NoFileExists(t, file)
			require.Empty(t, tt.artifacts(module))
		})
	}
}

// What many option strings can do to the disk is bounded: the newest stay.
func TestImage3Bounded(t *testing.T) {
	tt := newImageTest(t)
	for kind, imageOf := range tt.bothKinds() {
		t.Run(kind, func(t *testing.T) {
			module := fresh(t)
			image := imageOf(module)
			run := func(i int) {
				require.Contains(t, tt.out(harness.Config{Image: image, RuntimeOptions: body(fmt.Sprintf("[engine]\ncompile = 'v%d'", i))}), "compiled")
			}
			for i := range 7 {
				run(i)
			}
			holder := digest.FromBytes(module)
			if kind == "file" {
				holder = image.Target().Digest
			}
			n := 0
			for key := range tt.info(holder).Labels {
				if strings.HasPrefix(key, "containerd.io/gc.ref.content.libwasmshim-cachier-") {
					n++
				}
			}
			require.Equal(t, 4, n)
			run(6)
			require.Equal(t, 7, tt.compilations(module))
			tt.collect()
			run(0)
			require.Equal(t, 8, tt.compilations(module))
		})
	}
}

// An artifact that is gone, or is not what it was, is made anew.
func TestImage3Damaged(t *testing.T) {
	tt := newImageTest(t)
	for kind, imageOf := range tt.bothKinds() {
		for how, damage := range map[string]func(t *testing.T, d digest.Digest){
			"removed": func(t *testing.T, d digest.Digest) {
				require.NoError(t, tt.Client.ContentStore().Delete(tt.Ctx, d))
				tt.collect()
				require.NoFileExists(t, tt.blob(d))
			},
			"file removed": func(t *testing.T, d digest.Digest) { require.NoError(t, os.Remove(tt.blob(d))) },
			"overwritten": func(t *testing.T, d digest.Digest) {
				require.NoError(t, os.Chmod(tt.blob(d), 0o644))
				f, err := os.OpenFile(tt.blob(d), os.O_WRONLY, 0)
				require.NoError(t, err)
				_, err = f.WriteString("COMPILED")
				require.NoError(t, err)
				require.NoError(t, f.Close())
			},
			"cut": func(t *testing.T, d digest.Digest) {
				require.NoError(t, os.Chmod(tt.blob(d), 0o644))
				require.NoError(t, os.Truncate(tt.blob(d), 10))
			},
		} {
			for _, forget := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/forgotten=%v", kind, how, forget), func(t *testing.T) {
					module := fresh(t)
					image := imageOf(module)
					require.Contains(t, tt.out(harness.Config{Image: image}), "compiled")
					damage(t, tt.artifacts(module)[0].Digest)
					if forget {
						require.NoError(t, tt.Forget())
					}
					for range 2 {
						require.Contains(t, tt.out(harness.Config{Image: image}), "compiled")
					}
					require.Equal(t, 2, tt.compilations(module))
				})
			}
		}
	}
}

// An artifact that the engine refuses is discarded, and for a while nobody makes
// another one, which would be the same.
func TestImage3Refused(t *testing.T) {
	tt := newImageTest(t)
	for kind, imageOf := range tt.bothKinds() {
		t.Run(kind, func(t *testing.T) {
			module := fresh(t)
			c := harness.Config{Image: imageOf(module), RuntimeOptions: body("[engine]\ncompile = 'garbage'")}
			for _, want := range []string{"refused", "original", "original"} {
				require.Contains(t, tt.out(c), want)
			}
			require.Equal(t, 1, tt.compilations(module))
			require.Eventually(t, func() bool { return len(tt.artifacts(module)) == 0 }, 10*time.Second, 10*time.Millisecond)
			require.NoError(t, tt.Forget()) // or ten minutes later
			require.Contains(t, tt.out(c), "refused")
			require.Equal(t, 2, tt.compilations(module))
			require.Contains(t, tt.LogTail(100), "the artifact of layer 0 does not load, the layer itself is run: not what this engine makes")
		})
	}
}

// Of many starts at once one compiles, and the rest wait for it.
func TestImage3AtOnce(t *testing.T) {
	tt := newImageTest(t)
	for kind, imageOf := range tt.bothKinds() {
		t.Run(kind, func(t *testing.T) {
			module := fresh(t)
			images := []client.Image{imageOf(module), imageOf(module)} // one layer, two images
			outputs := atOnce(tt, 12, func(i int) harness.Config {
				return harness.Config{Image: images[i%2], RuntimeOptions: body("[engine]\ncompile = 'slow'")}
			})
			for _, out := range outputs {
				require.Contains(t, out, "compiled")
			}
			require.Equal(t, 1, tt.compilations(module))
		})
	}
}

// atOnce runs n containers side by side and returns what they print.
func atOnce(tt *imageTest, n int, config func(i int) harness.Config) []string {
	outputs := make([]string, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			c := config(i)
			c.Runtime = tt.shim
			r, err := tt.Daemon.Once(tt.Ctx, c)
			outputs[i] = r.Stdout + r.Stderr
			if err != nil {
				outputs[i] += err.Error()
			}
		})
	}
	all.Wait()
	return outputs
}

// Two containers of one image have the code's pages in common.
func TestImage4SharedPages(t *testing.T) {
	tt := newImageTest(t)
	module := guest(t, "go.wasm")
	for kind, image := range map[string]client.Image{"layers": tt.LayerImage(module), "file": tt.FileImage(module)} {
		t.Run(kind, func(t *testing.T) {
			var pids []uint32
			for range 2 {
				c := tt.Run(harness.Config{Image: image, Args: []string{"/app.wasm", "echo=ready", "sleep=1h"}})
				require.NoError(t, c.Stdout.WaitFor("ready", time.Minute))
				pids = append(pids, c.Task.Pid())
			}
			artifact := slices.MaxFunc(tt.artifacts(module), func(x, y content.Info) int { return int(x.Size - y.Size) })
			for _, pid := range pids {
				m := mapped(t, pid, artifact.Digest.Encoded())
				require.Greater(t, m["executable Size"], 1<<10, "its code is mapped: %v", m)
				require.Zero(t, m["executable Private_Dirty"], "and not copied: %v", m)
				require.Positive(t, m["Shared_Clean"], "%v", m)
				// Of what is in memory at all, the pages that both have used are shared.
				require.Greater(t, m["Shared_Clean"]*10, m["executable Rss"]*9, "%v", m)
			}
		})
	}
}

// mapped adds up, in kB, the mappings of a process whose file has a name.
func mapped(t *testing.T, pid uint32, name string) map[string]int {
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps", pid))
	require.NoError(t, err)
	defer f.Close()
	sum := map[string]int{}
	ours, executable := false, false
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := lines.Text()
		if fields := strings.Fields(line); !strings.HasSuffix(fields[0], ":") {
			ours, executable = strings.Contains(line, name), fields[1][2] == 'x'
			continue
		}
		var kB int
		key, value, _ := strings.Cut(line, ":")
		if n, _ := fmt.Sscan(value, &kB); n == 1 && ours {
			sum[key] += kB
			if executable {
				sum["executable "+key] += kB
			}
		}
	}
	return sum
}

// Not even root in a container can change what others run.
func TestImage4ReadOnly(t *testing.T) {
	tt := newImageTest(t)
	for kind, imageOf := range tt.bothKinds() {
		t.Run(kind, func(t *testing.T) {
			module := fresh(t)
			image := imageOf(module)
			r, err := tt.Daemon.Once(tt.Ctx, harness.Config{Runtime: tt.shim, Image: image, Args: []string{"/app.wasm", "write"}, RuntimeOptions: body("guest_proc = 'full'")})
			require.NoError(t, err)
			require.Contains(t, r.Stdout, "compiled")
			// A blob is seen through a mount that is read-only, a small file is copied
			// into sealed memory.
			code := map[string]string{"layers": "open: Read-only file system\n", "file": "write: Operation not permitted\n"}[kind]
			require.Equal(t, code+"open: Read-only file system\n", r.Stderr)
			require.NotContains(t, r.Stdout, "written")
			require.Contains(t, tt.out(harness.Config{Image: image}), "compiled")
		})
	}
}

// A content store on a file system from which no code is executed does not keep
// a guest from running.
func TestImage4NoExec(t *testing.T) {
	tt := newImageTest(t)
	store := filepath.Dir(filepath.Dir(filepath.Dir(tt.blob("sha256:0"))))
	require.NoError(t, unix.Mount(store, store, "", unix.MS_BIND, ""))
	defer func() { require.NoError(t, unix.Unmount(store, unix.MNT_DETACH)) }()
	require.NoError(t, unix.Mount("", store, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_NOEXEC, ""))
	module := fresh(t)
	for range 2 {
		r := tt.Once(harness.Config{Image: tt.LayerImage(module), RuntimeOptions: body("log_level = 'debug'")})
		require.Zero(t, r.Code, r.Stderr)
		require.Equal(t, "hello\n", r.Stdout)
		require.Contains(t, tt.LogTail(10), "mapped the artifact of ")
	}
}

// Code that was compiled elsewhere is machine code that nobody vouches for.
func TestImage5CompiledElsewhere(t *testing.T) {
	tt := newImageTest(t)
	tt.out(harness.Config{Runtime: smoke.Ours, Image: tt.LayerImage(fresh(t))})
	module := fresh(t)
	tt.out(harness.Config{Runtime: smoke.Ours, Image: tt.LayerImage(module)})
	machineCode, err := os.ReadFile(tt.blob(tt.artifacts(module)[0].Digest))
	require.NoError(t, err)
	_, err = tt.Daemon.Create(tt.Ctx, harness.Config{Runtime: smoke.Ours, Image: tt.LayerImage(machineCode)})
	require.ErrorContains(t, err, "is not WebAssembly but a native program, or code that was compiled elsewhere, which is not run")
	_, err = tt.Daemon.Create(tt.Ctx, harness.Config{Runtime: smoke.Ours, Image: tt.FileImage(machineCode)})
	require.ErrorContains(t, err, "/app.wasm is code that wasmtime has compiled ahead; such code is machine code that nobody vouches for and is not run")
	// Not even where it stands beside a module.
	image := tt.wasm(harness.Wasm("/app.wasm", harness.Blob{MediaType: harness.WasmLayer, Data: module}, harness.Blob{MediaType: harness.WasmLayer, Data: machineCode}))
	_, err = tt.Daemon.Create(tt.Ctx, harness.Config{Runtime: smoke.Ours, Image: image})
	require.ErrorContains(t, err, "which is not run")
}
