// SPDX-License-Identifier: Apache-2.0

// From a guest's bytes, or from what was compiled of them earlier, to a module
// or a component.

#include "wasmtime.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static bool is_wasm(const uint8_t *bytes, size_t size) {
    return size >= 8 && memcmp(bytes, "\0asm", 4) == 0;
}

static void choose(struct guest *g, size_t layer) {
    const char *file = wasm_shim_source_file(g->ctx);
    const char *name = file != NULL ? file : wasm_shim_layer_digest(g->ctx, layer);
    g->layer = layer;
    g->path = name != NULL ? name : "the guest";
}

static int32_t read_layer(struct guest *g) {
    g->bytes = wasm_shim_layer_bytes(g->ctx, g->layer, &g->size);
    if (g->bytes != NULL)
        return WASM_SHIM_OK;
    char advice[512];
    const char *why = strerror(errno);
    advise(why, advice, sizeof(advice));
    return fail(g, WASM_SHIM_ERROR_LOAD, "cannot read %s: %s%s", g->path, why, advice);
}

// The guest is the first layer with WebAssembly in it: an image may have others,
// for other engines. A guest that is a file would be copied by reading it, which
// is for nothing where there is an artifact.
int32_t find_guest(struct guest *g) {
    size_t count = wasm_shim_layer_count(g->ctx);
    choose(g, 0);
    if (count == 1 && wasm_shim_artifact_fd(g->ctx, 0) >= 0)
        return WASM_SHIM_OK;
    for (size_t i = 0; i < count; i++) {
        size_t size;
        const uint8_t *bytes = wasm_shim_layer_bytes(g->ctx, i, &size);
        if (bytes != NULL && is_wasm(bytes, size)) {
            choose(g, i);
            break;
        }
    }
    return read_layer(g);
}

// A parser's message has a drawing of the place below it; the place's numbers
// are enough.
static int32_t fail_text(struct guest *g, wasmtime_error_t *error) {
    static const char mark[] = " --> <anon>:";
    char *line = error_line(error);
    char *place = strstr(line, mark);
    if (place == NULL) {
        fail(g, WASM_SHIM_ERROR_COMPILE, "cannot read %s: %s", g->path, line);
    } else {
        *place = 0;
        place += sizeof(mark) - 1;
        fail(g, WASM_SHIM_ERROR_COMPILE, "cannot read %s:%.*s: %s", g->path, (int)strcspn(place, " "), place, line);
    }
    free(line);
    return WASM_SHIM_ERROR_COMPILE;
}

static int32_t assemble(struct guest *g) {
    wasm_byte_vec_t binary;
    wasmtime_error_t *error = wasmtime_wat2wasm((const char *)g->bytes, g->size, &binary);
    if (error != NULL)
        return fail_text(g, error);
    g->bytes = (const uint8_t *)binary.data;
    g->size = binary.size;
    return WASM_SHIM_OK;
}

// Bytes 4 to 7 are version and layer; layer 1 is a component.
bool is_component(const struct guest *g) {
    return is_wasm(g->bytes, g->size) && g->bytes[6] == 1 && g->bytes[7] == 0;
}

static uint64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static void say(struct guest *g, const char *what, size_t size, uint64_t begun) {
    char line[512];
    uint64_t us = now_us() - begun;
    snprintf(line, sizeof(line), "%s %s: %zu bytes in %llu.%03llu ms", what, g->path, size,
             (unsigned long long)us / 1000, (unsigned long long)us % 1000);
    wasm_shim_log(g->ctx, WASM_SHIM_LOG_DEBUG, line, NULL);
}

