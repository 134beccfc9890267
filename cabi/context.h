// SPDX-License-Identifier: Apache-2.0

#ifndef WASMSHIM_CONTEXT_H
#define WASMSHIM_CONTEXT_H

#include "stage.h"
#include "wasm_shim.h"

struct wasm_shim_context {
    struct wasmshim_stage stage;
    const char *engine; // its name
    int32_t log_level;
    char *error; // what wasm_shim_set_error was told last; NULL if nothing
};

// The level that a name stands for; the default for "" and unknown names.
int32_t wasmshim_log_level(const char *name);

#endif
