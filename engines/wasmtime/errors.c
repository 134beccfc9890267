// SPDX-License-Identifier: Apache-2.0

#include "wasmtime.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

static pthread_mutex_t error_lock = PTHREAD_MUTEX_INITIALIZER;
static bool error_is_final; // guarded by error_lock

static void set_error(struct guest *g, const char *text, bool final) {
    pthread_mutex_lock(&error_lock);
    if (!error_is_final)
        wasm_shim_set_error(g->ctx, text);
    error_is_final = error_is_final || final;
    pthread_mutex_unlock(&error_lock);
}

int32_t timed_out(struct guest *g) {
    char text[128];
    snprintf(text, sizeof(text), "the guest ran for longer than its timeout of %" PRIu64 " ms", g->timeout_ms);
    set_error(g, text, true);
    return WASM_SHIM_ERROR_TRAP;
}

int32_t fail(struct guest *g, int32_t status, const char *format, ...) {
    char text[2048];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    set_error(g, text, false);
    return status;
}

static const char *skip_number(const char *line) {
    const char *p = line + strspn(line, "0123456789");
    return p > line && p[0] == ':' && p[1] == ' ' ? p + 2 : line;
}

// wasmtime prints an error's causes as an indented list. Joins them to one
// line, in place.
static void join_lines(char *text) {
    char *out = text;
    char *save = NULL;
    bool cause = false;
    for (char *line = strtok_r(text, "\n", &save); line != NULL; line = strtok_r(NULL, "\n", &save)) {
        const char *indented = line + strspn(line, " ");
        const char *from = skip_number(indented);
        size_t n = strlen(from);
        if (strcmp(from, "Caused by:") == 0) {
            cause = true;
            continue;
        }
        if (n == 0)
            continue;
        // Never overtakes the reader: it replaces a line end, and a number or
        // the words that were left out.
        if (out > text && (cause || from > indented))
            *out++ = ':';
        if (out > text)
            *out++ = ' ';
        cause = false;
        memmove(out, from, n);
        out += n;
    }
    *out = 0;
}

// Consumes v.
static char *copy_text(wasm_byte_vec_t *v) {
    size_t n = v->size;
    while (n > 0 && (v->data[n - 1] == 0 || v->data[n - 1] == '\n'))
        n--;
    char *text = strndup(v->data, n);
    wasm_byte_vec_delete(v);
    return text != NULL ? text : strdup("");
}

char *error_line(wasmtime_error_t *error) {
    wasm_byte_vec_t message;
    wasmtime_error_message(error, &message);
    wasmtime_error_delete(error);
    char *text = copy_text(&message);
    join_lines(text);
    return text;
}

bool lacks_memory(const char *why) {
    return strstr(why, strerror(ENOMEM)) != NULL;
}

// By what words wasmtime says that a proposal is off. Where one is part of
// another, the longer comes first.
static const struct {
    const char *words;
    const char *proposal;
} switched_off[] = {
    {"bulk memory support is not enabled", "bulk-memory"},
    {"custom page sizes proposal must be enabled", "custom-page-sizes"},
    {"exceptions proposal not enabled", "exceptions"},
    {"exceptions support is not enabled", "exceptions"},
    {"function references support is not enabled", "function-references"},
    {"function references required", "function-references"},
    {"without the gc feature", "gc"},
    {"gc proposal not enabled", "gc"},
    {"gc support is not enabled", "gc"},
    {"memory64 must be enabled", "memory64"},
    {"multiple memories", "multi-memory"},
    {"multi-value feature is not enabled", "multi-value"},
    {"multi-value is not enabled", "multi-value"},
    {"reference types support is not enabled", "reference-types"},
    {"relaxed SIMD support is not enabled", "relaxed-simd"},
    {"SIMD support is not enabled", "simd"},
#ifdef WASMSHIM_WASMTIME_FULL
    {"shared memory support is disabled", "shared-memory"},
    {"stack switching support is not enabled", "stack-switching"},
    {"when stack switching is disabled", "stack-switching"},
    {"without the stack switching feature", "stack-switching"},
#endif
    {"tail calls support is not enabled", "tail-call"},
    {"threads must be enabled", "threads"},
    {"threads support is not enabled", "threads"},
    {"wide arithmetic support is not enabled", "wide-arithmetic"},
};

