// SPDX-License-Identifier: Apache-2.0

// Command libwasmshim is the root of libwasmshim.a: scripts/pack.sh builds it
// with -buildmode=c-archive. Its main never runs; wasm_shim_main does.
package main

import _ "github.com/libwasmshim/libwasmshim/cabi"

func main() {}
