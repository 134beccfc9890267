// SPDX-License-Identifier: Apache-2.0

// Core modules with WASI preview 1.

#include "wasmtime.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

bool name_is(const wasm_name_t *name, const char *s) {
    return name->size == strlen(s) && memcmp(name->data, s, name->size) == 0;
}

// Lists the exported functions, for whoever got the name wrong.
static void list_functions(const wasm_exporttype_vec_t *exports, char *out, size_t size) {
    size_t used = 0;
    out[0] = 0;
    for (size_t i = 0; i < exports->size && used < size; i++) {
        const wasm_name_t *name = wasm_exporttype_name(exports->data[i]);
        if (wasm_externtype_kind(wasm_exporttype_type(exports->data[i])) == WASM_EXTERN_FUNC)
            used +=
                (size_t)snprintf(out + used, size - used, "%s%.*s", used > 0 ? ", " : "", (int)name->size, name->data);
    }
    if (used == 0)
        snprintf(out, size, "none");
}

// Checks that name is exported, a function, and takes no parameters. Sets
// *results to how many values it returns.
static int32_t check_function(struct guest *g, const wasmtime_module_t *module, const char *name, size_t *results) {
    wasm_exporttype_vec_t exports;
    wasmtime_module_exports(module, &exports);
    int32_t status = WASM_SHIM_OK;
    size_t i = 0;
    while (i < exports.size && !name_is(wasm_exporttype_name(exports.data[i]), name))
        i++;
    if (i == exports.size) {
        char list[512];
        list_functions(&exports, list, sizeof(list));
        status = fail(g, WASM_SHIM_ERROR_LOAD, "%s has no export \"%s\"; exported functions: %s", g->path, name, list);
    } else {
        const wasm_functype_t *type = wasm_externtype_as_functype_const(wasm_exporttype_type(exports.data[i]));
        if (type == NULL)
            status = fail(g, WASM_SHIM_ERROR_LOAD, "export \"%s\" of %s is not a function", name, g->path);
        else if (wasm_functype_params(type)->size > 0)
            status = fail(g, WASM_SHIM_ERROR_LOAD, "export \"%s\" of %s takes %zu parameters; an entrypoint takes none",
                          name, g->path, wasm_functype_params(type)->size);
        else
            *results = wasm_functype_results(type)->size;
    }
    wasm_exporttype_vec_delete(&exports);
    if (*results > MOST_RESULTS)
        status = fail(g, WASM_SHIM_ERROR_LOAD, "the entrypoint of %s returns %zu values", g->path, *results);
    return status;
}

static int32_t call(struct guest *g, const wasmtime_func_t *func, size_t results) {
    wasmtime_val_t values[MOST_RESULTS];
    wasm_trap_t *trap = NULL;
    trim_memory();
#ifdef WASMSHIM_WASMTIME_FULL
    if (g->has_threads)
        return call_with_threads(g, func, results);
#endif
    wasmtime_error_t *error = wasmtime_func_call(g->context, func, NULL, 0, values, results, &trap);
    if (error != NULL || trap != NULL)
        return ended(g, WASM_SHIM_ERROR_TRAP, error, trap);
    return WASM_SHIM_OK;
}

// proc_exit with every code. WASI's own refuses codes above 125 with a trap;
// users of containers expect exit(255) to be 255.
static wasm_trap_t *proc_exit(void *env, wasmtime_caller_t *caller, const wasmtime_val_t *args, size_t nargs,
                              wasmtime_val_t *results, size_t nresults) {
    (void)caller;
    (void)nargs;
    (void)results;
    (void)nresults;
    struct guest *g = env;
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&lock);
    if (!g->exited) { // or another thread came first
        g->exit_code = args[0].of.i32;
        __atomic_store_n(&g->exited, true, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&lock);
    return wasmtime_trap_new("exit", 4);
}

wasmtime_error_t *define_wasi(struct guest *g, wasmtime_linker_t *linker) {
    static const char wasi[] = "wasi_snapshot_preview1";
    static const char name[] = "proc_exit";
#ifdef WASMSHIM_WASMTIME_FULL
    // Where nothing runs yet, the linker is asked for names alone.
    wasmtime_error_t *error = wasmshim_p1_define(linker, g->p1 != NULL ? g->p1 : wasmshim_p1_new());
#else
    wasmtime_error_t *error = wasmtime_linker_define_wasi(linker);
#endif
    if (error != NULL)
        return error;
    wasm_functype_t *type = wasm_functype_new_1_0(wasm_valtype_new_i32());
    wasmtime_linker_allow_shadowing(linker, true);
    error =
        wasmtime_linker_define_func(linker, wasi, sizeof(wasi) - 1, name, sizeof(name) - 1, type, proc_exit, g, NULL);
    wasm_functype_delete(type);
    return error;
}

int32_t run_module(struct guest *g) {
    const char *entry = wasm_shim_entry_func(g->ctx);
    size_t results = 0;
    int32_t status = check_function(g, g->module, entry, &results);
    if (status == WASM_SHIM_OK)
        status = set_wasi(g);
    if (status != WASM_SHIM_OK)
        return status;

    wasmtime_linker_t *linker = wasmtime_linker_new(g->engine);
    wasmtime_instance_t instance;
    wasm_trap_t *trap = NULL;
    wasmtime_error_t *error = define_wasi(g, linker);
#ifdef WASMSHIM_WASMTIME_FULL
    if (error == NULL)
        status = define_threads(g, linker);
    if (status != WASM_SHIM_OK)
        return status;
#endif
    if (error == NULL)
        error = wasmtime_linker_instantiate(linker, g->context, g->module, &instance, &trap);
    if (error != NULL || trap != NULL)
        return ended(g, WASM_SHIM_ERROR_LOAD, error, trap);
    // The instance holds what it uses; the rest would sleep with the guest.
    wasmtime_linker_delete(linker);
    wasmtime_module_delete(g->module);

    wasmtime_extern_t item;
    // A module without _start is a reactor: this must be its first call.
    if (strcmp(entry, "_start") != 0 && strcmp(entry, "_initialize") != 0 &&
        wasmtime_instance_export_get(g->context, &instance, "_initialize", strlen("_initialize"), &item) &&
        item.kind == WASMTIME_EXTERN_FUNC) {
        status = call(g, &item.of.func, 0);
        if (status != WASM_SHIM_OK)
            return status;
    }
    if (!wasmtime_instance_export_get(g->context, &instance, entry, strlen(entry), &item))
        return fail(g, WASM_SHIM_ERROR_LOAD, "%s has lost its export \"%s\"", g->path, entry);
    return call(g, &item.of.func, results);
}
