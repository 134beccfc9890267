// SPDX-License-Identifier: Apache-2.0

#include "wasmtime.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int32_t fail(struct guest *g, int32_t status, const char *format, ...) {
    char text[2048];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    wasm_shim_set_error(g->ctx, text);
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
    for (char *line = strtok_r(text, "\n", &save); line != NULL; line = strtok_r(NULL, "\n", &save)) {
        const char *from = skip_number(line + strspn(line, " "));
        size_t n = strlen(from);
        if (n == 0 || strcmp(from, "Caused by:") == 0)
            continue;
        // Never overtakes the reader: the two characters replace a line end
        // and an indent, or the words that were left out.
        if (out > text) {
            *out++ = ':';
            *out++ = ' ';
        }
        memmove(out, from, n);
        out += n;
    }
    *out = 0;
}

int32_t fail_with(struct guest *g, int32_t status, wasmtime_error_t *error, const char *format, ...) {
    wasm_name_t message;
    wasmtime_error_message(error, &message);
    wasmtime_error_delete(error);
    char *cause = strndup(message.data, message.size);
    wasm_byte_vec_delete(&message);

    char what[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof(what), format, args);
    va_end(args);
    if (cause != NULL)
        join_lines(cause);
    return fail(g, status, "%s: %s", what, cause != NULL ? cause : "out of memory");
}

// A trap's text goes to the user as it is: the message is followed by the
// backtrace. Consumes text.
static int32_t fail_with_text(struct guest *g, int32_t status, wasm_byte_vec_t *text) {
    size_t n = text->size;
    while (n > 0 && (text->data[n - 1] == 0 || text->data[n - 1] == '\n'))
        n--;
    char *copy = strndup(text->data, n);
    wasm_byte_vec_delete(text);
    wasm_shim_set_error(g->ctx, copy);
    free(copy);
    return status;
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
    if (trap != NULL) {
        wasm_trap_message(trap, &text);
        wasm_trap_delete(trap);
        return fail_with_text(g, WASM_SHIM_ERROR_TRAP, &text);
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
    return fail_with_text(g, WASM_SHIM_ERROR_TRAP, &text);
}
