// SPDX-License-Identifier: Apache-2.0

package container

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/fscommon"
	"golang.org/x/sys/unix"
)

// stat is what the kernel says of a process. A process id may be used again, but
// not with the same start time.
type stat struct {
	pid, ppid int
	name      string
	state     byte
	flags     uint64
	start     uint64
}

// alive tells whether the process has not ended yet; a zombie has.
func (s stat) alive() bool {
	now, err := readStat(s.pid)
	return err == nil && now.start == s.start && now.state != 'Z' && now.state != 'X'
}

// StartTime is when a process was started, by the kernel's clock since boot, in its
// hundredths of seconds.
func StartTime(pid int) (uint64, error) {
	s, err := readStat(pid)
	return s.start, err
}

// CPUTime is how long the container has run on processors, all its processes together, or,
// where it has no cgroup, the init; 0 once it has ended.
func (c *Container) CPUTime() time.Duration {
	if t := c.cgroup.cpuTime(); t > 0 {
		return t
	}
	const all = 2 // of a process id's clocks, see clock_getcpuclockid(3), the one that counts to the nanosecond
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^c.init.pid<<3|all), &t); err != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

func (c cgroup) cpuTime() time.Duration {
	if cgroups.IsCgroup2UnifiedMode() {
		usec, _ := fscommon.GetValueByKey(c.Paths[""], "cpu.stat", "usage_usec")
		return time.Duration(usec) * time.Microsecond
	}
	ns, _ := fscommon.GetCgroupParamUint(c.Paths["cpuacct"], "cpuacct.usage")
	return time.Duration(ns)
}

// readStat reads /proc/<pid>/stat, see proc_pid_stat(5).
func readStat(pid int) (stat, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return stat{}, err
	}
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || end < open {
		return stat{}, fmt.Errorf("stat of process %d has no name", pid)
	}
	f := bytes.Fields(b[end+1:]) // f[0] is field 3, the state
	if len(f) < 20 {
		return stat{}, fmt.Errorf("stat of process %d is cut off", pid)
	}
	s := stat{pid: pid, name: string(b[open+1 : end]), state: f[0][0]}
	var errs [3]error
	s.ppid, errs[0] = strconv.Atoi(string(f[1]))
	s.flags, errs[1] = strconv.ParseUint(string(f[6]), 10, 64)
	s.start, errs[2] = strconv.ParseUint(string(f[19]), 10, 64)
	return s, errors.Join(errs[:]...)
}
