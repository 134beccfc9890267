// SPDX-License-Identifier: Apache-2.0

// Command go-engine is a containerd shim whose engine is written in Go: core
// modules on wasmtime's Go API.
//
//	go build -tags "netgo osusergo seccomp" -o containerd-shim-go-engine-v1 ./examples/go-engine
package main

// #cgo LDFLAGS: -static
import "C" // for that flag: the binary is executed in the container's empty root

import "github.com/libwasmshim/libwasmshim/shim"

func main() { shim.Run(engine{}, shim.Config{}) }
