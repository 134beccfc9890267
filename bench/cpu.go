// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/cgroups"

	"github.com/libwasmshim/libwasmshim/test/harness"
)

// spent is CPU time: of everything, and of parts of it.
type spent struct {
	user, system time.Duration // of all processes
	containerd   time.Duration // of containerd itself
	commands     time.Duration // of what it has executed and waited for: `start`, `delete`, `-info`
}

func (s spent) since(before spent) spent {
	return spent{s.user - before.user, s.system - before.system, s.containerd - before.containerd, s.commands - before.commands}
}

// group is the cgroup in which containerd, its shims and their containers are while
// something of theirs is measured.
type group struct{ dir string }

// measured moves a containerd into a cgroup of a controller's beside those of its
// containers. Shims follow it: they are its children.
func measured(d *harness.Daemon, controller string) (*group, error) {
	root := "/sys/fs/cgroup"
	if !cgroups.IsCgroup2UnifiedMode() {
		root = filepath.Join(root, controller)
	}
	g := &group{filepath.Join(root, d.Namespace)}
	if err := os.MkdirAll(g.daemon(), 0o755); err != nil {
		return nil, err
	}
	return g, cgroups.WriteCgroupProc(g.daemon(), d.Pid())
}

func (g *group) daemon() string { return filepath.Join(g.dir, "containerd") }

// leave moves what is there back and removes the cgroup.
func (g *group) leave() error {
	pids, err := cgroups.GetPids(g.daemon())
	for _, pid := range pids {
		err = errors.Join(err, cgroups.WriteCgroupProc(filepath.Dir(g.dir), pid))
	}
	return errors.Join(err, os.Remove(g.daemon()))
}

// read is what was spent up to now.
func (g *group) read(containerd int) (s spent, err error) {
	if s.user, s.system, err = g.usage(); err != nil {
		return s, err
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", containerd))
	if err != nil {
		return s, err
	}
	const utime, perSecond = 14 - 3, 100 // see proc(5)
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	var ticks [4]int64 // of the process in user mode and in the kernel, and of its children
	for i := range ticks {
		if ticks[i], err = strconv.ParseInt(fields[utime+i], 10, 64); err != nil {
			return s, err
		}
	}
	s.containerd = time.Duration(ticks[0]+ticks[1]) * time.Second / perSecond
	s.commands = time.Duration(ticks[2]+ticks[3]) * time.Second / perSecond
	return s, nil
}

// number is one in a file of the cgroup's.
func (g *group) number(file, key string) (int64, error) {
	text, err := os.ReadFile(filepath.Join(g.dir, file))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, found := strings.CutPrefix(strings.TrimSpace(line), key); found {
			return strconv.ParseInt(value, 10, 64)
		}
	}
	return 0, fmt.Errorf("%s has no %s", file, key)
}

func (g *group) usage() (user, system time.Duration, _ error) {
	number := func(file, key string, unit time.Duration) (time.Duration, error) {
		n, err := g.number(file, key)
		return time.Duration(n) * unit, err
	}
	var err1, err2 error
	if cgroups.IsCgroup2UnifiedMode() {
		user, err1 = number("cpu.stat", "user_usec ", time.Microsecond)
		system, err2 = number("cpu.stat", "system_usec ", time.Microsecond)
	} else {
		user, err1 = number("cpuacct.usage_user", "", time.Nanosecond)
		system, err2 = number("cpuacct.usage_sys", "", time.Nanosecond)
	}
	return user, system, errors.Join(err1, err2)
}

// cpu measures what whole lives cost, some at once: a machine that starts many containers
// waits for its processors.
func (b *bench) cpu(subjects []subject) (retErr error) {
	g, err := measured(b.Daemon, "cpuacct")
	if err != nil {
		return err
	}
	defer func() { retErr = errors.Join(retErr, g.leave()) }()
	b.EndIdle() // it would not be counted
	rows := []string{"hello\tat once\tlives/s\tCPU\tuser\tsystem\tcontainerd\tcommands\tdaemons, containers\tratio"}
	for _, workers := range []int{1, 4, 32} {
		lives := max(b.n, 4*workers)
		all := make([]spent, len(subjects))
		took := make([]time.Duration, len(subjects))
		for i, s := range subjects {
			if _, err := b.atOnce(s, workers, workers); err != nil { // warms up
				return err
			}
			before, err := g.read(b.Pid())
			if err != nil {
				return err
			}
			if took[i], err = b.atOnce(s, workers, lives); err != nil {
				return err
			}
			after, err := g.read(b.Pid())
			if err != nil {
				return err
			}
			all[i] = after.since(before)
		}
		base := all[len(all)-1]
		for i, s := range subjects {
			c, n := all[i], time.Duration(lives)
			total := c.user + c.system
			rows = append(rows, fmt.Sprintf("%s\t%d\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t%.2f", s.name, workers, float64(lives)/took[i].Seconds(),
				ms(total/n), ms(c.user/n), ms(c.system/n), ms(c.containerd/n), ms(c.commands/n), ms((total-c.containerd-c.commands)/n),
				float64(total)/float64(base.user+base.system)))
		}
	}
	table("CPU time of a life, with its container and snapshot, in ms; ratio to the last row's", rows...)
	return nil
}
