// SPDX-License-Identifier: Apache-2.0

// Components with WASI 0.2 and, in the full library, 0.3.

#include "wasmtime.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static wasmtime_component_export_index_t *index_of(const wasmtime_component_t *component,
                                                   const wasmtime_component_export_index_t *in, const char *name) {
    return wasmtime_component_get_export_index(component, in, name, strlen(name));
}

bool is_command(const struct guest *g) {
    return strcmp(wasm_shim_entry_func(g->ctx), "_start") == 0;
}

// Calls visit with each export's name, in their order.
static void each_export(const struct guest *g, void (*visit)(void *data, const char *name, size_t len), void *data) {
    wasmtime_component_type_t *type = wasmtime_component_type(g->component);
    size_t count = wasmtime_component_type_export_count(type, g->engine);
    for (size_t i = 0; i < count; i++) {
        const char *name;
        size_t len;
        wasmtime_component_item_t item;
        if (!wasmtime_component_type_export_nth(type, g->engine, i, &name, &len, &item))
            continue;
        visit(data, name, len);
        wasmtime_component_item_delete(&item);
    }
    wasmtime_component_type_delete(type);
}

struct list {
    char text[512];
    size_t used;
};

static void add_to_list(void *data, const char *name, size_t len) {
    struct list *l = data;
    if (l->used < sizeof(l->text))
        l->used += (size_t)snprintf(l->text + l->used, sizeof(l->text) - l->used, "%s%.*s", l->used > 0 ? ", " : "",
                                    (int)len, name);
}

// What a component exports, for whoever got a name wrong.
static struct list exports(const struct guest *g) {
    struct list l = {.text = "none"};
    each_export(g, add_to_list, &l);
    return l;
}

struct command {
    const char *name;
    size_t len;
    unsigned version;
};

static void choose_newest(void *data, const char *name, size_t len) {
    struct command *c = data;
    unsigned version = wasi_version(name, len, "wasi:cli/run");
    if (version > c->version)
        *c = (struct command){.name = strndup(name, len), .len = len, .version = version};
}

// Finds run of wasi:cli/run, of the newest version that is exported and accepted. Sets
// version to it, 2 or 3.
static int32_t find_command(struct guest *g, wasmtime_component_export_index_t **index, unsigned *version) {
    struct command c = {0};
    each_export(g, choose_newest, &c);
    wasmtime_component_export_index_t *instance =
        c.name == NULL ? NULL : wasmtime_component_get_export_index(g->component, NULL, c.name, c.len);
    if (instance == NULL)
        return fail(g, WASM_SHIM_ERROR_LOAD, "%s does not export " COMMANDS "; its exports: %s", g->path,
                    exports(g).text);
    *version = c.version;
    *index = index_of(g->component, instance, "run");
    wasmtime_component_export_index_delete(instance);
    if (*index == NULL)
        return fail(g, WASM_SHIM_ERROR_LOAD, "wasi:cli/run of %s has no function \"run\"", g->path);
    return WASM_SHIM_OK;
}

// Finds an export by its name: a function, or INSTANCE.FUNCTION of an exported
// instance. Functions' names have no dot, the versions of instances have.
static wasmtime_component_export_index_t *find_function(const wasmtime_component_t *component, const char *name) {
    wasmtime_component_export_index_t *found = index_of(component, NULL, name);
    const char *dot = strrchr(name, '.');
    if (found != NULL || dot == NULL)
        return found;
    wasmtime_component_export_index_t *instance =
        wasmtime_component_get_export_index(component, NULL, name, (size_t)(dot - name));
    if (instance == NULL)
        return NULL;
    found = index_of(component, instance, dot + 1);
    wasmtime_component_export_index_delete(instance);
    return found;
}

static int32_t find_entry(struct guest *g, wasmtime_component_export_index_t **index, unsigned *version) {
    const char *entry = wasm_shim_entry_func(g->ctx);
    // The default: what _start is to a module, wasi:cli/run is to a component.
    if (is_command(g))
        return find_command(g, index, version);
    *index = find_function(g->component, entry);
    if (*index == NULL)
        return fail(g, WASM_SHIM_ERROR_LOAD, "%s has no export \"%s\"; its exports: %s", g->path, entry,
                    exports(g).text);
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

static int32_t call_in(struct guest *g, wasmtime_component_linker_t *linker,
                       const wasmtime_component_export_index_t *index) {
    wasmtime_component_instance_t instance;
    wasmtime_error_t *error = wasmtime_component_linker_instantiate(linker, g->context, g->component, &instance);
    if (error != NULL)
        return ended(g, WASM_SHIM_ERROR_LOAD, error, NULL);
    wasmtime_component_func_t func;
    if (!wasmtime_component_instance_get_func(&instance, g->context, index, &func))
        return fail(g, WASM_SHIM_ERROR_LOAD, "export \"%s\" of %s is not a function", wasm_shim_entry_func(g->ctx),
                    g->path);
    wasmtime_component_linker_delete(linker);
    return call(g, &func);
}

#ifdef WASMSHIM_WASMTIME_FULL
// A command of 0.3, and any function by its name, may wait for several things at once;
// of a function the result is printed.
static int32_t call_asynchronously(struct guest *g, wasmtime_component_linker_t *linker,
                                   wasmtime_component_export_index_t *index) {
    bool started = false, failed = false;
    trim_memory();
    wasmtime_error_t *error =
        wasmshim_component_call(g->context, linker, g->component, index, !is_command(g), &started, &failed);
    if (error != NULL)
        return ended(g, started ? WASM_SHIM_ERROR_TRAP : WASM_SHIM_ERROR_LOAD, error, NULL);
    if (failed)
        g->exit_code = 1;
    return WASM_SHIM_OK;
}
#endif

int32_t run_component(struct guest *g) {
    wasmtime_component_export_index_t *index = NULL;
    unsigned version = 0;
    int32_t status = find_entry(g, &index, &version);
    if (status == WASM_SHIM_OK)
        status = set_wasi(g);
    if (status != WASM_SHIM_OK)
        return status;

    wasmtime_component_linker_t *linker = wasmtime_component_linker_new(g->engine);
#ifdef WASMSHIM_WASMTIME_FULL
    bool asynchronous = version != 2;
    wasmtime_error_t *error = wasmshim_component_define(linker, g->network, asynchronous);
    if (error == NULL && asynchronous)
        return call_asynchronously(g, linker, index);
#else
    wasmtime_error_t *error = wasmtime_component_linker_add_wasip2(linker);
#endif
    if (error != NULL)
        return fail_with(g, WASM_SHIM_ERROR, error, "cannot set up WASI");
    return call_in(g, linker, index);
}
