// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/libwasmshim/libwasmshim/test/harness"
)

// whileCompiling starts containers of fresh images, whose compilation takes a second
// and a half, and returns what they print.
func (t *imageTest) whileCompiling(n int, options string) chan []string {
	var images []harness.Config
	for range n {
		images = append(images, harness.Config{Image: t.LayerImage(fresh(t)), RuntimeOptions: body(options + "\n[engine]\ncompile = 'slow'")})
	}
	result := make(chan []string)
	go func() { result <- atOnce(t, n, func(i int) harness.Config { return images[i] }) }()
	return result
}

func (t *imageTest) awaitCompilers(n int) []harness.Process {
	require.Eventually(t, func() bool { return len(t.Compilers()) >= n }, 20*time.Second, time.Millisecond)
	return t.Compilers()
}

// Each compiler is a user of its own, whom no other process can be, and the first
// to go when memory runs out.
func TestCompilersApart(t *testing.T) {
	tt := newImageTest(t)
	result := tt.whileCompiling(2, "compilers = 2")
	compilers := tt.awaitCompilers(2)
	users := map[uint32]bool{}
	for _, p := range compilers {
		dir := fmt.Sprintf("/proc/%d", p.Pid)
		text, err := os.ReadFile(filepath.Join(dir, "status"))
		require.NoError(t, err)
		_, line, _ := strings.Cut(string(text), "\nUid:\t")
		uid, err := strconv.ParseUint(strings.Fields(line)[0], 10, 32)
		require.NoError(t, err)
		require.Greater(t, uid, uint64(1<<24), "nobody's")
		users[uint32(uid)] = true
		score, err := os.ReadFile(filepath.Join(dir, "oom_score_adj"))
		require.NoError(t, err)
		require.Equal(t, "1000\n", string(score))

		// The same user, without any right: not even it gets at the process.
		files, err := os.ReadDir(filepath.Join(dir, "fd"))
		require.NoError(t, err)
		targets := []string{"mem", "maps", "environ"}
		for _, f := range files {
			targets = append(targets, "fd/"+f.Name())
		}
		for _, target := range targets {
			cmd := exec.Command("/bin/dd", "if="+filepath.Join(dir, target), "of=/dev/null", "count=1")
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
			out, err := cmd.CombinedOutput()
			require.Error(t, err, target)
			require.Contains(t, string(out), "Permission denied", target)
		}
	}
	require.Len(t, users, 2)
	for _, out := range <-result {
		require.Contains(t, out, " compiled\n")
	}
}

// However many images are new to a machine, only so many compilers run at once, with
// little weight, where the operator wants them.
func TestCompilersPlace(t *testing.T) {
	tt := newImageTest(t)
	parent := "/" + tt.Namespace + "-compilers"
	// The last one waits for longer than it may take itself.
	result := tt.whileCompiling(4, "compilers = 1\ncompile_timeout = '2500ms'\ncompile_cgroup = '"+parent+"'")
	p := tt.awaitCompilers(1)[0]
	cgroups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", p.Pid))
	require.NoError(t, err)
	for _, line := range strings.Split(strings.TrimSpace(string(cgroups)), "\n") {
		require.Contains(t, line, ":"+parent+"/libwasmshim-compiler-")
	}
	if v1, err := filepath.Glob("/sys/fs/cgroup/cpu" + parent + "/libwasmshim-compiler-*/cpu.shares"); err == nil && len(v1) > 0 {
		shares, err := os.ReadFile(v1[0])
		require.NoError(t, err)
		require.Equal(t, "102\n", string(shares))
	}
	most := 0
	for done := false; !done; {
		select {
		case outputs := <-result:
			for _, out := range outputs {
				require.Contains(t, out, " compiled\n")
			}
			done = true
		case <-time.After(10 * time.Millisecond):
			most = max(most, len(tt.Compilers()))
		}
	}
	require.Equal(t, 1, most)
	// The operator's cgroup is not ours to remove.
	dirs, err := filepath.Glob("/sys/fs/cgroup/*" + parent)
	require.NoError(t, err)
	require.NotEmpty(t, dirs)
	for _, dir := range dirs {
		require.NoError(t, unix.Rmdir(dir))
	}
}

