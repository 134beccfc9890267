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
    bool has_log;                      // the daemon listens; else the log goes to stderr
    bool compiles;                     // this is a compiler: artifacts are written, not read
    char *error;                       // what wasm_shim_set_error was told last; NULL if nothing
    int file;                          // a sealed copy of the guest's file, once it was asked for; else 0
    struct wasmshim_mapping *mappings; // of layers and artifacts, in turn; NULL until the first is made
};

struct wasmshim_mapping {
    const uint8_t *bytes; // NULL until it is made
    size_t size;
};

// Takes over what a runner or a compiler inherits: reads the context, closes
// what the engine is not to see, empties the environment and names the
// process. Returns NULL, or what is wrong.
const char *wasmshim_take_over(int argc, char **argv, const wasm_shim_engine *engine, wasm_shim_context *ctx);

// Says why there is no result: as data to the daemon, and as text on stderr.
void wasmshim_report(const char *engine, const char *where, const char *cause);

// Sends the daemon a message in one piece. Never waits: what finds no room is
// lost, and an engine is not held up by a daemon that is stopped or gone.
void wasmshim_tell(struct iovec *parts, size_t count);

// The level that a name stands for; the default for "" and unknown names.
int32_t wasmshim_log_level(const char *name);

#endif
