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

// pages are those that a process has, in kB, by kind; of those that others have, too, its share.
type pages struct {
	heap   int // of Go
	other  int // anonymous memory else: stacks, what Go's runtime and libc have, an engine's
	data   int // the program's variables, of which each process has its own
	file   int // of the program, shared by all that run it
	tables int // page tables: the kernel's memory, and not in PSS
}

func (p *pages) add(o pages) {
	p.heap, p.other, p.data, p.file, p.tables = p.heap+o.heap, p.other+o.other, p.data+o.data, p.file+o.file, p.tables+o.tables
}

// pagesOf sorts a process's pages.
func pagesOf(pid int) (p pages, _ error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		return p, err
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return p, err
	}
	_, rest, _ := strings.Cut(string(status), "\nVmPTE:")
	fmt.Sscan(rest, &p.tables)
	var (
		begin, end, dataEnd uint64
		name                string
		pss                 int
	)
	for line := range strings.Lines(string(maps)) {
		fields := strings.Fields(line)
		if !strings.HasSuffix(fields[0], ":") {
			if _, err := fmt.Sscanf(fields[0], "%x-%x", &begin, &end); err != nil {
				return p, fmt.Errorf("smaps of %d: %w", pid, err)
			}
			name = strings.Join(fields[5:], " ")
			continue
		}
		var kB int
		if len(fields) > 1 {
			fmt.Sscan(fields[1], &kB)
		}
		switch fields[0] {
		case "Pss:":
			pss = kB
		case "Anonymous:":
			switch {
			case strings.HasPrefix(name, "/"):
				p.data, p.file = p.data+kB, p.file+pss-kB
				dataEnd = end
			case name == "" && begin == dataEnd: // variables that begin as zero
				p.data += pss
			case name == "" && begin > 1<<32 && end < 0x7000_0000_0000: // where nothing else is, Go has its heap
				p.heap += pss
			default:
				p.other += pss
			}
		}
	}
	return p, nil
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