// On a machine that has much else to do, a compiler is not ended as if it looped.
func TestCompilersStarved(t *testing.T) {
	tt := newImageTest(t)
	parent := "/" + tt.Namespace + "-starved"
	limited, file, tenth := "/sys/fs/cgroup/cpu"+parent, "cpu.cfs_quota_us", "10000"
	if cgroups.IsCgroup2UnifiedMode() {
		limited, file, tenth = "/sys/fs/cgroup"+parent, "cpu.max", "10000 100000"
	}
	require.NoError(t, os.Mkdir(limited, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(limited, file), []byte(tenth), 0))
	module := fresh(t)
	// 0.3 s of work take 3 s.
	out := tt.out(harness.Config{Image: tt.LayerImage(module), RuntimeOptions: body("compile_timeout = '1s'\ncompile_cgroup = '" + parent + "'\n[engine]\ncompile = 'work'")})
	require.Equal(t, layerLine(module, "compiled"), out)
	dirs, err := filepath.Glob("/sys/fs/cgroup/*" + parent)
	require.NoError(t, err)
	for _, dir := range append(dirs, limited) {
		if err := unix.Rmdir(dir); !errors.Is(err, unix.ENOENT) {
			require.NoError(t, err)
		}
	}
}

// What a compiler is shown is in the key: what is not could make two artifacts of
// one name. (The test engine fails to compile when it is shown the other option.)
func TestCompilersOptions(t *testing.T) {
	tt := newImageTest(t)
	for kind, imageOf := range tt.bothKinds() {
		t.Run(kind, func(t *testing.T) {
			module := fresh(t)
			require.Contains(t, tt.out(harness.Config{Image: imageOf(module), RuntimeOptions: body("[engine]\nother = 'x'")}), " compiled\n")
		})
	}
}

// Size comes first: what cannot be compiled within the limits is neither copied nor
// handed to a compiler.
func TestCompilersSize(t *testing.T) {
	tt := newImageTest(t)
	for kind, imageOf := range tt.bothKinds() {
		t.Run(kind, func(t *testing.T) {
			module := padded(t, 20<<20)
			image := imageOf(module)
			for i := range 2 {
				c := harness.Config{ID: harness.FreshID("c"), Image: image, RuntimeOptions: body("log_level = 'debug'\ncompile_memory = '64MiB'")}
				require.Contains(t, tt.out(c), " original\n")
				lines := strings.Join(logLines(tt.T, c.ID), "\n")
				const why = "compiling failed: the code has 20 MiB, and compiling may take no more than 64 MiB of memory (compile_memory): compile_memory is too small for this code"
				if i == 0 {
					require.Contains(t, lines, `msg="the guest's original is run, without an artifact" error="`+why+`"`)
				} else {
					require.Contains(t, lines, "the guest's original is run, as before: "+why)
				}
			}
			require.Zero(t, tt.compilations(module))
			require.Contains(t, tt.out(harness.Config{Image: image}), " compiled\n", "within other limits")
		})
	}
}

// State that is only remembered saves time, and is never needed.
func TestCompilersNoState(t *testing.T) {
	tt := newImageTest(t)
	tt.out(harness.Config{Image: tt.LayerImage(fresh(t))}) // makes the directory
	dirs, err := filepath.Glob("/run/libwasmshim/" + tt.Namespace + "-*")
	require.NoError(t, err)
	require.Len(t, dirs, 1)
	for how, options := range map[string]string{"read-only": "ro", "full": "nr_inodes=1"} {
		for kind, imageOf := range tt.bothKinds() {
			t.Run(how+"/"+kind, func(t *testing.T) {
				module := fresh(t)
				image := imageOf(module)
				flags := uintptr(0)
				data := options
				if options == "ro" {
					flags, data = unix.MS_RDONLY, ""
				}
				require.NoError(t, unix.Mount("tmpfs", dirs[0], "tmpfs", flags, data))
				defer func() { _ = unix.Unmount(dirs[0], unix.MNT_DETACH) }()
				for range 2 {
					require.Contains(t, tt.out(harness.Config{Image: image}), fmt.Sprintf(" %d original\n", len(module)))
				}
				require.NoError(t, unix.Unmount(dirs[0], 0))
				require.Contains(t, tt.out(harness.Config{Image: image}), " compiled\n")
			})
		}
	}
}
