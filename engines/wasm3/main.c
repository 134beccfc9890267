// SPDX-License-Identifier: Apache-2.0

// wasm3, an interpreter, as a containerd runtime.

#include "wasm3.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const wasm_shim_option stack_size = {
    .size = sizeof(wasm_shim_option),
    .key = "stack-size",
    .help = "how much stack the guest has (1MiB)",
    .type = WASM_SHIM_OPTION_SIZE,
};
static const wasm_shim_option *const options[] = {&stack_size, NULL};

__attribute__((format(printf, 3, 4))) static int32_t fail(struct guest *g, int32_t status, const char *format, ...) {
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    wasm_shim_set_error(g->ctx, text);
    return status;
}

// wasm3 compiles a function when it is first called, so that a guest may end for
// want of an instruction or an import as well as by a trap. It says which by a
// text.
static int32_t ended(struct guest *g, M3Result result) {
    if (result == m3Err_none || (result == m3Err_trapExit && g->exited))
        return WASM_SHIM_OK;
    M3ErrorInfo info;
    m3_GetErrorInfo(g->runtime, &info);
    const char *more = info.message != NULL ? info.message : "";
    const char *separator = more[0] != 0 ? ": " : "";
    if (strncmp(result, "[trap] ", 7) == 0)
        return fail(g, WASM_SHIM_ERROR_TRAP, "wasm trap: %s%s%s", result + 7, separator, more);
    if (result == m3Err_functionImportMissing)
        return fail(g, WASM_SHIM_ERROR_LOAD, "%s%s%s", result, separator, more);
    return fail(g, WASM_SHIM_ERROR_COMPILE, "cannot interpret the guest: %s%s%s", result, separator, more);
}

static int32_t call(struct guest *g, const char *name) {
    IM3Function function;
    M3Result result = m3_FindFunction(&function, g->runtime, name);
    if (result == m3Err_functionLookupFailed)
        return fail(g, WASM_SHIM_ERROR_LOAD, "%s has no export \"%s\"", wasm_shim_entry_path(g->ctx), name);
    return ended(g, result != m3Err_none ? result : m3_Call(function));
}

static bool exports(struct guest *g, const char *name) {
    IM3Function function;
    return m3_FindFunction(&function, g->runtime, name) != m3Err_functionLookupFailed;
}

static int32_t load(struct guest *g) {
    size_t size;
    const uint8_t *bytes = wasm_shim_layer_bytes(g->ctx, 0, &size);
    if (bytes == NULL)
        return fail(g, WASM_SHIM_ERROR_LOAD, "cannot read the guest: %s", strerror(errno));
    if (size > UINT32_MAX)
        return fail(g, WASM_SHIM_ERROR_LOAD, "the guest has %zu bytes, more than 4 GiB", size);
    const char *option = wasm_shim_option_value(g->ctx, stack_size.key);
    unsigned long stack = option != NULL ? strtoul(option, NULL, 10) : 1 << 20;
    if (stack < 4096 || stack > 1 << 30)
        return fail(g, WASM_SHIM_ERROR, "option stack-size: found %lu, accepted: 4KiB to 1GiB", stack);
    IM3Environment environment = m3_NewEnvironment();
    g->runtime = environment != NULL ? m3_NewRuntime(environment, (uint32_t)stack, NULL) : NULL;
    if (g->runtime == NULL)
        return fail(g, WASM_SHIM_ERROR, "out of memory");
    IM3Module module;
    M3Result result = m3_ParseModule(environment, &module, bytes, (uint32_t)size);
    if (result == m3Err_none)
        result = m3_LoadModule(g->runtime, module);
    if (result == m3Err_none)
        result = wasi_link(g, module);
    return result == m3Err_none ? WASM_SHIM_OK : ended(g, result);
}

static int32_t run_wasi(wasm_shim_context *ctx, int32_t *exit_code, void *user_data) {
    (void)user_data;
    struct guest g = {.ctx = ctx};
    int32_t status = load(&g);
    if (status == WASM_SHIM_OK)
        status = wasi_open(&g);
    const char *entry = wasm_shim_entry_func(ctx);
    // A module without _start is a reactor: this must be its first call.
    if (status == WASM_SHIM_OK && strcmp(entry, "_start") != 0 && exports(&g, "_initialize"))
        status = call(&g, "_initialize");
    if (status == WASM_SHIM_OK && !g.exited)
        status = call(&g, entry);
    *exit_code = g.exit_code;
    return status;
}

static const wasm_shim_engine engine = {
    WASM_SHIM_ENGINE_HEAD, .kinds = WASM_SHIM_KIND_MODULE, .name = "wasm3", .version = M3_VERSION,
    .options = options,    .run_wasi = run_wasi,
};

WASM_SHIM_MAIN(engine)
