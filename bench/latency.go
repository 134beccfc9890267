// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
)

// life is how long the parts of a task's life took.
type life struct{ create, start, exit, delete time.Duration }

func (l life) total() time.Duration { return l.create + l.start + l.exit + l.delete }

// live takes a task through its life. Making and removing the container and
// its snapshot is containerd's own work and not part of it. mark is called
// before and after each call.
func (b *bench) live(s subject, mark func(string)) (l life, retErr error) {
	c := b.config(s)
	if len(s.args) > 0 {
		c.Opts = []oci.SpecOpts{oci.WithProcessArgs(s.args...)}
	}
	container, err := b.NewContainer(b.ctx, c)
	if err != nil {
		return l, err
	}
	defer func() {
		if err := container.Delete(b.ctx, client.WithSnapshotCleanup); err != nil && retErr == nil {
			retErr = err
		}
	}()
	stdio := cio.NewCreator(cio.WithStreams(nil, io.Discard, io.Discard), cio.WithFIFODir(filepath.Join(b.Dir, "fifo")))
	since := func(what string, d *time.Duration, from time.Time) { mark(what); *d = time.Since(from) }

	mark("create called")
	from := time.Now()
	task, err := container.NewTask(b.ctx, stdio)
	if err != nil {
		return l, fmt.Errorf("create: %w", err)
	}
	since("create returned", &l.create, from)
	exited, err := task.Wait(b.ctx)
	if err != nil {
		return l, fmt.Errorf("wait: %w", err)
	}
	mark("start called")
	from = time.Now()
	if err := task.Start(b.ctx); err != nil {
		return l, fmt.Errorf("start: %w", err)
	}
	since("start returned", &l.start, from)
	from = time.Now()
	status := <-exited
	since("exit seen", &l.exit, from)
	mark("delete called")
	from = time.Now()
	if _, err := task.Delete(b.ctx); err != nil {
		return l, fmt.Errorf("delete: %w", err)
	}
	since("delete returned", &l.delete, from)
	if status.ExitCode() != 0 {
		return l, fmt.Errorf("%s: exit code %d", s.name, status.ExitCode())
	}
	return l, status.Error()
}

// latency compares subjects in one interleaved run, so that whatever else the
// machine does hits all of them alike.
func (b *bench) latency(subjects []subject) error {
	return b.compare("hello", subjects)
}

// compare is latency under another title.
func (b *bench) compare(title string, subjects []subject) error {
	lives := make([][]life, len(subjects))
	const warmUp = 3
	for i := range warmUp + b.n {
		for j, s := range subjects {
			time.Sleep(b.gap)
			l, err := b.live(s, func(string) {})
			if err != nil {
				return err
			}
			if i >= warmUp {
				lives[j] = append(lives[j], l)
			}
		}
	}
	parts := []func(life) time.Duration{
		func(l life) time.Duration { return l.create },
		func(l life) time.Duration { return l.start },
		func(l life) time.Duration { return l.exit },
		func(l life) time.Duration { return l.delete },
		life.total,
	}
	base := quantile(lives[len(lives)-1], 0.5, life.total) // the last subject
	rows := []string{title + "\tcreate\tstart\texit\tdelete\ttotal\t10 %\t90 %\t99 %\tratio"}
	for j, s := range subjects {
		row := s.name
		for _, part := range parts {
			row += fmt.Sprintf("\t%.1f", ms(quantile(lives[j], 0.5, part)))
		}
		for _, q := range []float64{0.1, 0.9, 0.99} {
			row += fmt.Sprintf("\t%.1f", ms(quantile(lives[j], q, life.total)))
		}
		row += fmt.Sprintf("\t%.2f", float64(quantile(lives[j], 0.5, life.total))/float64(base))
		rows = append(rows, row)
	}
	table(fmt.Sprintf("Latency in ms, median of %d, interleaved, %s apart; ratio of totals to the last row's", b.n, b.gap), rows...)
	return nil
}

// quantile of one part of all lives.
func quantile[T any](all []T, q float64, part func(T) time.Duration) time.Duration {
	values := make([]time.Duration, len(all))
	for i, v := range all {
		values[i] = part(v)
	}
	slices.Sort(values)
	return values[int(q*float64(len(values)-1)+0.5)]
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// rate measures whole lives, container and snapshot included, some at once.
func (b *bench) rate(subjects []subject) error {
	rows := []string{"hello\t1 at once\t4 at once\t32 at once"}
	for _, s := range subjects {
		row := s.name
		for _, workers := range []int{1, 4, 32} {
			total := max(b.n, 4*workers)
			took, err := b.atOnce(s, workers, total)
			if err != nil {
				return err
			}
			row += fmt.Sprintf("\t%.1f", float64(total)/took.Seconds())
		}
		rows = append(rows, row)
	}
	table("Tasks per second, from new container to deleted container", rows...)
	return nil
}

func (b *bench) atOnce(s subject, workers, total int) (time.Duration, error) {
	jobs := make(chan struct{}, total)
	for range total {
		jobs <- struct{}{}
	}
	close(jobs)
	errs := make(chan error, total)
	var all sync.WaitGroup
	began := time.Now()
	for range workers {
		all.Go(func() {
			for range jobs {
				if _, err := b.live(s, func(string) {}); err != nil {
					errs <- err
				}
			}
		})
	}
	all.Wait()
	took := time.Since(began)
	close(errs)
	var failed []error
	for err := range errs {
		failed = append(failed, err)
	}
	return took, errors.Join(failed...)
}
