// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// applyLabel sets what AppArmor and SELinux make of this thread at its execve, if
// execLabel of shim/internal/container has handed it over, and keeps its files from what
// is executed.
func applyLabel() error {
	if os.Getenv("_LIBCONTAINER_INITTYPE") != "setns" {
		return nil
	}
	// What libcontainer hands over follows the extra files.
	after := os.Getenv("_LIBCONTAINER_CONSOLE")
	if after == "" {
		after = os.Getenv("_LIBCONTAINER_INITPIPE")
	}
	n, err := strconv.Atoi(after)
	if err != nil {
		return fmt.Errorf("descriptor %q of libcontainer: %w", after, err)
	}
	proc, label := n-1, n-2
	// No other extra file is a procfs: what a guest's files are makes no label.
	var fs unix.Statfs_t
	if label < 3 || unix.Fstatfs(proc, &fs) != nil || fs.Type != unix.PROC_SUPER_MAGIC {
		return nil
	}
	unix.CloseOnExec(proc)
	unix.CloseOnExec(label)
	text := make([]byte, 64<<10)
	size, err := unix.Pread(label, text, 0)
	if err != nil {
		return fmt.Errorf("read the label: %w", err)
	}
	fields := strings.Split(string(text[:size]), "\x00")
	for i := 0; i+1 < len(fields); i += 2 {
		if err := write(proc, "thread-self/"+fields[i], fields[i+1]); err != nil {
			return fmt.Errorf("write %q to %s: %w", fields[i+1], fields[i], err)
		}
	}
	return nil
}

func write(dir int, path, text string) error {
	fd, err := unix.Openat(dir, path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte(text))
	return err
}
