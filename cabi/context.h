// SPDX-License-Identifier: Apache-2.0

#ifndef WASMSHIM_CONTEXT_H
#define WASMSHIM_CONTEXT_H

#include <pthread.h>
#include <stdbool.h>
#include <sys/uio.h>

#include "stage.h"
#include "wasm_shim.h"

struct wasm_shim_context {
    struct wasmshim_stage stage;
    const char *engine; // its name
    int32_t log_level;
    bool has_log;  // the daemon listens; else the log goes to stderr
    bool compiles; // this is a compiler: artifacts are written, not read
    bool denied;   // the guest's file could not be opened, and its mode is not why
    pthread_mutex_t error_lock;
    char *error;                       // guarded by error_lock: what wasm_shim_set_error was told last; NULL if nothing
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

// What wasm_shim_set_error was told last, NULL if nothing. The caller frees it.
char *wasmshim_take_error(wasm_shim_context *ctx);

// Ends the process once the engine has returned. Its destructors and atexit
// handlers are not run: threads of its own may still use what they destroy, and
// a crash there would be taken for the guest's end. What it has written is.
_Noreturn void wasmshim_end(int code);

// Says as data to the daemon why there is no result. Async-signal-safe.
void wasmshim_tell_failure(const char *where, const char *cause);

// The same, and as text on stderr.
void wasmshim_report(const char *engine, const char *where, const char *cause);

// Sends the daemon a message in one piece. Never waits: what finds no room is
// lost, and an engine is not held up by a daemon that is stopped or gone.
void wasmshim_tell(struct iovec *parts, size_t count);

// The level that a name stands for; the default for "" and unknown names.
int32_t wasmshim_log_level(const char *name);

#endif
