// SPDX-License-Identifier: Apache-2.0

// Command wazero is wazero as a containerd runtime.
package main

// #cgo LDFLAGS: -static
import "C" // for that flag: the binary is executed in the container's empty root

import "github.com/libwasmshim/libwasmshim/shim"

func main() { shim.Run(engine{}, shim.Config{}) }
