// SPDX-License-Identifier: Apache-2.0

// Refuses a guest whose imports nobody has, or which exports nothing to run,
// before it is compiled, with a sentence on what it was built for.

#include "wasmtime.h"

#include <stdio.h>
#include <string.h>

#include "items.h"

struct check {
    struct guest *g;
    const char *entry;         // NULL in a compiler, which does not know it
    wasmtime_linker_t *linker; // with what a module may import
    bool is_component;
    bool has_entry;
    bool has_missing;
    struct item missing; // the first import that nobody has
    struct text spin;    // an interface of Spin's; empty if there is none
    struct text run;     // wasi:cli/run of a version that is not accepted
    struct text serves;  // an interface that is called by a server
    char exports[512];   // functions of a module, all of a component
    size_t used;
};

static bool is(struct text t, const char *s) {
    return t.size == strlen(s) && memcmp(t.bytes, s, t.size) == 0;
}

static bool begins(struct text t, const char *s) {
    return t.size >= strlen(s) && memcmp(t.bytes, s, strlen(s)) == 0;
}

// Whatever a module's author has put into a name, it is one line here.
static const char *printable(struct text t, char *out, size_t size) {
    size_t n = t.size < size ? t.size : size - 1;
    for (size_t i = 0; i < n; i++)
        out[i] = (unsigned char)t.bytes[i] < ' ' || t.bytes[i] == 127 ? '?' : t.bytes[i];
    out[n] = 0;
    return out;
}

unsigned wasi_version(const char *name, size_t size, const char *prefix) {
    static const char *const versions[] = {
        "@0.2.",
#ifdef WASMSHIM_WASMTIME_FULL
        "@0.3.",
#endif
    };
    struct text rest = {.bytes = name, .size = size};
    if (!begins(rest, prefix))
        return 0;
    rest = (struct text){.bytes = name + strlen(prefix), .size = size - strlen(prefix)};
    for (unsigned i = 0; i < sizeof(versions) / sizeof(versions[0]); i++) {
        size_t n = strlen(versions[i]);
        if (!begins(rest, versions[i]) || rest.size == n)
            continue;
        // What was before a release, 0.3.0-rc-2025-09-16, is another interface.
        while (n < rest.size && rest.bytes[n] >= '0' && rest.bytes[n] <= '9')
            n++;
        return n == rest.size ? 2 + i : 0;
    }
    return 0;
}

#ifdef WASMSHIM_WASMTIME_FULL
#define NOT_SERVED "which this engine does not call"
#else
#define NOT_SERVED "and this engine serves no HTTP yet"
#endif

// What a server calls, and this one does.
static bool is_served(struct text name) {
#ifdef WASMSHIM_WASMTIME_FULL
    return wasi_version(name.bytes, name.size, "wasi:http/incoming-handler") == 2 ||
           wasi_version(name.bytes, name.size, "wasi:http/handler") == 3;
#else
    (void)name;
    return false;
#endif
}

// The packages of WASI that wasmtime's library has.
static bool is_provided(struct text name) {
    static const struct {
        const char *package;
        unsigned last; // version that has it
    } packages[] = {
        {"wasi:cli/", 3},  {"wasi:clocks/", 3}, {"wasi:filesystem/", 3},
        {"wasi:io/", 2},   {"wasi:random/", 3}, {"wasi:sockets/", 3},
#ifdef WASMSHIM_WASMTIME_FULL
        {"wasi:http/", 3},
#endif
    };
    const char *at = memchr(name.bytes, '@', name.size);
    char interface[64];
    if (at == NULL || (size_t)(at - name.bytes) >= sizeof(interface))
        return false;
    snprintf(interface, sizeof(interface), "%.*s", (int)(at - name.bytes), name.bytes);
    unsigned version = wasi_version(name.bytes, name.size, interface);
    for (size_t i = 0; i < sizeof(packages) / sizeof(packages[0]); i++)
        if (begins(name, packages[i].package))
            return version > 0 && version <= packages[i].last;
    return false;
}

static bool is_missing(const struct check *c, const struct item *item) {
    if (item->is_component)
        return item->kind != COMPONENT_TYPE && !is_provided(item->name);
#ifdef WASMSHIM_WASMTIME_FULL
    // Made for each guest; what it says if they are not allowed is an engine's.
    if ((item->kind == MODULE_MEMORY && item->is_shared) ||
        (is(item->module, "wasi") && is(item->name, "thread-spawn")))
        return false;
#endif
    wasmtime_extern_t found;
    if (!wasmtime_linker_get(c->linker, c->g->context, item->module.bytes, item->module.size, item->name.bytes,
                             item->name.size, &found))
        return true;
    wasmtime_extern_delete(&found);
    return false;
}

// Says whether entry is INSTANCE.FUNCTION of an exported instance, by its first part.
static bool has_function(const struct item *item, const char *entry) {
    const char *dot = strrchr(entry, '.');
    return item->kind == COMPONENT_INSTANCE && dot != NULL && item->name.size == (size_t)(dot - entry) &&
           memcmp(item->name.bytes, entry, item->name.size) == 0;
}

