// SPDX-License-Identifier: Apache-2.0

// The accessors of wasm_shim.h.

#include "context.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    PARTS_MAX = 72, // of a log line: 32 fields and what is around them
};

static const char *const levels[] = {
    [WASM_SHIM_LOG_ERROR] = "error", [WASM_SHIM_LOG_WARN] = "warn",   [WASM_SHIM_LOG_INFO] = "info",
    [WASM_SHIM_LOG_DEBUG] = "debug", [WASM_SHIM_LOG_TRACE] = "trace",
};

int32_t wasmshim_log_level(const char *name) {
    for (int32_t i = WASM_SHIM_LOG_ERROR; i <= WASM_SHIM_LOG_TRACE; i++)
        if (strcmp(name, levels[i]) == 0)
            return i;
    return WASM_SHIM_LOG_INFO;
}

void wasm_shim_set_error(wasm_shim_context *ctx, const char *message) {
    char *error = message != NULL ? strdup(message) : NULL;
    pthread_mutex_lock(&ctx->error_lock);
    char *last = ctx->error;
    ctx->error = error;
    pthread_mutex_unlock(&ctx->error_lock);
    free(last);
}

char *wasmshim_take_error(wasm_shim_context *ctx) {
    pthread_mutex_lock(&ctx->error_lock);
    char *error = ctx->error;
    ctx->error = NULL;
    pthread_mutex_unlock(&ctx->error_lock);
    return error;
}

static struct iovec text(const char *s) {
    return (struct iovec){.iov_base = (void *)s, .iov_len = strlen(s)};
}

void wasmshim_tell(struct iovec *parts, size_t count) {
    size_t room = WASMSHIM_MESSAGE_MAX;
    for (size_t i = 0; i < count; i++) {
        if (parts[i].iov_len > room)
            parts[i].iov_len = room;
        room -= parts[i].iov_len;
    }
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = count};
    sendmsg(WASMSHIM_FD_STATUS, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

// The fields behind a line: to the daemon they come after a NUL each, to a
// reader after a blank.
static size_t add_fields(struct iovec *parts, size_t used, const char *separator, const char *const *fields) {
    for (size_t i = 0; fields != NULL && fields[i] != NULL && used + 3 <= PARTS_MAX; i++) {
        parts[used++] = (struct iovec){.iov_base = (void *)separator, .iov_len = 1};
        parts[used++] = text(fields[i]);
    }
    return used;
}

void wasm_shim_log(wasm_shim_context *ctx, int32_t level, const char *message, const char *const *fields) {
    if (message == NULL || level < WASM_SHIM_LOG_ERROR || level > ctx->log_level)
        return;
    if (level > WASM_SHIM_LOG_TRACE)
        level = WASM_SHIM_LOG_TRACE;
    if (ctx->has_log) {
        char first = (char)level;
        struct iovec record[PARTS_MAX] = {{.iov_base = &first, .iov_len = 1}, text(message)};
        wasmshim_tell(record, add_fields(record, 2, "", fields));
        return;
    }
    struct iovec line[PARTS_MAX] = {text(ctx->engine), text(": "), text(levels[level]), text(": "), text(message)};
    size_t used = add_fields(line, 5, " ", fields);
    line[used++] = text("\n");
    // There is nobody to tell that the container's stderr is gone.
    ssize_t ignored = writev(STDERR_FILENO, line, (int)used);
    (void)ignored;
}

const char *wasm_shim_container_id(const wasm_shim_context *ctx) {
    return ctx->stage.id;
}

const char *wasm_shim_pod_id(const wasm_shim_context *ctx) {
    return ctx->stage.pod[0] != 0 ? ctx->stage.pod : ctx->stage.id;
}

const char *wasm_shim_namespace(const wasm_shim_context *ctx) {
    return ctx->stage.ns;
}

const char *wasm_shim_exec_id(const wasm_shim_context *ctx) {
    return ctx->stage.exec_id;
}

static size_t give(const struct wasmshim_list *l, const char *const **list) {
    if (list != NULL)
        *list = l->items;
    return l->count;
}

size_t wasm_shim_args(const wasm_shim_context *ctx, const char *const **list) {
    return give(&ctx->stage.args, list);
}

size_t wasm_shim_env(const wasm_shim_context *ctx, const char *const **list) {
    return give(&ctx->stage.env, list);
}

const char *wasm_shim_cwd(const wasm_shim_context *ctx) {
    return ctx->stage.cwd[0] != 0 ? ctx->stage.cwd : "/";
}

const char *wasm_shim_entry_path(const wasm_shim_context *ctx) {
    return ctx->stage.entry_path;
}

const char *wasm_shim_entry_func(const wasm_shim_context *ctx) {
    return ctx->stage.entry_func[0] != 0 ? ctx->stage.entry_func : "_start";
}

const char *wasm_shim_entry_name(const wasm_shim_context *ctx) {
    return ctx->stage.entry_name;
}

const char *wasm_shim_entry_arg0(const wasm_shim_context *ctx) {
    return ctx->stage.args.count > 0 ? ctx->stage.args.items[0] : "";
}

uint32_t wasm_shim_kind(const wasm_shim_context *ctx) {
    return ctx->stage.kind;
}

const char *wasm_shim_source_file(const wasm_shim_context *ctx) {
    return ctx->stage.entry_path[0] != 0 ? ctx->stage.entry_path : NULL;
}

const char *wasm_shim_option_value(const wasm_shim_context *ctx, const char *key) {
    size_t n = key != NULL ? strlen(key) : 0;
    // Backwards: of two, the later one wins.
    for (size_t i = ctx->stage.options.count; n > 0 && i-- > 0;) {
        const char *o = ctx->stage.options.items[i];
        if (strncmp(o, key, n) == 0 && o[n] == '=')
            return o + n + 1;
    }
    return NULL;
}

static const struct wasmshim_preopen root = {.host = "/", .guest = "/"};

static const struct wasmshim_preopen *preopen(const wasm_shim_context *ctx, size_t i) {
    if (wasm_shim_preopen_count(ctx) > ctx->stage.preopen_count)
        return i == 0 ? &root : NULL;
    return i < ctx->stage.preopen_count ? &ctx->stage.preopens[i] : NULL;
}

size_t wasm_shim_preopen_count(const wasm_shim_context *ctx) {
    const struct wasmshim_stage *s = &ctx->stage;
    return s->preopen_count == 0 && (s->flags & WASMSHIM_FLAG_NO_PREOPENS) == 0 ? 1 : s->preopen_count;
}

const char *wasm_shim_preopen_host(const wasm_shim_context *ctx, size_t index) {
    const struct wasmshim_preopen *p = preopen(ctx, index);
    return p != NULL ? p->host : NULL;
}

const char *wasm_shim_preopen_guest(const wasm_shim_context *ctx, size_t index) {
    const struct wasmshim_preopen *p = preopen(ctx, index);
    return p != NULL ? p->guest : NULL;
}

uint64_t wasm_shim_memory_limit(const wasm_shim_context *ctx) {
    return ctx->stage.memory;
}

uint64_t wasm_shim_cpu_limit(const wasm_shim_context *ctx) {
    return ctx->stage.cpu;
}
