// SPDX-License-Identifier: Apache-2.0

// Components with WASI preview 2.

#include "wasmtime.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static wasmtime_component_export_index_t *index_of(const wasmtime_component_t *component,
                                                   const wasmtime_component_export_index_t *in, const char *name) {
    return wasmtime_component_get_export_index(component, in, name, strlen(name));
}

// Finds run of wasi:cli/run in whatever version 0.2.x it is exported.
static int32_t find_command(struct guest *g, const wasmtime_component_t *component,
                            wasmtime_component_export_index_t **index) {
    static const char prefix[] = "wasi:cli/run@0.2.";
    wasmtime_component_type_t *type = wasmtime_component_type(component);
    size_t count = wasmtime_component_type_export_count(type, g->engine);
    char list[512] = "none";
    size_t used = 0;
    wasmtime_component_export_index_t *instance = NULL;
    for (size_t i = 0; i < count && instance == NULL; i++) {
        const char *name;
        size_t len;
        wasmtime_component_item_t item;
        if (!wasmtime_component_type_export_nth(type, g->engine, i, &name, &len, &item))
            continue;
        if (len > sizeof(prefix) - 1 && memcmp(name, prefix, sizeof(prefix) - 1) == 0)
            instance = wasmtime_component_get_export_index(component, NULL, name, len);
        if (used < sizeof(list))
            used += (size_t)snprintf(list + used, sizeof(list) - used, "%s%.*s", used > 0 ? ", " : "", (int)len, name);
        wasmtime_component_item_delete(&item);
    }
    wasmtime_component_type_delete(type);
    if (instance == NULL)
        return fail(g, WASM_SHIM_ERROR_LOAD, "%s does not export wasi:cli/run@0.2; its exports: %s", g->path, list);
    *index = index_of(component, instance, "run");
    wasmtime_component_export_index_delete(instance);
    if (*index == NULL)
        return fail(g, WASM_SHIM_ERROR_LOAD, "wasi:cli/run of %s has no function \"run\"", g->path);
    return WASM_SHIM_OK;
}

static int32_t find_entry(struct guest *g, const wasmtime_component_t *component,
                          wasmtime_component_export_index_t **index) {
    const char *entry = wasm_shim_entry_func(g->ctx);
    // The default: what _start is to a module, wasi:cli/run is to a component.
    if (strcmp(entry, "_start") == 0)
        return find_command(g, component, index);
    *index = index_of(component, NULL, entry);
    if (*index == NULL)
        return fail(g, WASM_SHIM_ERROR_LOAD, "%s has no export \"%s\"", g->path, entry);
    return WASM_SHIM_OK;
}

static int32_t call(struct guest *g, const wasmtime_component_func_t *func) {
    const char *entry = wasm_shim_entry_func(g->ctx);
    wasmtime_component_func_type_t *type = wasmtime_component_func_type(func, g->context);
    size_t params = wasmtime_component_func_type_param_count(type);
    wasmtime_component_valtype_t result_type;
    bool has_result = wasmtime_component_func_type_result(type, &result_type);
    if (has_result)
        wasmtime_component_valtype_delete(&result_type);
    wasmtime_component_func_type_delete(type);
    if (params > 0)
        return fail(g, WASM_SHIM_ERROR_LOAD, "export \"%s\" of %s takes %zu parameters; an entrypoint takes none",
                    entry, g->path, params);

    wasmtime_component_val_t result = {0};
    trim_memory();
    wasmtime_error_t *error = wasmtime_component_func_call(func, g->context, NULL, 0, &result, has_result ? 1 : 0);
    if (error != NULL)
        return ended(g, WASM_SHIM_ERROR_TRAP, error, NULL);
    if (has_result && result.kind == WASMTIME_COMPONENT_RESULT && !result.of.result.is_ok)
        g->exit_code = 1;
    error = wasmtime_component_func_post_return(func, g->context);
    if (error != NULL)
        return ended(g, WASM_SHIM_ERROR_TRAP, error, NULL);
    return WASM_SHIM_OK;
}

int32_t run_component(struct guest *g) {
    wasmtime_component_export_index_t *index = NULL;
    int32_t status = find_entry(g, g->component, &index);
    if (status == WASM_SHIM_OK)
        status = set_wasi(g);
    if (status != WASM_SHIM_OK)
        return status;

    wasmtime_component_linker_t *linker = wasmtime_component_linker_new(g->engine);
    wasmtime_component_instance_t instance;
#ifdef WASMSHIM_WASMTIME_FULL
    wasmtime_error_t *error = wasmshim_p2_define(linker);
#else
    wasmtime_error_t *error = wasmtime_component_linker_add_wasip2(linker);
#endif
    if (error == NULL)
        error = wasmtime_component_linker_instantiate(linker, g->context, g->component, &instance);
    if (error != NULL)
        return ended(g, WASM_SHIM_ERROR_LOAD, error, NULL);

    wasmtime_component_func_t func;
    if (!wasmtime_component_instance_get_func(&instance, g->context, index, &func))
        return fail(g, WASM_SHIM_ERROR_LOAD, "export \"%s\" of %s is not a function", wasm_shim_entry_func(g->ctx),
                    g->path);
    wasmtime_component_linker_delete(linker);
    return call(g, &func);
}