// Compiling takes some twenty times as much memory as the code has bytes. Where
// the container has less, the kernel may end it, which nobody could explain then.
static void warn_of_memory(struct guest *g) {
    const uint64_t mib = 1 << 20;
    uint64_t limit = wasm_shim_memory_limit(g->ctx), need = 20 * (uint64_t)g->size + 16 * mib;
    char line[512];
    if (limit == 0 || limit >= need)
        return;
    snprintf(line, sizeof(line),
             "compiling %s may take more memory than the container has: about %llu MiB, and its limit is %llu MiB",
             g->path, (unsigned long long)(need / mib), (unsigned long long)(limit / mib));
    wasm_shim_log(g->ctx, WASM_SHIM_LOG_WARN, line, NULL);
}

#ifdef WASMSHIM_WASMTIME_FULL
// What a guest writes while it is initialised has no stream to go to: the log has it, and
// of a guest that fails the error has its end. Sets note to that.
static void log_written(struct guest *g, const wasm_byte_vec_t *written, char *note, size_t size) {
    enum { MOST = 600 };
    char line[2048];
    snprintf(line, sizeof(line), "%s wrote while it was initialised: %.*s", g->path, (int)written->size, written->data);
    wasm_shim_log(g->ctx, WASM_SHIM_LOG_INFO, line, NULL);
    size_t from = written->size > MOST ? written->size - MOST : 0;
    // Not amid a character.
    while (from < written->size && from > 0 && ((unsigned char)written->data[from] & 0xC0) == 0x80)
        from++;
    snprintf(note, size, ", which wrote \"%s%.*s\"", from > 0 ? "..." : "", (int)(written->size - from),
             written->data + from);
}

// Makes of the guest's bytes those that begin where the function that the operator
// names has ended: ahead where artifacts are made, else at each start, with one result.
static int32_t initialize(struct guest *g) {
    const char *function = wasm_shim_option_value(g->ctx, "initialize");
    if (function == NULL)
        return WASM_SHIM_OK;
    uint64_t begun = now_us();
    const wasm_byte_vec_t from = {.size = g->size, .data = (char *)g->bytes};
    wasm_byte_vec_t made, written;
    bool trapped = false;
    wasmtime_error_t *error = wasmshim_initialize(g->engine, &from, function, &made, &written, &trapped);
    char note[768] = "";
    if (written.size > 0)
        log_written(g, &written, note, sizeof(note));
    wasm_byte_vec_delete(&written);
    if (error != NULL)
        return fail_with(g, trapped ? WASM_SHIM_ERROR_TRAP : WASM_SHIM_ERROR_LOAD, error,
                         "cannot initialise %s by its function \"%s\"%s", g->path, function, note);
    g->bytes = (const uint8_t *)made.data;
    g->size = made.size;
    say(g, "initialised", g->size, begun);
    return WASM_SHIM_OK;
}
#endif

// entry is as in check_items.
static int32_t compile(struct guest *g, const char *entry) {
    uint64_t begun = now_us();
    int32_t status = g->bytes != NULL ? WASM_SHIM_OK : read_layer(g);
    if (status == WASM_SHIM_OK && g->size == 0)
        status = fail(g, WASM_SHIM_ERROR_LOAD, "%s is empty", g->path);
    if (status == WASM_SHIM_OK && wasm_shim_kind(g->ctx) == WASM_SHIM_KIND_TEXT)
        status = assemble(g);
    if (status == WASM_SHIM_OK)
        status = check_items(g, entry);
#ifdef WASMSHIM_WASMTIME_FULL
    if (status == WASM_SHIM_OK)
        status = initialize(g);
#endif
    if (status != WASM_SHIM_OK)
        return status;
    warn_of_memory(g);
    wasmtime_error_t *error = is_component(g) ? wasmtime_component_new(g->engine, g->bytes, g->size, &g->component)
                                              : wasmtime_module_new(g->engine, g->bytes, g->size, &g->module);
    if (error != NULL)
        return fail_with(g, WASM_SHIM_ERROR_COMPILE, error, "cannot compile %s", g->path);
    say(g, "compiled", g->size, begun);
    return WASM_SHIM_OK;
}