static void visit_export(struct check *c, const struct item *item) {
    static const char command[] = "wasi:cli/run@";
    bool is_func = item->kind == (item->is_component ? COMPONENT_FUNC : MODULE_FUNC);
    if (item->is_component || is_func) {
        char name[128];
        if (c->used < sizeof(c->exports))
            c->used += (size_t)snprintf(c->exports + c->used, sizeof(c->exports) - c->used, "%s%s",
                                        c->used > 0 ? ", " : "", printable(item->name, name, sizeof(name)));
    }
    bool is_default = c->entry == NULL || strcmp(c->entry, "_start") == 0;
    if (c->entry == NULL ? is_func : is(item->name, c->entry) || has_function(item, c->entry)) {
        c->has_entry = true;
    } else if (item->is_component && is_default) {
        if (wasi_version(item->name.bytes, item->name.size, "wasi:cli/run") > 0 || is_served(item->name))
            c->has_entry = true;
        else if (begins(item->name, command))
            c->run = item->name;
        else if (begins(item->name, "wasi:http/") || begins(item->name, "wasmcloud:"))
            c->serves = item->name;
    }
}

static void visit(void *data, const struct item *item) {
    struct check *c = data;
    if (item->is_component && (begins(item->name, "fermyon:spin/") || begins(item->name, "spin:")))
        c->spin = item->name;
    if (!item->is_import) {
        visit_export(c, item);
    } else if (!c->has_missing && is_missing(c, item)) {
        c->has_missing = true;
        c->missing = *item;
    }
}

#define THREADS                                                                                                        \
    "it is built for threads, which guests have with wasmtime's full library alone; build it for one (target "         \
    "wasm32-wasip1)"
#define BROWSER "it is built for a browser; build it for WASI (target wasm32-wasip1)"

// Who imports what, and what to do. The first that fits counts.
static const struct {
    const char *module;
    const char *name; // how it begins
    const char *advice;
} known[] = {
    {"env", "abort", "it is AssemblyScript, built without WASI; build it with @assemblyscript/wasi-shim"},
    {"env", "emscripten_", "it is built by Emscripten for a browser; build it with -sSTANDALONE_WASM"},
    {"env", "memory", THREADS}, // one that is shared
    {"wasi", "thread-spawn", THREADS},
    {"wasi_unstable", "", "that is WASI of before preview 1; build it with a current toolchain (target wasm32-wasip1)"},
    {"wasi_snapshot_preview1", "sock_", "that is one of WasmEdge's sockets; this engine has no network for modules"},
    {"gojs", "", "it is built for a browser; build it with GOOS=wasip1"},
    {"go", "", "it is built for a browser; build it with GOOS=wasip1"},
    {"__wbindgen_placeholder__", "", BROWSER},
    {"wbg", "", BROWSER},
};

static const char *advice_on(const struct item *item) {
    if (item->is_component) {
        if (begins(item->name, "wasi:http/"))
            return "this engine gives guests no HTTP; a guest in JavaScript is built without by --disable http";
        if (begins(item->name, "wasi:"))
            return "this engine has cli, clocks, filesystem, io, random and sockets of " WASI;
        return "this engine has " WASI " and nothing else";
    }
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        bool fits = is(item->module, known[i].module) && begins(item->name, known[i].name);
        if (fits && (item->kind != MODULE_MEMORY || item->is_shared))
            return known[i].advice;
    }
    return "this engine has wasi_snapshot_preview1 and nothing else";
}

static int32_t refuse_entry(const struct check *c) {
    char name[128];
    struct guest *g = c->g;
    if (c->run.size > 0)
        return fail(g, WASM_SHIM_ERROR_LOAD, "%s exports %s, which this engine does not run yet; accepted: " COMMANDS,
                    g->path, printable(c->run, name, sizeof(name)));
    if (c->serves.size > 0)
        return fail(g, WASM_SHIM_ERROR_LOAD, "%s is a server (it exports %s), " NOT_SERVED "; accepted: " COMMANDS,
                    g->path, printable(c->serves, name, sizeof(name)));
    const char *exports = c->used > 0 ? c->exports : "none";
    if (c->is_component && (c->entry == NULL || strcmp(c->entry, "_start") == 0))
        return fail(g, WASM_SHIM_ERROR_LOAD, "%s does not export " COMMANDS "; its exports: %s", g->path, exports);
    if (c->entry == NULL)
        return fail(g, WASM_SHIM_ERROR_LOAD, "%s exports no function", g->path);
    return fail(g, WASM_SHIM_ERROR_LOAD, "%s has no export \"%s\"; exported functions: %s", g->path, c->entry, exports);
}

static int32_t judge(const struct check *c) {
    char module[128], name[128];
    struct guest *g = c->g;
    if (c->spin.size > 0)
        return fail(g, WASM_SHIM_ERROR_LOAD, "%s is built for Spin (%s), and only Spin runs it; accepted: " COMMANDS,
                    g->path, printable(c->spin, name, sizeof(name)));
    if (!c->has_entry)
        return refuse_entry(c);
    if (!c->has_missing)
        return WASM_SHIM_OK;
    printable(c->missing.name, name, sizeof(name));
    if (c->is_component)
        return fail(g, WASM_SHIM_ERROR_LOAD, "%s imports %s: %s", g->path, name, advice_on(&c->missing));
    return fail(g, WASM_SHIM_ERROR_LOAD, "%s imports %s::%s: %s", g->path,
                printable(c->missing.module, module, sizeof(module)), name, advice_on(&c->missing));
}

int32_t check_items(struct guest *g, const char *entry) {
    struct check c = {
        .g = g, .entry = entry, .is_component = is_component(g), .linker = wasmtime_linker_new(g->engine)};
    wasmtime_error_t *error = define_wasi(g, c.linker);
    if (error != NULL)
        return fail_with(g, WASM_SHIM_ERROR, error, "cannot set up WASI");
    bool understood = visit_items(g->bytes, g->size, visit, &c);
    wasmtime_linker_delete(c.linker);
    return understood ? judge(&c) : WASM_SHIM_OK;
}