void advise(const char *why, char *advice, size_t size) {
    struct rlimit limit;
    advice[0] = 0;
    for (size_t i = 0; i < sizeof(switched_off) / sizeof(switched_off[0]); i++)
        if (strstr(why, switched_off[i].words) != NULL) {
            snprintf(advice, size, ": the engine option wasm-%s = true allows it", switched_off[i].proposal);
            return;
        }
    if (strstr(why, "legacy_exceptions") != NULL)
        snprintf(advice, size,
                 ": the guest uses exceptions in their old form, which no option allows; build it for the new one "
                 "(with clang: -mllvm -wasm-use-legacy-eh=false)");
    if (strstr(why, "shared memory support is disabled") != NULL)
        snprintf(advice, size,
                 ": it is built for threads, which guests have with wasmtime's full library alone; build it for one");
    if (lacks_memory(why) && getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
        snprintf(advice, size,
                 ": the container limits its address space (RLIMIT_AS) to %" PRIu64
                 " bytes, of which wasmtime reserves 4.1 GiB for each memory of a guest: remove it, or set the engine "
                 "option memory-reservation to less; the container's limit on memory holds",
                 (uint64_t)limit.rlim_cur);
}

int32_t fail_with(struct guest *g, int32_t status, wasmtime_error_t *error, const char *format, ...) {
    char what[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof(what), format, args);
    va_end(args);
    char *why = error_line(error);
    char advice[512];
    advise(why, advice, sizeof(advice));
    fail(g, status, "%s: %s%s", what, why, advice);
    free(why);
    return status;
}

// A component that was made of a preview 1 module has room for some 64 KiB of
// environment. Of more it calls for help in a moment in which it may not call, and
// that is all that is said. Sets note to what there is then to say, or to "".
static void note_environment(const struct guest *g, const char *cause, char *note, size_t size) {
    enum { LARGE = 32 << 10 };
    const char *const *env;
    size_t count = wasm_shim_env(g->ctx, &env), largest = 0;
    note[0] = 0;
    if (g->component == NULL || strstr(cause, "cannot leave component instance") == NULL)
        return;
    for (size_t i = 1; i < count; i++)
        if (strlen(env[i]) > strlen(env[largest]))
            largest = i;
    if (count > 0 && strlen(env[largest]) > LARGE)
        snprintf(
            note, size,
            "; found the variable %.*s, %zu bytes, accepted by a component that is made of a preview 1 module: some "
            "60,000 in all variables",
            (int)strcspn(env[largest], "="), env[largest], strlen(env[largest]));
}

// wasmtime's text is the backtrace and then the cause. The cause comes first
// here: the first line is what a log shows. Consumes message.
static int32_t fail_with_trap(struct guest *g, wasm_byte_vec_t *message) {
    static const char separator[] = "\n\nCaused by:\n";
    char *text = copy_text(message);
    char *cause = strstr(text, separator);
    char *whole = NULL;
    if (cause != NULL) {
        *cause = 0;
        cause += sizeof(separator) - 1;
        join_lines(cause);
        cause += strspn(cause, " ");
        char note[256];
        note_environment(g, cause, note, sizeof(note));
        if (asprintf(&whole, "%s%s\n%s", cause, note, text) < 0)
            whole = NULL;
    }
    set_error(g, whole != NULL ? whole : text, false);
    free(whole);
    free(text);
    return WASM_SHIM_ERROR_TRAP;
}

static bool has_trace(const wasmtime_error_t *error) {
    wasm_frame_vec_t frames;
    wasmtime_error_wasm_trace(error, &frames);
    bool any = frames.size > 0;
    wasm_frame_vec_delete(&frames);
    return any;
}

int32_t ended(struct guest *g, int32_t status, wasmtime_error_t *error, wasm_trap_t *trap) {
    wasm_byte_vec_t text;
    if (__atomic_load_n(&g->exited, __ATOMIC_ACQUIRE)) {
        if (trap != NULL)
            wasm_trap_delete(trap);
        if (error != NULL)
            wasmtime_error_delete(error);
        return WASM_SHIM_OK;
    }
    if (trap != NULL) {
        wasm_trap_message(trap, &text);
        wasm_trap_delete(trap);
        return fail_with_trap(g, &text);
    }
    int code;
    if (wasmtime_error_exit_status(error, &code)) {
        wasmtime_error_delete(error);
        g->exit_code = code;
        return WASM_SHIM_OK;
    }
    // Traps of components, and of host functions, come as errors.
    if (!has_trace(error) && status != WASM_SHIM_ERROR_TRAP)
        return fail_with(g, status, error, "cannot start %s", g->path);
    wasmtime_error_message(error, &text);
    wasmtime_error_delete(error);
    return fail_with_trap(g, &text);
}
