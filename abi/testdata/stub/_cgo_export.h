// SPDX-License-Identifier: Apache-2.0

// What cgo generates for cabi.go, by hand: for a build of the C side alone.

#include "wasm_shim.h"

void wasmshimGoInit(void);
struct wasmshim_start;
int wasmshimGoMain(wasm_shim_engine *engine, struct wasmshim_start *start);
