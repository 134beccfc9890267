// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const countHere = "WASMSHIM_COUNT_HERE"

func TestMain(m *testing.M) {
	if dir := os.Getenv(countHere); dir != "" {
		for range 1000 {
			Of(dir, "e").Count(CacheHit)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func printed(t *testing.T, dir string) string {
	t.Helper()
	sets, err := Read(dir, "k8s.io")
	require.NoError(t, err)
	var text strings.Builder
	require.NoError(t, Print(&text, sets))
	return text.String()
}

// Nothing is lost of what several processes and threads count at once, nor by one that is
// killed.
func TestManyWriters(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	var writers sync.WaitGroup
	for range 4 {
		writers.Go(func() {
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), countHere+"="+dir)
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)
		})
		writers.Go(func() {
			for range 1000 {
				Of(dir, "e").Count(CacheHit)
			}
		})
	}
	writers.Wait()
	require.Contains(t, printed(t, dir), "libwasmshim_cache_lookups_total{namespace=\"k8s.io\",engine=\"e\",result=\"hit\"} 8000\n")
	info, err := os.Stat(Of(dir, "e").path)
	require.NoError(t, err)
	require.EqualValues(t, fileSize, info.Size())
}

// What is printed is what Prometheus reads.
func TestFormat(t *testing.T) {
	dir := t.TempDir()
	Of(dir, "a").Add(CompileTime, uint64(1500*time.Millisecond))
	Of(dir, "a").Count(Refused(5))
	Of(dir, "a").Count(Refused(1 << 20))
	Of(dir, "b").Count(Failed(134))
	Of(dir, "b").Count(Failed(139))
	text := printed(t, dir)
	for _, line := range []string{
		`libwasmshim_compile_seconds_total{namespace="k8s.io",engine="a"} 1.5`,
		`libwasmshim_creates_refused_total{namespace="k8s.io",engine="a",code="NotFound"} 1`,
		`libwasmshim_creates_refused_total{namespace="k8s.io",engine="a",code="Unauthenticated"} 1`,
		`libwasmshim_guests_failed_total{namespace="k8s.io",engine="b",reason="trap"} 1`,
		`libwasmshim_guests_failed_total{namespace="k8s.io",engine="b",reason="crash"} 1`,
		`libwasmshim_guests_failed_total{namespace="k8s.io",engine="a",reason="trap"} 0`,
	} {
		require.Contains(t, text, line+"\n")
	}
	var kept strings.Builder
	require.NoError(t, PrintKept(&kept, []Kept{{"k8s.io", "a", 2, 100}}))
	require.Contains(t, kept.String(), "libwasmshim_cache_bytes{namespace=\"k8s.io\",engine=\"a\"} 100\n")
	// https://prometheus.io/docs/instrumenting/exposition_formats/
	comment := regexp.MustCompile(`^# (HELP [a-z_]+ [^\\]+|TYPE [a-z_]+ (counter|gauge))$`)
	sample := regexp.MustCompile(`^([a-z_]+)\{([a-z]+="[^"\\]*",?)+\} [0-9.e+]+$`)
	seen := map[string]bool{}
	for line := range strings.Lines(text + kept.String()) {
		line = strings.TrimSuffix(line, "\n")
		if m := sample.FindStringSubmatch(line); m != nil {
			require.False(t, seen[line], line)
			seen[line] = true
		} else {
			require.Regexp(t, comment, line)
		}
	}
}

// Each counter is one number of one metric.
func TestPlaces(t *testing.T) {
	places := map[Counter]bool{}
	for _, m := range all {
		for i := range m.values {
			c := m.first + Counter(i)
			require.False(t, places[c], "%s has the place of another", m.name)
			require.LessOrEqual(t, c, last)
			places[c] = true
		}
	}
	require.Len(t, places, int(last)+1)
	require.Less(t, int(last), fileSize/8)
}

// A full file system, or one that cannot be written to, costs numbers and nothing else.
func TestNoRoom(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount")
	}
	dir := t.TempDir()
	require.NoError(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=8k"))
	defer func() { require.NoError(t, unix.Unmount(dir, 0)) }()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "full"), make([]byte, 8<<10), 0o600))
	Of(dir, "e").Count(CacheHit)
	require.NoError(t, os.Remove(filepath.Join(dir, "full")))
	Of(dir, "e").Count(CacheHit)
	require.NoError(t, unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	Of(dir, "e").Count(CacheHit)
	require.Contains(t, printed(t, dir), `result="hit"} 1`+"\n")
}
