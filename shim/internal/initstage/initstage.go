// SPDX-License-Identifier: Apache-2.0

// Package initstage is the first process of a container, and of each exec, until it
// executes the program. Whoever imports it has a binary that can be that process.
package initstage

import (
	"os"

	"github.com/opencontainers/runc/libcontainer"

	// The C constructor that enters the namespaces before Go starts.
	_ "github.com/opencontainers/runc/libcontainer/nsenter"
)

// Wanted says whether this process was started to be that stage.
func Wanted() bool {
	return len(os.Args) == 2 && os.Args[1] == "init" && os.Getenv("_LIBCONTAINER_INITPIPE") != ""
}

// Run ends in execve or os.Exit. The caller is the process's main thread.
func Run() {
	libcontainer.Init()
}
