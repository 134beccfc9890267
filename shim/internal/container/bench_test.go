// SPDX-License-Identifier: Apache-2.0

package container

import (
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runc/libcontainer/exeseal"
	"github.com/stretchr/testify/require"
)

// BenchmarkLife prints the median of each step of a container's life.
func BenchmarkLife(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("needs root")
	}
	var steps [4][]time.Duration
	dir := b.TempDir()
	for b.Loop() {
		cfg, p := newConfigFor(dir, guest("exit", "0")...)
		marks := []time.Time{time.Now()}
		mark := func() { marks = append(marks, time.Now()) }
		c, err := Create(cfg, p)
		mark()
		require.NoError(b, err)
		require.NoError(b, c.Start())
		mark()
		_, err = c.Wait(b.Context())
		mark()
		require.NoError(b, err)
		require.NoError(b, c.Delete())
		mark()
		for i := range steps {
			steps[i] = append(steps[i], marks[i+1].Sub(marks[i]))
		}
	}
	for i, name := range []string{"create", "start", "exit", "delete"} {
		slices.Sort(steps[i])
		b.ReportMetric(float64(steps[i][len(steps[i])/2].Microseconds()), name+"-µs")
	}
}

// BenchmarkSeal is what libcontainer does once per create and exec.
func BenchmarkSeal(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("needs root")
	}
	dir := b.TempDir()
	for b.Loop() {
		f, err := exeseal.CloneSelfExe(dir)
		require.NoError(b, err)
		f.Close()
	}
}

func BenchmarkExec(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("needs root")
	}
	cfg, p := newConfigFor(b.TempDir(), guest("sleep")...)
	c, err := Create(cfg, p)
	require.NoError(b, err)
	require.NoError(b, c.Start())
	for b.Loop() {
		e, err := c.Exec(p.with("exit", "0"))
		require.NoError(b, err)
		_, err = e.Wait(b.Context())
		require.NoError(b, err)
	}
	require.NoError(b, c.Signal(syscall.SIGKILL, false))
	_, err = c.Wait(b.Context())
	require.NoError(b, err)
	require.NoError(b, c.Delete())
}
