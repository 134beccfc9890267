// SPDX-License-Identifier: Apache-2.0

// The guest's code, and what is compiled from it.

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "context.h"

// Where the guest is a file, it is opened here, by whoever the container's
// user is: what that user may not read is not run.
static int open_file(wasm_shim_context *ctx) {
    if (ctx->file > 0)
        return ctx->file;
    int fd = open(ctx->stage.entry_path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return -1;
    ctx->file = fd;
    return fd;
}

static const struct wasmshim_layer *layer(const wasm_shim_context *ctx, size_t index) {
    return index < ctx->stage.layer_count ? &ctx->stage.layers[index] : NULL;
}

static const struct wasmshim_layer one_file = {.media_type = "", .digest = ""};

static const char *or_null(const char *s) {
    return s[0] != 0 ? s : NULL;
}

size_t wasm_shim_layer_count(const wasm_shim_context *ctx) {
    return ctx->stage.layer_count != 0 ? ctx->stage.layer_count : 1;
}

const char *wasm_shim_layer_media_type(const wasm_shim_context *ctx, size_t index) {
    const struct wasmshim_layer *l = layer(ctx, index);
    return or_null((l != NULL ? l : &one_file)->media_type);
}

const char *wasm_shim_layer_digest(const wasm_shim_context *ctx, size_t index) {
    const struct wasmshim_layer *l = layer(ctx, index);
    return or_null((l != NULL ? l : &one_file)->digest);
}

int wasm_shim_layer_fd(wasm_shim_context *ctx, size_t index) {
    const struct wasmshim_layer *l = layer(ctx, index);
    if (l != NULL && l->fd != 0)
        return (int)l->fd;
    if (l != NULL || (index == 0 && ctx->stage.layer_count == 0))
        return open_file(ctx);
    errno = ENOENT;
    return -1;
}

// The mapping in a slot: 2 * index for a layer, + 1 for its artifact. NULL if
// there is no memory for it.
static struct wasmshim_mapping *mapping(wasm_shim_context *ctx, size_t slot) {
    if (ctx->mappings == NULL)
        ctx->mappings = calloc(2 * wasm_shim_layer_count(ctx), sizeof(*ctx->mappings));
    return ctx->mappings != NULL ? &ctx->mappings[slot] : NULL;
}

// Maps what fd is open on. An empty file has no pages, and is there all the
// same.
static int map(struct wasmshim_mapping *m, int fd) {
    static const uint8_t empty[1];
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -1;
    if (!S_ISREG(st.st_mode)) {
        errno = EINVAL;
        return -1;
    }
    const void *bytes = empty;
    if (st.st_size > 0)
        bytes = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (bytes == MAP_FAILED)
        return -1;
    *m = (struct wasmshim_mapping){.bytes = bytes, .size = (size_t)st.st_size};
    return 0;
}

static const uint8_t *give(const struct wasmshim_mapping *m, size_t *size) {
    if (m->bytes != NULL && size != NULL)
        *size = m->size;
    return m->bytes;
}

const uint8_t *wasm_shim_layer_bytes(wasm_shim_context *ctx, size_t index, size_t *size) {
    if (index >= wasm_shim_layer_count(ctx)) {
        errno = ENOENT;
        return NULL;
    }
    struct wasmshim_mapping *m = mapping(ctx, 2 * index);
    if (m == NULL || m->bytes != NULL)
        return m != NULL ? give(m, size) : NULL;
    bool was_open = ctx->file > 0;
    int fd = wasm_shim_layer_fd(ctx, index);
    if (fd < 0)
        return NULL;
    int result = map(m, fd);
    // A mapping does not need the descriptor, and nobody has asked for it.
    if (!was_open && ctx->file > 0) {
        int saved = errno;
        close(ctx->file);
        ctx->file = 0;
        errno = saved;
    }
    return result == 0 ? give(m, size) : NULL;
}

int wasm_shim_artifact_fd(wasm_shim_context *ctx, size_t index) {
    const struct wasmshim_layer *l = layer(ctx, index);
    if (l != NULL && l->artifact != 0 && !ctx->compiles)
        return (int)l->artifact;
    errno = ENOENT;
    return -1;
}

const uint8_t *wasm_shim_artifact_bytes(wasm_shim_context *ctx, size_t index, size_t *size) {
    int fd = wasm_shim_artifact_fd(ctx, index);
    struct wasmshim_mapping *m = fd >= 0 ? mapping(ctx, 2 * index + 1) : NULL;
    if (m == NULL || (m->bytes == NULL && map(m, fd) < 0))
        return NULL;
    return give(m, size);
}

void wasm_shim_artifact_refuse(wasm_shim_context *ctx, size_t index, const char *why) {
    if (wasm_shim_artifact_fd(ctx, index) < 0)
        return;
    char number[24];
    char kind = WASMSHIM_SAY_REFUSED;
    int n = snprintf(number, sizeof(number), "%zu", index);
    struct iovec record[] = {
        {.iov_base = &kind, .iov_len = 1},
        {.iov_base = number, .iov_len = (size_t)n + 1},
        {.iov_base = (void *)(why != NULL ? why : ""), .iov_len = why != NULL ? strlen(why) : 0},
    };
    wasmshim_tell(record, sizeof(record) / sizeof(record[0]));
}

int wasm_shim_artifact_write(wasm_shim_context *ctx, size_t index, const void *bytes, size_t size) {
    const struct wasmshim_layer *l = layer(ctx, index);
    if (l == NULL || l->artifact == 0 || !ctx->compiles) {
        errno = ENOENT;
        return -1;
    }
    for (const char *p = bytes; size > 0;) {
        ssize_t n = write((int)l->artifact, p, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        p += n;
        size -= (size_t)n;
    }
    return 0;
}
