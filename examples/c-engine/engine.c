// SPDX-License-Identifier: Apache-2.0

// A complete engine in one file: core modules with WASI preview 1 on wasmtime's
// C API. README.md walks through it.

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <wasm.h>
#include <wasmtime.h>

#include "wasm_shim.h"

// Takes what wasmtime says, in one sentence, to whoever looks at the container.
static int32_t fail(wasm_shim_context *ctx, int32_t status, const char *what, wasmtime_error_t *error,
                    wasm_trap_t *trap) {
    wasm_byte_vec_t why;
    if (error != NULL)
        wasmtime_error_message(error, &why);
    else
        wasm_trap_message(trap, &why);
    char text[1024];
    snprintf(text, sizeof(text), "%s: %.*s", what, (int)why.size, why.data);
    wasm_shim_set_error(ctx, text);
    return status;
}

static wasm_engine_t *new_engine(void) {
    // One thread for what WASI does in the background, not one for each CPU.
    setenv("TOKIO_WORKER_THREADS", "1", 1);
    return wasm_engine_new();
}

// Compiles the guest: layer 0, whether it comes from a file or from an image.
static int32_t compile_module(wasm_shim_context *ctx, wasm_engine_t *engine, wasmtime_module_t **module) {
    size_t size;
    const uint8_t *bytes = wasm_shim_layer_bytes(ctx, 0, &size);
    if (bytes == NULL) {
        wasm_shim_set_error(ctx, strerror(errno));
        return WASM_SHIM_ERROR_LOAD;
    }
    wasmtime_error_t *error = wasmtime_module_new(engine, bytes, size, module);
    return error == NULL ? WASM_SHIM_OK : fail(ctx, WASM_SHIM_ERROR_COMPILE, "cannot compile the guest", error, NULL);
}

// Runs in the compiler, a process without rights: makes machine code of the
// guest, which the library keeps for this container and for later ones.
static int32_t compile(wasm_shim_context *ctx, void *user_data) {
    (void)user_data;
    wasmtime_module_t *module;
    int32_t status = compile_module(ctx, new_engine(), &module);
    if (status != WASM_SHIM_OK)
        return status;
    wasm_byte_vec_t code;
    wasmtime_error_t *error = wasmtime_module_serialize(module, &code);
    if (error != NULL)
        return fail(ctx, WASM_SHIM_ERROR, "cannot serialize the guest", error, NULL);
    return wasm_shim_artifact_write(ctx, 0, code.data, code.size) == 0 ? WASM_SHIM_OK : WASM_SHIM_ERROR;
}

// Takes what compile has made, if there is anything, and if it loads.
static int32_t load(wasm_shim_context *ctx, wasm_engine_t *engine, wasmtime_module_t **module) {
    size_t size;
    const uint8_t *code = wasm_shim_artifact_bytes(ctx, 0, &size);
    if (code == NULL)
        return compile_module(ctx, engine, module);
    wasmtime_error_t *error = wasmtime_module_deserialize(engine, code, size, module);
    if (error == NULL)
        return WASM_SHIM_OK;
    wasmtime_error_delete(error);
    wasm_shim_artifact_refuse(ctx, 0, "wasmtime does not take it");
    return compile_module(ctx, engine, module);
}

// Gives the guest its arguments, environment, directories and streams.
static wasmtime_error_t *set_wasi(wasm_shim_context *ctx, wasmtime_context_t *context) {
    const char *const *list;
    wasi_config_t *wasi = wasi_config_new();
    size_t count = wasm_shim_args(ctx, &list);
    wasi_config_set_argv(wasi, count, (const char **)list);
    count = wasm_shim_env(ctx, &list);
    for (size_t i = 0; i < count; i++) {
        char *name = strdup(list[i]);
        char *value = strchr(name, '=');
        *value++ = 0;
        wasi_config_set_env(wasi, 1, (const char *[]){name}, (const char *[]){value});
    }
    for (size_t i = 0; i < wasm_shim_preopen_count(ctx); i++)
        wasi_config_preopen_dir(wasi, wasm_shim_preopen_host(ctx, i), wasm_shim_preopen_guest(ctx, i),
                                WASMTIME_WASI_DIR_PERMS_READ | WASMTIME_WASI_DIR_PERMS_WRITE,
                                WASMTIME_WASI_FILE_PERMS_READ | WASMTIME_WASI_FILE_PERMS_WRITE);
    wasi_config_inherit_stdin(wasi);
    wasi_config_inherit_stdout(wasi);
    wasi_config_inherit_stderr(wasi);
    return wasmtime_context_set_wasi(context, wasi);
}

// Runs in a process of the container. What it returns, and the exit code,
// become the container's exit status.
static int32_t run_wasi(wasm_shim_context *ctx, int32_t *exit_code, void *user_data) {
    (void)user_data;
    wasm_engine_t *engine = new_engine();
    wasmtime_module_t *module;
    int32_t status = load(ctx, engine, &module);
    if (status != WASM_SHIM_OK)
        return status;

    wasmtime_context_t *context = wasmtime_store_context(wasmtime_store_new(engine, NULL, NULL));
    wasmtime_linker_t *linker = wasmtime_linker_new(engine);
    wasmtime_instance_t instance;
    wasm_trap_t *trap = NULL;
    wasmtime_error_t *error = set_wasi(ctx, context);
    if (error == NULL)
        error = wasmtime_linker_define_wasi(linker);
    if (error == NULL)
        error = wasmtime_linker_instantiate(linker, context, module, &instance, &trap);
    if (error != NULL || trap != NULL)
        return fail(ctx, WASM_SHIM_ERROR_LOAD, "cannot instantiate the guest", error, trap);

    // "_start", or the function that the user named behind a '#'.
    const char *entry = wasm_shim_entry_func(ctx);
    wasmtime_extern_t start;
    if (!wasmtime_instance_export_get(context, &instance, entry, strlen(entry), &start) ||
        start.kind != WASMTIME_EXTERN_FUNC) {
        wasm_shim_set_error(ctx, "the guest does not export the function that was asked for");
        return WASM_SHIM_ERROR_LOAD;
    }
    error = wasmtime_func_call(context, &start.of.func, NULL, 0, NULL, 0, &trap);
    if (error != NULL && wasmtime_error_exit_status(error, exit_code))
        return WASM_SHIM_OK; // the guest called exit()
    if (error != NULL || trap != NULL)
        return fail(ctx, WASM_SHIM_ERROR_TRAP, "the guest was ended", error, trap);
    return WASM_SHIM_OK;
}

static const wasm_shim_engine engine = {
    WASM_SHIM_ENGINE_HEAD, .kinds = WASM_SHIM_KIND_MODULE, .name = "c-engine", .version = "0.1.0",
    .cache_key = "1",      .run_wasi = run_wasi,           .compile = compile,
};

WASM_SHIM_MAIN(engine)
