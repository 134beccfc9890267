// SPDX-License-Identifier: Apache-2.0

// Command libwasmshim-init is the stage of a container that runs inside it, a Go
// program beside the core in libwasmshim.a: it is started for every container and
// every exec, and what is not in it need not be initialised each time.
// scripts/pack.sh builds it with -buildmode=c-archive; cabi/main.c starts it.

//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0
package main

import (
	"C"

	"github.com/opencontainers/runc/libcontainer"

	// The C constructor that enters the namespaces before Go starts.
	_ "github.com/opencontainers/runc/libcontainer/nsenter"
)

//export wasmshimGoInit
func wasmshimGoInit() {
	libcontainer.Init()
}

func main() {}
