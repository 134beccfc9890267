// SPDX-License-Identifier: Apache-2.0

// The guest's code, and what is compiled from it.

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cabi.h"
#include "context.h"

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

// The mapping in a slot: 2 * index for a layer, + 1 for its artifact. NULL if
// there is no memory for it.
static struct wasmshim_mapping *mapping(wasm_shim_context *ctx, size_t slot) {
    if (ctx->mappings == NULL)
        ctx->mappings = calloc(2 * wasm_shim_layer_count(ctx), sizeof(*ctx->mappings));
    return ctx->mappings != NULL ? &ctx->mappings[slot] : NULL;
}

// Reads from fd until there is no more or size bytes are read. Returns how many.
static ssize_t read_all(int fd, uint8_t *bytes, size_t size) {
    size_t n = 0;
    while (n < size) {
        ssize_t r = read(fd, bytes + n, size - n);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return -1;
        if (r == 0)
            break;
        n += (size_t)r;
    }
    return (ssize_t)n;
}

// How many bytes there are in what fd is open on, -1 if it is no regular file.
// AppArmor lets a process read what it has inherited, but not ask for its size
// where the profile does not name the file: a layer's is not to be found in the
// container. Such a descriptor says where its end is.
static off_t size_of(int fd) {
    struct stat st;
    if (fstat(fd, &st) < 0) {
        if (errno != EACCES)
            return -1;
        off_t offset = lseek(fd, 0, SEEK_CUR), size = lseek(fd, 0, SEEK_END);
        return lseek(fd, offset, SEEK_SET) < 0 ? -1 : size;
    }
    if (!S_ISREG(st.st_mode)) {
        errno = EINVAL;
        return -1;
    }
    return st.st_size;
}

// Maps what fd is open on, or a copy of it. An empty file has no pages, and is
// there all the same.
static int map(struct wasmshim_mapping *m, int fd, bool copy) {
    static const uint8_t empty[1];
    off_t found = size_of(fd);
    if (found < 0)
        return -1;
    size_t size = (size_t)found;
    if (size == 0) {
        *m = (struct wasmshim_mapping){.bytes = empty};
        return 0;
    }
    uint8_t *bytes = copy ? mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
                          : mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (bytes == MAP_FAILED)
        return -1;
    // A file that has become shorter is what was read; what was added to one is
    // not.
    ssize_t n = copy ? read_all(fd, bytes, size) : (ssize_t)size;
    if (n < 0 || (copy && mprotect(bytes, size, PROT_READ) < 0)) {
        int saved = errno;
        munmap(bytes, size);
        errno = saved;
        return -1;
    }
    *m = (struct wasmshim_mapping){.bytes = bytes, .size = (size_t)n};
    return 0;
}

// Reads the guest's file into *m, as the container's user: what that user may not
// read is not run. A copy, because the guest or a neighbour may write to the
// file, or cut it off, while the engine reads.
static int copy_file(wasm_shim_context *ctx, struct wasmshim_mapping *m) {
    const char *path = ctx->stage.entry_path;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) {
        int why = errno;
        // Only the opening asks AppArmor.
        ctx->denied = why == EACCES && faccessat(AT_FDCWD, path, R_OK, AT_EACCESS) == 0;
        errno = why;
        return -1;
    }
    int result = map(m, fd, true);
    int saved = errno;
    close(fd);
    errno = saved;
    return result;
}

// The layer's descriptor; 0 for the file at the entrypoint, -1 if there is no
// such layer.
static int inherited(const wasm_shim_context *ctx, size_t index) {
    if (index >= wasm_shim_layer_count(ctx)) {
        errno = ENOENT;
        return -1;
    }
    const struct wasmshim_layer *l = layer(ctx, index);
    return l != NULL ? (int)l->fd : 0;
}

static const struct wasmshim_mapping *layer_mapping(wasm_shim_context *ctx, size_t index) {
    int fd = inherited(ctx, index);
    struct wasmshim_mapping *m = fd >= 0 ? mapping(ctx, 2 * index) : NULL;
    if (m == NULL || (m->bytes == NULL && (fd != 0 ? map(m, fd, false) : copy_file(ctx, m)) < 0))
        return NULL;
    return m;
}

static const uint8_t *give(const struct wasmshim_mapping *m, size_t *size) {
    if (m == NULL)
        return NULL;
    if (size != NULL)
        *size = m->size;
    return m->bytes;
}

const uint8_t *wasm_shim_layer_bytes(wasm_shim_context *ctx, size_t index, size_t *size) {
    return give(layer_mapping(ctx, index), size);
}

// Makes a file of the copy that nobody can change. Returns its descriptor.
static int seal_copy(const struct wasmshim_mapping *m) {
    struct rlimit limit;
    // Else the write would end the process by SIGXFSZ.
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur < m->size) {
        errno = EFBIG;
        return -1;
    }
    int fd = memfd_create("guest", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -1;
    if (wasmshim_write_all(fd, m->bytes, m->size) < 0 ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) < 0) {
        int saved = errno;
        close(fd);
        errno = saved;
        return -1;
    }
    // The same bytes at the same place, but not twice in memory. Where it fails
    // they are there twice.
    if (m->size > 0)
        mmap((void *)m->bytes, m->size, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 0);
    return fd;
}

int wasm_shim_layer_fd(wasm_shim_context *ctx, size_t index) {
    int fd = inherited(ctx, index);
    if (fd != 0 || ctx->file > 0)
        return fd != 0 ? fd : ctx->file;
    const struct wasmshim_mapping *m = layer_mapping(ctx, index);
    if (m == NULL || (fd = seal_copy(m)) < 0)
        return -1;
    return ctx->file = fd;
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
    if (m == NULL || (m->bytes == NULL && map(m, fd, false) < 0))
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
    return wasmshim_write_all((int)l->artifact, bytes, size);
}
