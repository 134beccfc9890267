// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/libwasmshim/libwasmshim/test/harness"
)

// memory of processes, in kB.
type memory struct{ pss, dirty int }

func (m *memory) add(pid int) error {
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var kB int
		name, rest, _ := strings.Cut(lines.Text(), ":")
		switch name {
		case "Pss":
			fmt.Sscan(rest, &kB)
			m.pss += kB
		case "Private_Dirty":
			fmt.Sscan(rest, &kB)
			m.dirty += kB
		}
	}
	return lines.Err()
}

// memory measures pods of sleeping containers once they have settled.
func (b *bench) memory(subjects []subject) error {
	rows := []string{"sleeping\tpods\tin each\tshim PSS\tdirty\tcontainer PSS\tdirty\tper pod PSS\tdirty\tratio"}
	for _, shape := range []struct{ pods, each int }{{1, 1}, {1, 10}, {20, 1}} {
		var all []struct{ shims, containers memory }
		for _, s := range subjects {
			shims, containers, err := b.sleepers(s, shape.pods, shape.each)
			if err != nil {
				return err
			}
			all = append(all, struct{ shims, containers memory }{shims, containers})
		}
		last := all[len(all)-1]
		for i, s := range subjects {
			m := all[i]
			n := shape.pods
			rows = append(rows, fmt.Sprintf("%s\t%d\t%d\t%.1f\t%.1f\t%.2f\t%.2f\t%.1f\t%.1f\t%.2f", s.name, shape.pods, shape.each,
				mb(m.shims.pss, n), mb(m.shims.dirty, n),
				mb(m.containers.pss, n*shape.each), mb(m.containers.dirty, n*shape.each),
				mb(m.shims.pss+m.containers.pss, n), mb(m.shims.dirty+m.containers.dirty, n),
				float64(m.shims.pss+m.containers.pss)/float64(last.shims.pss+last.containers.pss)))
		}
		rows = append(rows, strings.Repeat("\t", 9))
	}
	table("Memory in MB: of one shim, of one container's process, of a pod's all; ratio of per pod PSS to the last row's of its group", rows...)
	return nil
}

func mb(kB, n int) float64 { return float64(kB) / float64(n) / 1024 }

func (b *bench) sleepers(s subject, pods, each int) (shims, containers memory, retErr error) {
	var all []*harness.Container
	defer func() {
		for i := len(all) - 1; i >= 0; i-- { // sandboxes last
			if err := b.Remove(b.ctx, all[i]); err != nil && retErr == nil {
				retErr = err
			}
		}
		b.EndIdle()
	}()
	for range pods {
		pod := harness.FreshID("pod")
		for i := range each {
			id := pod
			if i > 0 {
				id = harness.FreshID("c")
			}
			config := b.config(s)
			config.ID, config.Pod, config.Args = id, pod, s.args
			c, err := b.Run(b.ctx, config)
			if err != nil {
				return shims, containers, err
			}
			all = append(all, c)
			if err := c.Stdout.WaitFor("ready", 20*time.Second); err != nil {
				return shims, containers, fmt.Errorf("%w, stderr %q", err, c.Stderr)
			}
		}
	}
	time.Sleep(3 * time.Second) // caches drain, collectors run
	found := b.Shims()
	daemons := pods
	if s.options == node {
		daemons = 1
	}
	if len(found) != daemons {
		return shims, containers, fmt.Errorf("%d shims for %d pods: %v", len(found), pods, found)
	}
	for _, p := range found {
		if err := shims.add(p.Pid); err != nil {
			return shims, containers, err
		}
	}
	for _, c := range all {
		if err := containers.add(int(c.Task.Pid())); err != nil {
			return shims, containers, err
		}
	}
	return shims, containers, nil
}
