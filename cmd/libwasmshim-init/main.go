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
	"fmt"
	"os"
	"strconv"

	"github.com/opencontainers/runc/libcontainer"

	// The C constructor that enters the namespaces before Go starts.
	_ "github.com/opencontainers/runc/libcontainer/nsenter"
)

//export wasmshimGoInit
func wasmshimGoInit() {
	// This thread is the one that executes the program: C has called.
	if err := applyLabel(); err != nil {
		refuse(err)
		return
	}
	libcontainer.Init()
}

// refuse says why there is no process, where libcontainer's own errors of a start go.
func refuse(err error) {
	if fd, cerr := strconv.Atoi(os.Getenv("_LIBCONTAINER_LOGPIPE")); cerr == nil {
		fmt.Fprintf(os.NewFile(uintptr(fd), "log"), "{\"level\":\"error\",\"msg\":%q}\n", err.Error())
	}
}

func main() {}
