// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/containerd/containerd/v2/client"

	"github.com/libwasmshim/libwasmshim/test/harness"
)

// execution is how long the parts of an exec took.
type execution struct{ add, start, exit, delete time.Duration }

func (e execution) total() time.Duration { return e.add + e.start + e.exit + e.delete }

// execs measures a further process in a running container: one after the other, and
// with pauses in which a daemon becomes idle, as between the probes of a pod.
func (b *bench) execs(sleepers []subject, programs []subject) error {
	containers := make([]*harness.Container, len(sleepers))
	for i, s := range sleepers {
		c := b.config(s)
		c.Args = s.args
		running, err := b.Run(b.ctx, c)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		defer func() { _ = b.Remove(b.ctx, running) }()
		containers[i] = running
	}
	for pause, n := range map[time.Duration]int{0: b.n, time.Second: min(b.n, 10)} {
		all := make([][]execution, len(sleepers))
		const warmUp = 3
		for round := range warmUp + n {
			for _, i := range rand.Perm(len(sleepers)) {
				time.Sleep(pause)
				e, err := b.exec(containers[i], programs[i].args)
				if err != nil {
					return fmt.Errorf("%s: %w", sleepers[i].name, err)
				}
				if round >= warmUp {
					all[i] = append(all[i], e)
				}
			}
		}
		parts := []func(execution) time.Duration{
			func(e execution) time.Duration { return e.add },
			func(e execution) time.Duration { return e.start },
			func(e execution) time.Duration { return e.exit },
			func(e execution) time.Duration { return e.delete },
			execution.total,
		}
		base := quantile(all[len(all)-1], 0.5, execution.total)
		rows := []string{"exec\tadd\tstart\texit\tdelete\ttotal\t90 %\tratio"}
		for i, s := range sleepers {
			row := s.name
			for _, part := range parts {
				row += fmt.Sprintf("\t%.1f", ms(quantile(all[i], 0.5, part)))
			}
			row += fmt.Sprintf("\t%.1f\t%.2f", ms(quantile(all[i], 0.9, execution.total)), float64(quantile(all[i], 0.5, execution.total))/float64(base))
			rows = append(rows, row)
		}
		table(fmt.Sprintf("Exec in a running container, ms, median of %d in random order, after a pause of %s; ratio of totals to the last row's", n, pause), rows...)
	}
	return nil
}

func (b *bench) exec(c *harness.Container, args []string) (e execution, _ error) {
	from := time.Now()
	since := func() time.Duration { d := time.Since(from); from = time.Now(); return d }
	added, err := b.AddExec(b.ctx, c, harness.ExecConfig{Args: args})
	if err != nil {
		return e, fmt.Errorf("add: %w", err)
	}
	e.add = since()
	if err := added.Start(b.ctx); err != nil {
		return e, fmt.Errorf("start: %w", err)
	}
	e.start = since()
	if err := added.Exited(b.ctx); err != nil {
		return e, err
	}
	e.exit = since()
	status, err := added.Delete(b.ctx)
	if err != nil {
		return e, fmt.Errorf("delete: %w", err)
	}
	e.delete = since()
	if status.ExitCode() != 0 {
		return e, fmt.Errorf("exit code %d", status.ExitCode())
	}
	return e, nil
}

// throughput measures how fast output reaches a client that only reads.
func (b *bench) throughput(cats []subject) error {
	const size = 256 << 20
	rows := []string{"cat\tMB/s\tratio"}
	speeds := make([]float64, len(cats))
	for range 3 {
		for i, s := range cats {
			speed, err := b.pour(s, size)
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			speeds[i] = max(speeds[i], speed)
		}
	}
	for i, s := range cats {
		rows = append(rows, fmt.Sprintf("%s\t%.0f\t%.2f", s.name, speeds[i], speeds[i]/speeds[len(cats)-1]))
	}
	table(fmt.Sprintf("%d MB from stdin to stdout, the best of 3; ratio to the last row's", size>>20), rows...)
	return nil
}

func (b *bench) pour(s subject, size int64) (float64, error) {
	c := b.config(s)
	c.Args, c.Stdin = s.args, io.LimitReader(repeat(bytes.Repeat([]byte("0123456789abcde\n"), 4096)), size)
	counter := &counter{}
	c.Stdout = counter
	from := time.Now()
	running, err := b.Run(b.ctx, c)
	if err != nil {
		return 0, err
	}
	if err := running.Wait(b.ctx); err != nil {
		return 0, err
	}
	_, err = running.Task.Delete(b.ctx) // waits for the end of the output
	took := time.Since(from)
	if err == nil {
		err = running.Delete(b.ctx, client.WithSnapshotCleanup)
	}
	if err == nil && counter.n < size { // a guest may have words of its own
		err = fmt.Errorf("%d bytes of %d arrived", counter.n, size)
	}
	return float64(size) / 1e6 / took.Seconds(), err
}

// repeat reads its bytes again and again.
type repeat []byte

func (r repeat) Read(p []byte) (int, error) { return copy(p, r), nil }

type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}
