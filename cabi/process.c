// SPDX-License-Identifier: Apache-2.0

// What a runner and a compiler have in common: what they are started with, and
// how they say what went wrong.

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "context.h"

void wasmshim_tell_failure(const char *where, const char *cause) {
    struct iovec record[] = {
        {.iov_base = "", .iov_len = 1},
        {.iov_base = (void *)where, .iov_len = strlen(where) + 1},
        {.iov_base = (void *)cause, .iov_len = strlen(cause)},
    };
    wasmshim_tell(record, sizeof(record) / sizeof(record[0]));
}

void wasmshim_report(const char *engine, const char *where, const char *cause) {
    wasmshim_tell_failure(where, cause);
    struct iovec line[] = {
        {.iov_base = (void *)engine, .iov_len = strlen(engine)},
        {.iov_base = ": ", .iov_len = 2},
        {.iov_base = (void *)cause, .iov_len = strlen(cause)},
        {.iov_base = "\n", .iov_len = 1},
    };
    ssize_t n = writev(STDERR_FILENO, line, sizeof(line) / sizeof(line[0]));
    (void)n; // nobody is left to tell
}

void wasmshim_end(int code) {
    fflush(NULL);
    _exit(code);
}

// Reads the context into memory that lives as long as the process.
static const char *read_stage(struct wasmshim_stage *stage) {
    struct stat st;
    if (fstat(WASMSHIM_FD_STAGE, &st) < 0)
        return "no context on descriptor 4: this process is started by containerd only";
    // What SELinux keeps from a process is a device of its own instead.
    if (!S_ISREG(st.st_mode))
        return "descriptor 4 is not the daemon's file: SELinux may keep it from the container, see docs/operators.md";
    if (st.st_size <= 0 || st.st_size > WASMSHIM_STAGE_MAX)
        return "context of a wrong size";
    uint8_t *bytes = malloc((size_t)st.st_size);
    if (bytes == NULL)
        return "out of memory";
    if (pread(WASMSHIM_FD_STAGE, bytes, (size_t)st.st_size, 0) != st.st_size)
        return "cannot read the context";
    return wasmshim_stage_decode(bytes, (size_t)st.st_size, stage);
}

// Makes the command line what the container's spec says. argv[0] is the path
// by which this binary was executed; the rest is the container's.
static void set_title(int argc, char **argv, const char *name) {
    prctl(PR_SET_NAME, name);
    if (argc < 2)
        return;
    char *end = argv[argc - 1] + strlen(argv[argc - 1]) + 1;
    size_t n = (size_t)(end - argv[1]);
    memmove(argv[0], argv[1], n);
    memset(argv[0] + n, 0, (size_t)(end - argv[0]) - n);
    // Cuts off the NULs that are left over; needs a capability that few
    // containers have, and only ps with odd options shows the difference.
    prctl(PR_SET_MM, PR_SET_MM_ARG_END, argv[0] + n, 0, 0);
}

// Nothing beside stdio, the layers and the status socket is left open; a guest
// with "/" must not depend on that. Kernels before 5.9 do not have the call.
static void close_rest(const struct wasmshim_stage *stage) {
    unsigned end = WASMSHIM_FD_LAYERS;
    for (size_t i = 0; i < stage->layer_count; i++) {
        const uint32_t fds[] = {stage->layers[i].fd, stage->layers[i].artifact};
        for (size_t j = 0; j < 2; j++) {
            if (fds[j] != 0)
                fcntl((int)fds[j], F_SETFD, FD_CLOEXEC);
            if (fds[j] >= end)
                end = fds[j] + 1;
        }
    }
    close(WASMSHIM_FD_EXE);
    close(WASMSHIM_FD_STAGE);
    syscall(SYS_close_range, end, ~0U, 0);
}

const char *wasmshim_take_over(int argc, char **argv, const wasm_shim_engine *engine, wasm_shim_context *ctx) {
    fcntl(WASMSHIM_FD_STATUS, F_SETFD, FD_CLOEXEC);
    const char *bad = read_stage(&ctx->stage);
    if (bad != NULL)
        return bad;
    ctx->engine = engine->name;
    ctx->log_level = wasmshim_log_level(ctx->stage.log_level);
    struct stat st;
    ctx->has_log = fstat(WASMSHIM_FD_STATUS, &st) == 0 && S_ISSOCK(st.st_mode);
    close_rest(&ctx->stage);
    // Our marker, and what libcontainer adds: not the engine's business.
    clearenv();
    set_title(argc, argv, ctx->stage.entry_name);
    return NULL;
}
