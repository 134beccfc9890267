// SPDX-License-Identifier: Apache-2.0

#ifndef ENGINE_WASM3_H
#define ENGINE_WASM3_H

#include <stdbool.h>
#include <wasm3.h>

#include "wasm_shim.h"

// One guest, and what WASI keeps for it. Nothing is freed: the process ends with
// the guest.
struct guest {
    wasm_shim_context *ctx;
    IM3Runtime runtime;
    bool exited; // by itself, with exit_code
    int32_t exit_code;
};

// Opens the guest's directories. Returns a status; the error is set.
int32_t wasi_open(struct guest *g);

// Gives a module the functions of WASI preview 1 that it imports.
M3Result wasi_link(struct guest *g, IM3Module module);

#endif