// An artifact ends with the number of the engine that made it: what the library itself
// compares leaves out how code was optimised.
static uint64_t compatibility(const struct guest *g) {
#ifdef WASMSHIM_WASMTIME_FULL
    return wasmshim_compatibility(g->engine, wasm_shim_option_value(g->ctx, "initialize"));
#else
    (void)g;
    return 0; // it has none
#endif
}

static bool is_compatible(const struct guest *g, const uint8_t *bytes, size_t size) {
    uint64_t own = compatibility(g);
    return size >= sizeof(own) && memcmp(bytes + size - sizeof(own), &own, sizeof(own)) == 0;
}

// Maps the artifact's file, so that all guests of one image share its pages; or
// reads it, where a file system refuses to map code (noexec).
static wasmtime_error_t *deserialize(struct guest *g, bool component, const uint8_t *bytes, size_t size) {
    char name[32];
    snprintf(name, sizeof(name), "/proc/self/fd/%d", wasm_shim_artifact_fd(g->ctx, g->layer));
    wasmtime_error_t *error = component ? wasmtime_component_deserialize_file(g->engine, name, &g->component)
                                        : wasmtime_module_deserialize_file(g->engine, name, &g->module);
    if (error == NULL)
        return NULL;
    wasmtime_error_delete(error);
    return component ? wasmtime_component_deserialize(g->engine, bytes, size, &g->component)
                     : wasmtime_module_deserialize(g->engine, bytes, size, &g->module);
}

// Says whether the guest is there, from its artifact.
static bool load_artifact(struct guest *g) {
    uint64_t begun = now_us();
    size_t size;
    const uint8_t *bytes = wasm_shim_artifact_bytes(g->ctx, g->layer, &size);
    if (bytes == NULL) {
        if (errno != ENOENT && errno != ENOMEM)
            wasm_shim_artifact_refuse(g->ctx, g->layer, strerror(errno));
        return false;
    }
    if (!is_compatible(g, bytes, size)) {
        wasm_shim_artifact_refuse(g->ctx, g->layer, "it is damaged, or compiled by an engine that is set otherwise");
        return false;
    }
    // Of a text, only its artifact says what it is.
    uint32_t kind = wasm_shim_kind(g->ctx);
    wasmtime_error_t *error = deserialize(g, kind == WASM_SHIM_KIND_COMPONENT, bytes, size);
    if (error != NULL && kind == WASM_SHIM_KIND_TEXT) {
        wasmtime_error_delete(error);
        error = deserialize(g, true, bytes, size);
    }
    if (error != NULL) {
        char *why = error_line(error);
        // Where there is no room for it, nothing is wrong with it.
        if (!lacks_memory(why))
            wasm_shim_artifact_refuse(g->ctx, g->layer, why);
        free(why);
        return false;
    }
    say(g, "mapped the artifact of", size, begun);
    return true;
}

int32_t load(struct guest *g) {
    return load_artifact(g) ? WASM_SHIM_OK : compile(g, wasm_shim_entry_func(g->ctx));
}

int32_t write_artifact(struct guest *g) {
    wasm_byte_vec_t bytes;
    int32_t status = compile(g, NULL);
    if (status != WASM_SHIM_OK)
        return status;
    wasmtime_error_t *error = g->component != NULL ? wasmtime_component_serialize(g->component, &bytes)
                                                   : wasmtime_module_serialize(g->module, &bytes);
    if (error != NULL)
        return fail_with(g, WASM_SHIM_ERROR, error, "cannot serialize %s", g->path);
    uint64_t own = compatibility(g);
    if (wasm_shim_artifact_write(g->ctx, g->layer, bytes.data, bytes.size) < 0 ||
        wasm_shim_artifact_write(g->ctx, g->layer, &own, sizeof(own)) < 0)
        return fail(g, WASM_SHIM_ERROR, "cannot write the artifact of %s, %zu bytes: %s", g->path, bytes.size,
                    strerror(errno));
    return WASM_SHIM_OK;
}
