// SPDX-License-Identifier: Apache-2.0

#ifndef WASMSHIM_CONTEXT_H
#define WASMSHIM_CONTEXT_H

#include <stdbool.h>
#include <sys/uio.h>

#include "stage.h"
#include "wasm_shim.h"

struct wasm_shim_context {
    struct wasmshim_stage stage;
    const char *engine; // its name
    int32_t log_level;
    bool has_log; // the daemon listens; else the log goes to stderr
    char *error;  // what wasm_shim_set_error was told last; NULL if nothing
};

// Sends the daemon a message in one piece. Never waits: what finds no room is
// lost, and an engine is not held up by a daemon that is stopped or gone.
void wasmshim_tell(struct iovec *parts, size_t count);

// The level that a name stands for; the default for "" and unknown names.
int32_t wasmshim_log_level(const char *name);

#endif
