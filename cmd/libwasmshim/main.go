// SPDX-License-Identifier: Apache-2.0

// Command libwasmshim is the root of libwasmshim.a: scripts/pack.sh builds it
// with -buildmode=c-archive. Its main never runs; wasm_shim_main does.

// Reading cgroup limits when Go starts, and again every second, is a waste in
// processes that live for a few milliseconds or sleep for weeks.
//
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0
package main

import _ "github.com/libwasmshim/libwasmshim/cabi"

func main() {}
