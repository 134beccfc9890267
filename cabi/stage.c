// SPDX-License-Identifier: Apache-2.0

#include "stage.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

// shim/internal/stage has the same list.
enum {
    TAG_ID = 1,
    TAG_POD,
    TAG_NAMESPACE,
    TAG_ARG,
    TAG_ENV,
    TAG_ENTRY_PATH,
    TAG_ENTRY_FUNC,
    TAG_ENTRY_NAME,
    TAG_CWD,
    TAG_OPTION,
    TAG_LOG_LEVEL,
    TAG_KIND,
    TAG_LAYER,
    TAG_MEMORY,
    TAG_CPU,
    TAG_PREOPEN,
    TAG_HIDDEN,
    TAG_FLAGS,
    TAG_EXEC_ID,
    TAG_RLIMIT,
};

static const char magic[8] = {'w', 'a', 's', 'm', 's', 'h', 'i', 'm'};

enum {
    VERSION = 1,
    HEADER = sizeof(magic) + 8,
    RECORD = 8,
    LAYER = 8,
    RLIMIT = 20,
};

static uint32_t u32(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint64_t u64(const uint8_t *p) {
    return (uint64_t)u32(p) | (uint64_t)u32(p + 4) << 32;
}

struct record {
    uint32_t tag;
    uint32_t len;
    const uint8_t *value; // len bytes and a NUL
};

// Reads the record at *pos and moves *pos behind it.
static const char *next(const uint8_t *bytes, size_t size, size_t *pos, struct record *r) {
    size_t left = size - *pos;
    if (left < RECORD)
        return "cut record";
    r->tag = u32(bytes + *pos);
    r->len = u32(bytes + *pos + 4);
    r->value = bytes + *pos + RECORD;
    uint64_t whole = ((uint64_t)RECORD + r->len + 1 + 3) & ~(uint64_t)3;
    if (whole > left || r->value[r->len] != 0)
        return "record overruns";
    *pos += (size_t)whole;
    return NULL;
}

static bool is_string(const struct record *r) {
    return memchr(r->value, 0, r->len) == NULL;
}

static bool is_pair(const struct record *r) {
    const uint8_t *nul = memchr(r->value, 0, r->len);
    return nul != NULL && memchr(nul + 1, 0, r->len - (size_t)(nul + 1 - r->value)) == NULL;
}

static bool is_layer_fd(uint32_t fd) {
    return fd >= WASMSHIM_FD_LAYERS && fd < WASMSHIM_FD_LAYERS + 2 * WASMSHIM_LAYERS_MAX;
}

// Two descriptors, media type, NUL, digest.
static const char *check_layer(const struct record *r) {
    if (r->len < LAYER)
        return "layer of the wrong length";
    struct record names = {.len = r->len - LAYER, .value = r->value + LAYER};
    if (!is_pair(&names))
        return "layer without type and digest";
    uint32_t fd = u32(r->value), artifact = u32(r->value + 4);
    return (fd == 0 || is_layer_fd(fd)) && (artifact == 0 || is_layer_fd(artifact)) ? NULL : "layer without descriptor";
}

static const char *check(const struct record *r) {
    switch (r->tag) {
    case TAG_KIND:
        return r->len == 4 ? NULL : "kind of the wrong length";
    case TAG_FLAGS:
        return r->len == 4 && (u32(r->value) & ~(uint32_t)WASMSHIM_FLAGS) == 0 ? NULL : "unknown flags";
    case TAG_MEMORY:
    case TAG_CPU:
        return r->len == 8 ? NULL : "limit of the wrong length";
    case TAG_RLIMIT:
        return r->len == RLIMIT ? NULL : "rlimit of the wrong length";
    case TAG_LAYER:
        return check_layer(r);
    case TAG_PREOPEN:
        return is_pair(r) ? NULL : "preopen without two names";
    case TAG_ID:
    case TAG_POD:
    case TAG_NAMESPACE:
    case TAG_ARG:
    case TAG_ENV:
    case TAG_ENTRY_PATH:
    case TAG_ENTRY_FUNC:
    case TAG_ENTRY_NAME:
    case TAG_CWD:
    case TAG_OPTION:
    case TAG_LOG_LEVEL:
    case TAG_HIDDEN:
    case TAG_EXEC_ID:
        return is_string(r) ? NULL : "NUL within a string";
    default:
        return "unknown tag";
    }
}

static void push(struct wasmshim_list *l, const char *s) {
    l->items[l->count++] = s;
}

static void store(const struct record *r, struct wasmshim_stage *out) {
    const char *s = (const char *)r->value;
    switch (r->tag) {
    case TAG_ID:
        out->id = s;
        break;
    case TAG_POD:
        out->pod = s;
        break;
    case TAG_NAMESPACE:
        out->ns = s;
        break;
    case TAG_EXEC_ID:
        out->exec_id = s;
        break;
    case TAG_ARG:
        push(&out->args, s);
        break;
    case TAG_ENV:
        push(&out->env, s);
        break;
    case TAG_ENTRY_PATH:
        out->entry_path = s;
        break;
    case TAG_ENTRY_FUNC:
        out->entry_func = s;
        break;
    case TAG_ENTRY_NAME:
        out->entry_name = s;
        break;
    case TAG_CWD:
        out->cwd = s;
        break;
    case TAG_OPTION:
        push(&out->options, s);
        break;
    case TAG_HIDDEN:
        push(&out->hidden, s);
        break;
    case TAG_LOG_LEVEL:
        out->log_level = s;
        break;
    case TAG_KIND:
        out->kind = u32(r->value);
        break;
    case TAG_FLAGS:
        out->flags = u32(r->value);
        break;
    case TAG_MEMORY:
        out->memory = u64(r->value);
        break;
    case TAG_CPU:
        out->cpu = u64(r->value);
        break;
    case TAG_LAYER:
        s += LAYER;
        out->layers[out->layer_count++] = (struct wasmshim_layer){
            .media_type = s,
            .digest = s + strlen(s) + 1,
            .fd = u32(r->value),
            .artifact = u32(r->value + 4),
        };
        break;
    case TAG_RLIMIT:
        out->rlimits[out->rlimit_count++] = (struct wasmshim_rlimit){
            .resource = u32(r->value),
            .soft = u64(r->value + 4),
            .hard = u64(r->value + 12),
        };
        break;
    case TAG_PREOPEN:
        out->preopens[out->preopen_count++] = (struct wasmshim_preopen){.host = s, .guest = s + strlen(s) + 1};
        break;
    }
}

const char *wasmshim_stage_decode(const uint8_t *bytes, size_t size, struct wasmshim_stage *out) {
    *out = (struct wasmshim_stage){
        .id = "",
        .pod = "",
        .ns = "",
        .exec_id = "",
        .entry_path = "",
        .entry_func = "",
        .entry_name = "",
        .cwd = "",
        .log_level = "",
    };
    if (size < HEADER || memcmp(bytes, magic, sizeof(magic)) != 0)
        return "no magic";
    if (u32(bytes + sizeof(magic)) != VERSION)
        return "unknown version";
    if (size > WASMSHIM_STAGE_MAX || u32(bytes + sizeof(magic) + 4) != size)
        return "wrong length";

    // First everything is checked and counted, then stored: nothing is
    // allocated for bytes that turn out to be bad.
    size_t args = 0, env = 0, options = 0, hidden = 0, preopens = 0, layers = 0, rlimits = 0;
    bool has_path = false, is_file = false;
    struct record r;
    for (size_t pos = HEADER; pos < size;) {
        const char *bad = next(bytes, size, &pos, &r);
        if (bad == NULL)
            bad = check(&r);
        if (bad != NULL)
            return bad;
        args += r.tag == TAG_ARG;
        env += r.tag == TAG_ENV;
        options += r.tag == TAG_OPTION;
        hidden += r.tag == TAG_HIDDEN;
        preopens += r.tag == TAG_PREOPEN;
        layers += r.tag == TAG_LAYER;
        rlimits += r.tag == TAG_RLIMIT;
        is_file = is_file || (r.tag == TAG_LAYER && u32(r.value) == 0);
        if (r.tag == TAG_ENTRY_PATH)
            has_path = r.len > 0;
    }
    if (is_file && (layers != 1 || !has_path))
        return "layer without descriptor";

    // A record takes at least 12 bytes of at most 64 MiB: no sum can overflow.
    size_t strings = args + env + options + hidden + 4;
    char *block = calloc(1, strings * sizeof(char *) + preopens * sizeof(struct wasmshim_preopen) +
                                layers * sizeof(struct wasmshim_layer) + rlimits * sizeof(struct wasmshim_rlimit));
    if (block == NULL)
        return "out of memory";
    out->block = block;
    out->args.items = (const char **)block;
    out->env.items = out->args.items + args + 1;
    out->options.items = out->env.items + env + 1;
    out->hidden.items = out->options.items + options + 1;
    out->preopens = (struct wasmshim_preopen *)(block + strings * sizeof(char *));
    out->layers = (struct wasmshim_layer *)(out->preopens + preopens);
    out->rlimits = (struct wasmshim_rlimit *)(out->layers + layers);
    for (size_t pos = HEADER; pos < size;) {
        next(bytes, size, &pos, &r);
        store(&r, out);
    }
    return NULL;
}

void wasmshim_stage_free(struct wasmshim_stage *stage) {
    free(stage->block);
    stage->block = NULL;
}
