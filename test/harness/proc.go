// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"bufio"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
)

// Process is one entry of /proc.
type Process struct {
	Pid, Parent int
	State       byte // 'Z' is a zombie
	StartTime   uint64
	Args        string // its command line, or [name] without one
}

func (p Process) String() string { return fmt.Sprintf("%d %c %s", p.Pid, p.State, p.Args) }

func readProcess(pid int) (Process, error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return Process{}, err
	}
	open, end := strings.IndexByte(string(stat), '('), strings.LastIndexByte(string(stat), ')')
	fields := strings.Fields(string(stat[end+1:]))
	p := Process{Pid: pid, State: fields[0][0]}
	p.Parent, _ = strconv.Atoi(fields[1])
	p.StartTime, _ = strconv.ParseUint(fields[19], 10, 64)
	args, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
	p.Args = strings.TrimSpace(strings.ReplaceAll(string(args), "\x00", " "))
	if p.Args == "" {
		p.Args = "[" + string(stat[open+1:end]) + "]"
	}
	return p, nil
}

// processes finds what belongs to the named daemon: by command line, working
// directory, root or cgroup, and every descendant of such a process (a zombie
// has none of them but its parent).
func processes(name string) []Process {
	var all []Process
	ours := map[int]bool{}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		p, err := readProcess(pid)
		if err != nil {
			continue
		}
		all = append(all, p)
		dir := filepath.Join("/proc", e.Name())
		cgroup, _ := os.ReadFile(filepath.Join(dir, "cgroup"))
		cwd, _ := os.Readlink(filepath.Join(dir, "cwd"))
		root, _ := os.Readlink(filepath.Join(dir, "root"))
		for _, text := range []string{p.Args, cwd, root} {
			if strings.Contains(text, "/"+name) {
				ours[pid] = true
			}
		}
		if strings.Contains(string(cgroup), name) {
			ours[pid] = true
		}
	}
	for changed := true; changed; {
		changed = false
		for _, p := range all {
			if ours[p.Parent] && !ours[p.Pid] {
				ours[p.Pid], changed = true, true
			}
		}
	}
	var found []Process
	for _, p := range all {
		if ours[p.Pid] {
			found = append(found, p)
		}
	}
	return found
}

// mounts lists the daemon's mount points, the innermost first.
func mounts(name string) []string {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	defer f.Close()
	var found []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 4 && strings.Contains(fields[4]+"/", "/"+name+"/") {
			found = append(found, fields[4])
		}
	}
	for i, j := 0, len(found)-1; i < j; i, j = i+1, j-1 {
		found[i], found[j] = found[j], found[i]
	}
	return found
}

// cgroups lists the daemon's cgroups in every hierarchy, parents first.
func cgroups(name string) []string {
	var found []string
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() && strings.Contains(path, name) {
			found = append(found, path)
		}
		return nil
	})
	sort.Strings(found)
	return found
}

// files lists everything below the given directories.
func files(dirs ...string) []string {
	var found []string
	for _, dir := range dirs {
		_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil {
				return nil //nolint:nilerr // what has just gone is not left
			}
			found = append(found, e.Type().String()+" "+path)
			if e.IsDir() && e.Name() == "rootfs" {
				return fs.SkipDir // an image, or a mount that mounts() reports
			}
			return nil
		})
	}
	return found
}
