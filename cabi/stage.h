// SPDX-License-Identifier: Apache-2.0

// The context that the daemon passes to a runner; shim/internal/stage writes
// it and says how it is laid out. Both ends are the same binary, so whatever
// this decoder does not know is an error. It trusts no byte of its input.

#ifndef WASMSHIM_STAGE_H
#define WASMSHIM_STAGE_H

#include <stddef.h>
#include <stdint.h>

enum {
    WASMSHIM_STAGE_MAX = 64 << 20, // as in the encoder
};

// What a runner inherits beside stdio, as shim/internal/stage has it. The last
// is a socket that keeps the borders of messages: a guest cannot open it by its
// name in /proc, as it could a pipe. A message is one byte and a text: the
// level of a line for the log, with fields behind NULs; or WASMSHIM_SAY_*.
enum {
    WASMSHIM_FD_EXE = 3,
    WASMSHIM_FD_STAGE = 4,
    WASMSHIM_FD_STATUS = 5,
    WASMSHIM_FD_LAYERS = 6,
    WASMSHIM_LAYERS_MAX = 256,
    WASMSHIM_MESSAGE_MAX = 4096, // what does not fit is cut off
};

enum {
    WASMSHIM_SAY_FAILED = 0,  // where, NUL, cause
    WASMSHIM_SAY_REFUSED = 6, // a layer's index, decimal, whose artifact does not load; NUL, cause
};

struct wasmshim_list {
    const char **items; // ends with a NULL that count leaves out
    size_t count;
};

struct wasmshim_preopen {
    const char *host;
    const char *guest;
};

// A layer of the guest's code. Descriptors are from WASMSHIM_FD_LAYERS on. The
// only layer may do without one: it is the file at entry_path.
struct wasmshim_layer {
    const char *media_type; // empty if it is a file
    const char *digest;     // empty if it is not known
    uint32_t fd;            // 0 for the file at entry_path
    uint32_t artifact;      // 0 if there is none; in a compiler, where it is written to
};

// A limit of setrlimit(2).
struct wasmshim_rlimit {
    uint64_t soft;
    uint64_t hard;
    uint32_t resource;
};

enum {
    WASMSHIM_FLAG_MUST_HIDE = 1,   // rather no guest than one that is not kept from the hidden paths
    WASMSHIM_FLAG_NO_PREOPENS = 2, // the guest is given no directory; else none are "/"
    WASMSHIM_FLAGS = 3,            // all of them
};

// Strings point into the decoded bytes and are never NULL.
struct wasmshim_stage {
    const char *id;
    const char *pod;
    const char *ns;
    const char *exec_id; // empty for the container's first process
    const char *entry_path;
    const char *entry_func;
    const char *entry_name;
    const char *cwd;
    const char *log_level;
    struct wasmshim_list args;
    struct wasmshim_list env;
    struct wasmshim_list options; // "key=value"
    struct wasmshim_list hidden;  // absolute paths that the guest must not open
    struct wasmshim_preopen *preopens;
    size_t preopen_count;
    struct wasmshim_layer *layers; // none: the guest is the file at entry_path
    size_t layer_count;
    struct wasmshim_rlimit *rlimits; // that the runner sets itself
    size_t rlimit_count;
    uint64_t memory; // bytes, 0 for no limit
    uint64_t cpu;    // thousandths of a CPU, 0 for no limit
    uint32_t kind;
    uint32_t flags; // WASMSHIM_FLAG_*
    void *block;    // what all lists live in
};

// Fills *out from size bytes, which must stay in place as long as *out is
// used. Returns NULL, or a constant text that says what is wrong with them.
const char *wasmshim_stage_decode(const uint8_t *bytes, size_t size, struct wasmshim_stage *out);

void wasmshim_stage_free(struct wasmshim_stage *stage);

#endif
