// SPDX-License-Identifier: Apache-2.0

package task

import (
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// handlersTimeout bounds the wait for a runner's signal handlers, which it
// installs before anything else.
const handlersTimeout = 100 * time.Millisecond

// awaitHandlers waits until a runner that was just started has its signal
// handlers: the first process of a pid namespace never gets a signal that it
// has no handler for, and a stop that came too early would be lost.
func awaitHandlers(pid int) {
	for deadline := time.Now().Add(handlersTimeout); time.Now().Before(deadline); time.Sleep(200 * time.Microsecond) {
		status, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
		if err != nil || handlesSignals(string(status)) {
			return
		}
	}
}

// handlesSignals reads from /proc/PID/status whether a process is a runner that
// catches SIGTERM; libcontainer's init, which it is until exec, has a name of
// its own.
func handlesSignals(status string) bool {
	for line := range strings.Lines(status) {
		key, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch key {
		case "Name":
			if strings.HasPrefix(value, "runc:[") {
				return false
			}
		case "SigCgt":
			mask, err := strconv.ParseUint(value, 16, 64)
			return err == nil && mask&(1<<(syscall.SIGTERM-1)) != 0
		}
	}
	return false
}
